"""The checks must be able to fail: bounds broken on purpose are caught."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.certify import branching, certify, codebook, mixture, scan, search
from absynth.certify.codebook import Codebook
from absynth.certify.front import Pixelwise
from absynth.certify.mixture import Duels
from absynth.models.front import Clamped
from absynth.norms import NORMS


def violations(
    toolbox: Any, classifier: nn.Module, model: Any, images: Tensor, norm: str, binary: bool
) -> int:
    """How many radii are larger than the brute-force minimum allows."""
    oracle = toolbox.oracle(model)
    labels = classifier(images).argmax(1)
    result = certify(classifier, images, labels, norm)
    count = 0
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        truth = (oracle.binary if binary else oracle.exact)(image, int(label), norm)
        count += bool(radius > max(truth - 1 if norm == "l0" else truth, 0) + 1e-6)
    return count


def drop_the_factor(duels: Duels, choice: Tensor) -> Tensor:
    return duels.rival - duels.own[torch.arange(len(choice)), choice].double()


@pytest.mark.parametrize("norm", NORMS)
def test_a_dropped_factor_two_is_caught(toolbox: Any, monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    model = toolbox.random_codebook(1, classes=3, count=3, pixels=6)
    images = toolbox.random_images(1, 6, 2, 3)
    assert violations(toolbox, model, model, images, norm, binary=False) == 0
    monkeypatch.setattr(mixture.Duels, "gradient", drop_the_factor)
    assert violations(toolbox, model, model, images, norm, binary=False) > 0


def test_a_dropped_box_sign_is_caught(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toolbox.random_codebook(2, classes=3, count=3, pixels=6)
    images = toolbox.random_images(2, 6, 2, 3)
    assert violations(toolbox, model, model, images, "l1", binary=False) == 0
    monkeypatch.setattr(
        Pixelwise, "room", lambda self, gradient, image: torch.where(gradient > 0, image, 1 - image)
    )
    assert violations(toolbox, model, model, images, "l1", binary=False) > 0


def test_a_dead_zone_counted_twice_is_caught(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a black pixel between prototypes at 0.2 and 0.6, seen as 0.2, 0.2 changes nothing and 0.4 decides.
    model = toolbox.codebook(torch.tensor([[[0.2]], [[0.6]]]), torch.zeros(2, 1))
    black, label = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    truth = toolbox.oracle(model).grid(black.flatten().double().numpy(), 0, "linf", 101, 0.2)
    assert truth == pytest.approx(0.4, abs=0.02)
    for norm in ("l2", "linf"):
        assert float(certify(Clamped(model, 0.2), black, label, norm).radius) == pytest.approx(0.4, abs=1e-4)
    once = Pixelwise.dead
    monkeypatch.setattr(Pixelwise, "dead", lambda self, gradient, image: 2 * once(self, gradient, image))
    for norm in ("l2", "linf"):
        assert float(certify(Clamped(model, 0.2), black, label, norm).radius) > 0.5
    assert float(certify(Clamped(model, 0.2), black, label, "linf", exact=True).radius) > 0.5


def no_forward_slack(self: Codebook, own_score: Tensor) -> Tensor:
    return torch.zeros_like(own_score)


@pytest.fixture
def large_offsets(toolbox: Any) -> Any:
    """Prototypes whose float32 scores are off by up to 1/16, because their offsets are 2²⁰.

    From the black image the rival of norm² 0.07 is nearer (0.132) than that of norm² 0.16 (0.2). In float32
    the first one's score rounds up to 0.125 more than the own one's, which puts it at 0.236.
    """
    images = torch.zeros(3, 1, 2)
    images[1, 0, 0] = 0.07**0.5
    images[2, 0, 1] = 0.4
    return toolbox.codebook(images, torch.full((3, 1), 2.0**20))


def test_removed_pruning_slack_is_caught(
    toolbox: Any, large_offsets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The forward's own slack is as large as the radius here and would hide the matter.
    monkeypatch.setattr(codebook.Codebook, "slack", no_forward_slack)
    black = torch.zeros(1, 1, 1, 2)
    assert violations(toolbox, large_offsets, large_offsets, black, "l2", binary=False) == 0
    for module in (scan, search):
        monkeypatch.setattr(module, "prune_slack", lambda book: torch.zeros_like(book.errors))
    assert violations(toolbox, large_offsets, large_offsets, black, "l2", binary=False) == 1


def test_removed_forward_slack_is_caught(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Exactly, black stays with class 1 up to 0.132. In float32 a little less black ties, and class 0 wins.
    images = torch.zeros(2, 1, 2)
    images[0, 0, 0] = 0.07**0.5
    model = toolbox.codebook(images, torch.full((2, 1), 2.0**20))
    black, changed, label = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), torch.tensor([1])
    changed[..., 0] = 0.03
    assert int(model(black).argmax()) == 1
    assert int(model(changed).argmax()) == 0
    assert float(certify(model, black, label, "l2").radius) == 0
    monkeypatch.setattr(codebook.Codebook, "slack", no_forward_slack)
    assert float(certify(model, black, label, "l2").radius) > 0.03


def test_a_fee_counted_twice_is_caught(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toolbox.codebook(torch.tensor([[[0.2]], [[0.6]]]), torch.zeros(2, 1))
    black, label = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    for norm in ("l2", "l1"):
        radius = certify(Clamped(model, 0.2), black, label, norm, exact=True).radius
        assert float(radius) == pytest.approx(0.4, abs=1e-3)
    once = branching.fees_of

    def twice(contest: Any) -> Any:
        fees = once(contest)
        return replace(fees, fee=2 * fees.fee)

    monkeypatch.setattr(branching, "fees_of", twice)
    assert float(certify(Clamped(model, 0.2), black, label, "l2", exact=True).radius) > 0.41
