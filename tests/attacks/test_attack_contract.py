"""Every attack of every suite against models whose smallest adversarial distance is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import Attack, AttackResult, find_attack, suite_attacks
from absynth.attacks.adapter import FoolboxAttack, foolbox_class
from absynth.attacks.auto_attack import AutoAttack
from absynth.attacks.gradient_descent import FastGradient, ProjectedGradient
from absynth.attacks.gradient_estimation import WithEstimatedGradient
from absynth.attacks.sparse import SparseSearch
from absynth.attacks.transfer import Transfer
from absynth.errors import AbsynthError
from absynth.norms import NORMS, Norm, distance

SIDE = 5
IMAGES = 6


def linear_model(classes: int) -> nn.Sequential:
    """A linear classifier that decides for class 0 in the middle of the box, a few pixels from the others."""
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, classes))
    linear = model[1]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, SIDE * SIDE, generator=generator))
        linear.bias.copy_(-linear.weight.sum(dim=1) / 2)
        linear.bias[0] += 4
    return model


def by_foolbox(name: str, norm: Norm, kind: str, needs_start: bool = False, **parameters: object) -> Attack:
    """A foolbox attack with settings for a test."""
    return FoolboxAttack(name, norm, foolbox_class(kind, **parameters), needs_start=needs_start)


def of_other_suites(norm: Norm) -> list[Attack]:
    """What is not in the quick suite and applies to any model, with settings for a test."""
    if norm == "l0":
        return [SparseSearch("sparse-search", queries=400, start_queries=50)]
    if norm == "l1":
        return []
    steps = FastGradient("fgm", norm), ProjectedGradient("bim", norm, steps=5, runs=3, relative_step=0.4)
    deepfool = find_attack("deepfool", norm, "quick")
    hop = {"steps": 5, "initial_gradient_eval_steps": 20, "constraint": norm}
    attacks = [
        Transfer("transfer", norm, linear_model(3), (*steps, deepfool)),
        WithEstimatedGradient(steps[0], method="coordinates"),
        WithEstimatedGradient(deepfool, method="coordinates"),
        WithEstimatedGradient(steps[1], samples=10),
        AutoAttack("auto-attack", norm, sizes=(1.0 if norm == "l2" else 0.2,)),
        by_foolbox("hop-skip-jump", norm, "HopSkipJumpAttack", needs_start=True, **hop),
    ]
    if norm == "l2":
        search = {"binary_search_steps": 3, "steps": 60, "stepsize": 0.05, "abort_early": False}
        attacks.append(
            by_foolbox("carlini-wagner", norm, "L2CarliniWagnerAttack", initial_const=1.0, **search)
        )
    return attacks


def of_others(attack: object) -> bool:
    """Whether an attack is another package's or has one within, whose tensors are made as that sees fit."""
    inner = getattr(attack, "attacks", ()) or (getattr(attack, "attack", None),)
    return any(isinstance(one, FoolboxAttack | AutoAttack) for one in (attack, *inner))


EVERY = [
    pytest.param(attack, id=f"{norm}-{attack.name}")
    for norm in NORMS
    for attack in (*suite_attacks("quick", norm), *of_other_suites(norm))
]
OWN = [param for param in EVERY if not of_others(param.values[0])]
CLOSE: dict[tuple[str, str], float] = {
    ("l2", "fgm"): 1.3,
    ("l2", "bim"): 1.15,
    ("l2", "pgd"): 1.05,
    ("l2", "deepfool"): 1.01,
    ("l2", "ddn"): 1.05,
    ("l2", "fmn"): 1.01,
    ("l2", "boundary"): 1.6,
    ("l2", "pointwise"): 2.0,
    ("l2", "fgm-estimated"): 1.3,
    ("l2", "deepfool-estimated"): 1.01,
    ("l2", "bim-estimated"): 1.4,
    ("l2", "hop-skip-jump"): 1.6,
    ("l2", "carlini-wagner"): 1.05,
    ("l2", "auto-attack"): 1.2,
    ("linf", "fgsm"): 1.2,
    ("linf", "bim"): 1.2,
    ("linf", "pgd"): 1.1,
    ("linf", "mim"): 1.2,
    ("linf", "deepfool"): 1.01,
    ("linf", "fmn"): 1.01,
    ("linf", "fgm-estimated"): 1.2,
    ("linf", "deepfool-estimated"): 1.01,
    ("linf", "bim-estimated"): 1.4,
    ("linf", "hop-skip-jump"): 1.6,
    ("linf", "auto-attack"): 1.2,
    ("l1", "bim"): 1.1,
    ("l1", "pgd"): 1.2,
    ("l1", "fmn"): 1.01,
    ("l1", "pointwise"): 2.0,
    ("l0", "fmn"): 1.0,
    ("l0", "pointwise"): 1.5,
    ("l0", "sparse-search"): 1.0,
}
"""How far above the true minimum the median may be; random noise may fail, and has no entry."""


