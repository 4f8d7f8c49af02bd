"""Transfer: with the model itself as substitute it loses nothing, with another one it is still verified."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import find_attack
from absynth.attacks.gradient_descent import FastGradient
from absynth.attacks.transfer import Transfer, fingerprint
from absynth.data.domain import Domain
from absynth.errors import AbsynthError
from absynth.models.cnn import CNN
from absynth.norms import Norm

SIDE = 5


def network(seed: int) -> nn.Sequential:
    """A linear classifier of random weights, with a boundary near the middle of the box."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3))
    with torch.no_grad():
        model[1].bias.copy_(-model[1].weight.sum(dim=1) / 2)
        model[1].bias[0] += 0.3
    return model


def batch() -> Tensor:
    return 0.5 + 0.1 * (torch.rand(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) - 0.5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_with_the_model_as_its_own_substitute_nothing_is_lost(norm: Norm) -> None:
    model, images = network(0), batch()
    labels = model(images).argmax(dim=1)
    deepfool = find_attack("deepfool", norm, "quick")
    own = deepfool(model, images, labels)
    transferred = Transfer("transfer", norm, model, (deepfool, FastGradient("fgm", norm)))(
        model, images, labels
    )
    assert transferred.success.all()
    assert (transferred.distances <= 1.01 * own.distances).all()


def test_directions_are_scaled_to_the_boundary_of_the_model_under_test() -> None:
    """Twins but for the bias: the directions are right, the lengths are not."""
    model, near, images = network(0), network(0), batch()
    labels = model(images).argmax(dim=1)
    with torch.no_grad():
        near[1].bias[0] -= 0.2
    assert torch.equal(near(images).argmax(dim=1), labels)
    fgm = FastGradient("fgm", "l2")
    result = Transfer("transfer", "l2", near, (fgm,))(model, images, labels)
    assert result.success.all()
    assert (result.distances > 1.5 * fgm(near, images, labels).distances).all()
    inside = images + 0.99 * (result.adversarials - images)
    assert torch.equal(model(inside).argmax(dim=1), labels)


def test_only_queries_of_the_model_under_test_count_and_images_the_substitute_misses_are_left() -> None:
    model, images = network(0), batch()
    labels = model(images).argmax(dim=1)

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.one_hot((labels[: len(images)] + 1) % 3, 3).float()

    result = Transfer("transfer", "l2", Wrong(), (FastGradient("fgm", "l2"),))(model, images, labels)
    assert not result.success.any()
    # the clean image, and what the caller asks to verify the answer
    assert (result.queries <= 4).all()


def test_a_substitute_from_the_zoo_is_loaded_when_it_is_needed() -> None:
    transfer = Transfer("transfer", "l2", "cnn", (FastGradient("fgm", "l2"),))
    assert transfer.settings["substitute"] == "cnn"
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    images = torch.rand(2, 1, 28, 28)
    result = transfer(model, images, model(images).argmax(dim=1))
    assert len(result) == 2
    nowhere = Transfer("transfer", "l2", "no-such-model", (FastGradient("fgm", "l2"),))
    with pytest.raises(AbsynthError, match="no model 'no-such-model'"):
        nowhere(model, images, model(images).argmax(dim=1))


def test_a_named_substitute_is_for_models_of_its_data() -> None:
    transfer = Transfer("transfer", "l2", "cnn", (FastGradient("fgm", "l2"),))
    model = CNN()
    assert transfer.applies_to(model)
    model.domain = Domain(tuple("abcdefghij"), (28, 28))
    assert not transfer.applies_to(model)
    assert replace(transfer, substitute=CNN()).applies_to(model)


def test_settings_tell_substitutes_apart() -> None:
    attacks = (FastGradient("fgm", "l2"),)
    first, second = (Transfer("transfer", "l2", network(seed), attacks).settings for seed in (0, 1))
    assert first != second
    assert first == Transfer("transfer", "l2", network(0), attacks).settings
    assert json.loads(json.dumps(first)) == first
    assert fingerprint(network(0)) == fingerprint(network(0))


@pytest.mark.parametrize(
    ("norm", "attacks"),
    [("l2", ()), ("l2", (FastGradient("fgsm", "linf"),)), ("l0", (find_attack("fmn", "l0", "quick"),))],
)
def test_attacks_that_do_not_fit(norm: Norm, attacks: tuple[FastGradient, ...]) -> None:
    with pytest.raises(AbsynthError, match="needs attacks in"):
        Transfer("transfer", norm, network(0), attacks)