def batch() -> Tensor:
    """Images around the middle of the box, so that it does not bind in L2 and Linf."""
    generator = torch.Generator().manual_seed(0)
    return 0.5 + 0.1 * (torch.rand(IMAGES, 1, SIDE, SIDE, generator=generator) - 0.5)


def true_minimum(model: nn.Sequential, images: Tensor, labels: Tensor, norm: Norm) -> list[float]:
    """The smallest adversarial distance of each image, over the half-spaces of all rival classes."""
    linear = model[1]
    assert isinstance(linear, nn.Linear)
    weight, logits = linear.weight.detach().double(), model(images).detach().double()
    minima = []
    for image, label, row in zip(images.flatten(1).double(), labels.tolist(), logits, strict=True):
        best = math.inf
        for rival in range(len(weight)):
            if rival != label:
                slope, margin = weight[rival] - weight[label], float(row[label] - row[rival])
                best = min(best, half_space(image, slope, margin, norm))
        minima.append(best)
    return minima


def half_space(image: Tensor, slope: Tensor, margin: float, norm: Norm) -> float:
    """The least size of a perturbation within the box whose product with ``slope`` is ``margin``."""
    if norm == "l2":
        return margin / float(slope.norm())
    if norm == "linf":
        return margin / float(slope.abs().sum())
    room = torch.where(slope > 0, 1 - image, image)
    spent = 0.0
    # L1 fills the steepest pixels first; L0 those of the largest gain
    order = (slope.abs() if norm == "l1" else slope.abs() * room).argsort(descending=True)
    for pixel in order.tolist():
        gain = float(slope[pixel].abs() * room[pixel])
        if gain >= margin:
            return spent + (1.0 if norm == "l0" else margin / float(slope[pixel].abs()))
        margin -= gain
        spent += 1.0 if norm == "l0" else float(room[pixel])
    return math.inf


def check(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, result: AttackResult) -> None:
    """What holds for every result of every attack."""
    assert result.adversarials.shape == images.shape
    assert result.distances.dtype == torch.float64
    assert result.success.dtype == torch.bool
    assert result.queries.dtype == torch.int64
    assert (result.queries >= 1).all()
    assert result.adversarials.isfinite().all()
    assert result.adversarials.amin() >= 0
    assert result.adversarials.amax() <= 1
    assert (result.distances.isfinite() == result.success).all()
    with torch.no_grad():
        assert ((model(result.adversarials).argmax(dim=1) != labels) == result.success).all()
    measured = distance(images, result.adversarials, norm)
    assert torch.equal(result.distances[result.success], measured[result.success])
    assert torch.equal(result.adversarials[~result.success], images[~result.success])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("attack", EVERY)
def test_never_beats_the_true_minimum_and_comes_close(attack: Attack, classes: int) -> None:
    model, images = linear_model(classes), batch()
    labels = model(images).argmax(dim=1)
    result = attack(model, images, labels, seed=3)
    check(model, images, labels, attack.norm, result)
    minimum = torch.tensor(true_minimum(model, images, labels, attack.norm), dtype=torch.float64)
    ratios = result.distances / minimum
    assert ratios.amin() >= 1 - 1e-4
    if (attack.norm, attack.name) in CLOSE:
        assert result.success.all()
        assert ratios.median() <= CLOSE[attack.norm, attack.name]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


class Constant(nn.Module):
    """Answers class 0 to everything, with logits that the images do not enter."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0, -1.0]]).repeat(len(images), 1)


@pytest.mark.usefixtures("short_auto_attack")
@pytest.mark.parametrize("attack", EVERY)
def test_a_model_that_is_never_fooled(attack: Attack) -> None:
    images = batch()
    labels = torch.zeros(IMAGES, dtype=torch.int64)
    result = attack(Constant(), images, labels)
    check(Constant(), images, labels, attack.norm, result)
    assert not result.success.any()
    assert result.distances.isinf().all()


@pytest.mark.parametrize("attack", EVERY)
def test_a_clean_image_misclassified_already_is_at_distance_zero(attack: Attack) -> None:
    model, images = linear_model(3), batch()
    labels = model(images).argmax(dim=1)
    labels[::2] = (labels[::2] + 1) % 3
    result = attack(model, images, labels)
    check(model, images, labels, attack.norm, result)
    assert (result.distances[::2] == 0).all()
    assert torch.equal(result.adversarials[::2], images[::2])
    assert (result.queries[::2] == 1).all()
    assert (result.distances[1::2] > 0).all()


@pytest.mark.parametrize("attack", EVERY)
def test_the_seed_decides_and_the_global_generators_are_untouched(attack: Attack) -> None:
    model, images = linear_model(3), batch()
    labels = model(images).argmax(dim=1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    first = attack(model, images, labels, seed=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))
    torch.rand(3)
    second = attack(model, images, labels, seed=5)
    assert torch.equal(first.adversarials, second.adversarials)
    assert torch.equal(first.queries, second.queries)


@pytest.mark.parametrize("attack", OWN)
def test_every_tensor_is_made_on_the_device_of_the_images(attack: Attack) -> None:
    model, images = linear_model(3), batch()
    labels = model(images).argmax(dim=1)
    expected = attack.search(model, images, labels)
    # A tensor that is made without saying where would be on this device, and could not meet the others.
    with torch.device("meta"):
        result = attack.search(model, images, labels)
    for name in ("adversarials", "distances", "success", "queries"):
        assert torch.equal(getattr(result, name), getattr(expected, name)), name


@pytest.mark.parametrize("norm", NORMS)
def test_colour_images_and_double_precision(norm: Norm) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 3)).double()
    images = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    labels = model(images).argmax(dim=1)
    for attack in suite_attacks("quick", norm):
        result = attack(model, images, labels)
        assert result.adversarials.dtype == torch.float64
        check(model, images, labels, norm, result)


def test_a_saturated_softmax_hides_nothing() -> None:
    """Logits a thousand times larger move no boundary, and may not move the distances either."""
    model, images = linear_model(3), batch()
    labels = model(images).argmax(dim=1)
    steep = nn.Sequential(model, nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        steep[1].weight.copy_(1000 * torch.eye(3))
    for attack in (*suite_attacks("quick", "l2"), *suite_attacks("quick", "linf")):
        plain, hidden = attack(model, images, labels), attack(steep, images, labels)
        torch.testing.assert_close(hidden.distances, plain.distances, rtol=0.1, atol=0, equal_nan=True)


def test_the_model_is_attacked_in_evaluation_mode_and_given_back_as_it_was() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(SIDE * SIDE), nn.Dropout(0.9), nn.Linear(SIDE * SIDE, 2)
    )
    model[1].eval()
    images = batch()
    with torch.no_grad():
        statistics = model[1].running_mean.clone()
        labels = model.eval()(images).argmax(dim=1)
    model.train()
    model[1].eval()
    result = suite_attacks("quick", "l2")[0](model, images, labels)
    assert model.training and model[2].training and not model[1].training
    assert torch.equal(model[1].running_mean, statistics)
    check(model.eval(), images, labels, "l2", result)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.full((2, 1, SIDE, SIDE), math.nan), torch.zeros(2).long(), "contain NaN"),
        (
            torch.full((2, 1, SIDE, SIDE), 2.0),
            torch.zeros(2).long(),
            r"the value 2, .*scale the images to \[0, 1\]",
        ),
        (torch.full((2, 1, SIDE, SIDE), -0.1), torch.zeros(2).long(), r"scale the images to \[0, 1\]"),
        (torch.zeros(2, SIDE, SIDE), torch.zeros(2).long(), "batch, channel, height, width"),
        (torch.zeros(0, 1, SIDE, SIDE), torch.zeros(0).long(), "at least one image"),
        (torch.zeros(2, 1, SIDE, SIDE).byte() + 2, torch.zeros(2).long(), "takes floats"),
        (torch.zeros(2, 1, SIDE, SIDE), torch.zeros(3).long(), "whole numbers of shape"),
        (torch.zeros(2, 1, SIDE, SIDE), torch.full((2,), 0.5), "whole numbers of shape"),
        (torch.zeros(2, 1, SIDE, SIDE), torch.tensor([0, 7]), "the model has the classes 0 to 1"),
        (torch.zeros(2, 1, SIDE, SIDE), torch.tensor([0, -1]), "the model has the classes 0 to 1"),
    ],
)
def test_bad_input_ends_with_a_clear_sentence(images: Tensor, labels: Tensor, sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        suite_attacks("quick", "l2")[0](linear_model(2), images, labels)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(nn.Identity(), "logits of shape"), (nn.Flatten(start_dim=0), "logits of shape"), (None, "contain NaN")],
)
def test_a_model_that_answers_nonsense(model: nn.Module | None, sentence: str) -> None:
    broken = linear_model(2)
    with torch.no_grad():
        broken[1].bias.fill_(math.nan)
    with pytest.raises(AbsynthError, match=sentence):
        suite_attacks("quick", "l2")[0](model or broken, batch(), torch.zeros(IMAGES).long())
