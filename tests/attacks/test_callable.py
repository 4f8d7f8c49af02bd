"""Attacks of others: counted, held to their budget, and believed only where the model agrees."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from collections.abc import Callable as Function
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import absynth
from absynth.attacks import AttackResult, Callable, find_attack
from absynth.attacks.conventions import name_of
from absynth.attacks.gradient_descent import ProjectedGradient
from absynth.attacks.gradient_estimation import WithEstimatedGradient
from absynth.errors import AbsynthError
from absynth.norms import NORMS, Norm, distance

SIDE = 4
IMAGES = 5
WEIGHT = torch.arange(1.0, SIDE * SIDE + 1) * torch.tensor([1.0, -1.0]).repeat(SIDE * SIDE // 2)
MARGIN = 20.0
"""Of grey images, which the weights leave no room to fool by less than half a pixel."""

MINIMA: dict[Norm, float] = {
    "l2": MARGIN / float(WEIGHT.norm()),
    "linf": MARGIN / float(WEIGHT.abs().sum()),
    # the steepest pixels, each by at most one half
    "l1": 0.5 + 0.5 + (MARGIN - 0.5 * (16 + 15)) / 14,
    "l0": 3,
}


class Counted(nn.Module):
    """A linear model of two classes that counts what it is asked, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([torch.zeros_like(WEIGHT), WEIGHT]))
        self.bias = nn.Parameter(torch.tensor([0.0, -float(WEIGHT.sum()) / 2 - MARGIN]))
        self.asked = 0
        self.differentiated = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        if images.requires_grad:
            images.register_hook(self._differentiate)
        return nn.functional.linear(images.flatten(1), self.weight, self.bias)

    def _differentiate(self, gradient: Tensor) -> None:
        self.differentiated += len(gradient)


@pytest.fixture
def model() -> Counted:
    return Counted()


@pytest.fixture
def images() -> Tensor:
    """Grey ones, each with a tint of its own that is orthogonal to the weights and leaves all margins."""
    noise = torch.randn(IMAGES, SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    noise -= (noise @ WEIGHT)[:, None] * WEIGHT / WEIGHT.square().sum()
    return (0.5 + 0.01 * noise).view(IMAGES, 1, SIDE, SIDE)


LABELS = torch.zeros(IMAGES, dtype=torch.int64)


def gap(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0]


def exact(model: nn.Module, images: Tensor, labels: Tensor, factor: float = 1.0001) -> Tensor:
    """The smallest adversarial in L2 of a linear model, from one gradient."""
    images.requires_grad_()
    margin = gap(model(images))
    (slope,) = torch.autograd.grad(margin.sum(), images)
    step = -margin / slope.flatten(1).square().sum(1)
    return images.detach() + factor * step.detach()[:, None, None, None] * slope


def walk(model: nn.Module, images: Tensor, labels: Tensor, step: float = 0.1, steps: int = 10_000) -> Tensor:
    """Goes on along the weights by steps of a known length, as long as it may, and returns nothing of use."""
    direction = (WEIGHT / WEIGHT.norm()).view(1, 1, SIDE, SIDE)
    with torch.no_grad():
        for number in range(1, steps + 1):
            model(images + number * step * direction)
    return images


def test_an_exact_attack_finds_the_known_minimum_and_every_pass_is_counted(
    model: Counted, images: Tensor
) -> None:
    result = Callable(exact, "l2")(model, images, LABELS)
    assert result.success.all()
    torch.testing.assert_close(
        result.distances, torch.full_like(result.distances, MINIMA["l2"]), rtol=2e-4, atol=0
    )
    # the clean image, the attack's own question, and two looks at what it returned
    assert result.queries.tolist() == [4] * IMAGES
    assert result.backwards.tolist() == [1] * IMAGES
    assert result.seconds > 0
    assert result.remarks == ()
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("norm", NORMS)
def test_no_attack_beats_the_known_minimum(model: Counted, images: Tensor, norm: Norm) -> None:
    for attack in (exact, partial(walk, steps=2 * STEPS), partial(exact, factor=1.5)):
        result = absynth.attack(model, images, LABELS, norm, attacks=[attack])
        assert (result.distances >= MINIMA[norm] * (1 - 1e-2)).all()
        assert torch.equal(result.distances, distance(images, result.adversarials, norm))
        assert (model(result.adversarials).argmax(1) == 1).all()


def test_passes_are_counted_as_the_model_itself_counts_them(model: Counted, images: Tensor) -> None:
    def jacobian(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        images.requires_grad_()
        for _ in range(3):
            logits = model(images)
            for column in range(2):
                logits[:, column].sum().backward(retain_graph=True)
        return images + 0.3 * images.grad.sign()

    attacks: list[Any] = [
        Callable(jacobian, "linf"),
        Callable(partial(walk, steps=7), "linf"),
        find_attack("bim", "linf", "quick"),
        find_attack("ddn", "l2", "quick"),
        find_attack("deepfool", "l2", "quick"),
        WithEstimatedGradient(ProjectedGradient("bim", "l2", steps=2, runs=2, relative_step=0.5), samples=4),
    ]
    for attack in attacks:
        model.asked = model.differentiated = 0
        result = attack.search(model, images, LABELS)
        assert int(result.queries.sum()) == model.asked, attack.name
        assert int(result.backwards.sum()) == model.differentiated, attack.name
    result = attacks[0].search(model, images, LABELS)
    assert result.backwards.tolist() == [6] * IMAGES


STEPS = int(np.ceil(MINIMA["l2"] / 0.1))
"""After which the walk is through."""


@pytest.mark.parametrize("budget", [1, STEPS - 1, STEPS, STEPS + 20])
def test_a_budget_ends_the_attack_and_keeps_what_it_asked_about_before(
    model: Counted, images: Tensor, budget: int
) -> None:
    result = Callable(walk, "l2", budget=budget).search(model, images, LABELS)
    own = 1 + 1 + int(not result.success.all()) * 2  # clean, what was returned, and up to three looks at that
    assert budget < int(result.queries[0]) <= budget + own + 1
    assert model.asked == int(result.queries.sum())
    assert bool(result.success.all()) == (budget >= STEPS)
    if budget >= STEPS:
        torch.testing.assert_close(
            result.distances, torch.full_like(result.distances, STEPS * 0.1), rtol=1e-4, atol=0
        )


def test_backward_passes_are_part_of_the_budget(model: Counted, images: Tensor) -> None:
    def descend(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        points = images
        while True:
            points = points.detach().requires_grad_()
            (slope,) = torch.autograd.grad(gap(model(points)).sum(), points)
            points = points + 1e-4 * slope.sign()

    result = Callable(descend, "linf", budget=9).search(model, images, LABELS)
    assert not result.success.any()
    assert result.backwards.tolist() == [4] * IMAGES
    assert model.differentiated == 4 * IMAGES


def test_an_attack_that_goes_on_after_its_budget_gains_nothing(model: Counted, images: Tensor) -> None:
    def stubborn(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        for _ in range(50):
            with contextlib.suppress(BaseException):
                model(images)
        return images + 0.5

    result = Callable(stubborn, "linf", budget=5).search(model, images, LABELS)
    assert not result.success.any()
    assert model.asked == int(result.queries.sum())
    assert int(result.queries[0]) <= 5 + 5


def test_one_image_cannot_use_up_what_is_allowed_for_all(model: Counted, images: Tensor) -> None:
    direction = (WEIGHT / WEIGHT.norm()).view(1, 1, SIDE, SIDE)

    def greedy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Asks about the first image in the place of every other."""
        lengths = 0.04 * torch.arange(1, 1 + 2 * len(images))
        points = images[:1] + lengths[:, None, None, None] * direction
        model(points[: len(images)])
        model(points[len(images) :])
        return images[:1] + 0 * images

    apart = images.clone()
    apart[1::2] = 1 - apart[1::2]
    apart[:, 0, 0, 1] += 0.4 * torch.arange(IMAGES) / IMAGES
    apart[:, 0, 0, 0] += 0.8 * torch.arange(IMAGES) / IMAGES / 1
    result = Callable(greedy, "l2", budget=2).search(model, apart.clamp(0, 1), LABELS)
    assert any("other images at a time" in remark for remark in result.remarks)
    assert int((result.queries + result.backwards).max()) <= 2 + 5


def cheat(change: Function[[Tensor, Tensor], Any]) -> Function[..., Any]:
    """An attack that returns something made of images and labels, without a question."""

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
        return change(images, labels)

    return attack


def fooling(images: Tensor) -> Tensor:
    return images + 0.2 * WEIGHT.sign().view(1, 1, SIDE, SIDE)


def only_first(value: float) -> Function[[Tensor, Tensor], Tensor]:
    def change(images: Tensor, labels: Tensor) -> Tensor:
        changed = fooling(images)
        changed[0, 0, 0, 0] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "found", "remark"),
    [
        (only_first(torch.nan), [False] + [True] * 4, "returns NaN or infinite pixels for 1 of 5 images"),
        (only_first(torch.inf), [False] + [True] * 4, "returns NaN or infinite pixels for 1 of 5 images"),
        (only_first(-3.0), [True] * 5, "returns pixels outside [0, 1] for 1 of 5 images"),
        # far outside it fools; clipped it is grey again
        (lambda images, _: images * 0 + 0.5 + 1e4 * (images == 2), [False] * 5, None),
        (lambda images, _: fooling(images).numpy().astype(">f8"), [True] * 5, None),
        (lambda images, labels: (labels.add_(1), images)[1], [False] * 5, None),
        (lambda images, _: images.copy_(fooling(images)), [True] * 5, None),
        (lambda images, _: images, [False] * 5, None),
        (lambda images, _: images.mul_(0), [False] * 5, None),
    ],
    ids=["nan", "inf", "outside", "clipped", "array", "labels", "in-place", "nothing", "black"],
)
def test_what_comes_back_is_verified(
    model: Counted, images: Tensor, change: Any, found: list[bool], remark: str | None
) -> None:
    before, labels = images.clone(), LABELS.clone()
    result = Callable(cheat(change), "linf")(model, images, labels)
    assert torch.equal(images, before)
    assert torch.equal(labels, LABELS)
    assert result.success.tolist() == found
    assert ((result.adversarials >= 0) & (result.adversarials <= 1)).all()
    assert torch.equal(model(result.adversarials).argmax(1) == 1, result.success)
    measured = distance(images, result.adversarials, "linf").masked_fill(~result.success, torch.inf)
    assert torch.equal(result.distances, measured)
    assert [one for one in result.remarks if remark and remark in one] == list(result.remarks)
    assert bool(result.remarks) == (remark is not None)


def test_adversarials_on_other_images_count_by_their_true_distance(model: Counted, images: Tensor) -> None:
    result = Callable(cheat(lambda images, _: fooling(images).flip(0)), "linf")(model, images, LABELS)
    expected = distance(images, fooling(images).flip(0), "linf")
    torch.testing.assert_close(result.distances, expected)
    assert (result.distances[[0, 1, 3, 4]] > 0.2 + 1e-3).all()


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (
            cheat(lambda images, _: images[:, :, 1:]),
            r"'attack' answers with torch.float32 values of shape \(5, 1, 3",
        ),
        (cheat(lambda images, _: images.long()), "answers with torch.int64 values of shape"),
        (
            cheat(lambda *_: None),
            "answers with a NoneType; it must return floating-point images of the shape",
        ),
        (
            cheat(lambda images, _: 1 / 0),
            r"raises ZeroDivisionError in line \d+ of test_callable.py: division",
        ),
        (cheat(lambda *_: sys.exit(3)), "raises SystemExit"),
        (lambda model, images, labels: model(images[..., 1:]), r"asks the model about images of shape"),
        (lambda model, images, labels: model(images.numpy()), "raises AttributeError"),
        (lambda model: 3, "was given a model and made a int; give a function of"),
        (lambda model: nn.Linear, "was given a model and made the class Linear"),
    ],
)
def test_an_attack_that_breaks_says_so_in_one_sentence(
    model: Counted, images: Tensor, attack: Any, sentence: str
) -> None:
    with pytest.raises(AbsynthError, match=sentence) as raised:
        Callable(attack, "l2")(model, images, LABELS)
    assert "\n" not in str(raised.value)


def test_images_on_which_it_breaks_do_not_take_the_others_along(model: Counted, images: Tensor) -> None:
    def moody(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if (images[:, 0, 0, 0] == bad).any():
            raise ValueError("not this one")
        return exact(model, images, labels)

    bad = float(images[3, 0, 0, 0])
    result = Callable(moody, "l2")(model, images, LABELS)
    assert result.success.tolist() == [True, True, True, False, True]
    (remark,) = result.remarks
    assert "broke on 1 of 5 images, where it counts as not successful" in remark
    assert "raises ValueError in line" in remark and "not this one" in remark


def test_an_attack_that_breaks_loses_no_other(model: Counted, images: Tensor) -> None:
    result = absynth.attack(model, images, LABELS, "l2", attacks=[exact, cheat(lambda *_: None)])
    assert result.success.all()
    assert any("'attack' broke and does not count for 5 of 5 images" in remark for remark in result.remarks)


def test_an_attack_that_asks_about_few_images_at_a_time_is_run_image_by_image(
    model: Counted, images: Tensor
) -> None:
    def in_turn(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        parts = zip(images.split(2), labels.split(2), strict=True)
        return torch.cat([exact(model, some.clone(), few) for some, few in parts])

    together, apart = (Callable(one, "l2").search(model, images, LABELS) for one in (exact, in_turn))
    torch.testing.assert_close(apart.distances, together.distances)
    assert torch.equal(apart.queries, together.queries)
    assert torch.equal(apart.backwards, together.backwards)
    assert any("it was run image by image" in remark for remark in apart.remarks)


def test_many_points_for_one_image_are_as_many_queries(model: Counted, images: Tensor) -> None:
    def in_a_row(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        direction = (WEIGHT / WEIGHT.norm()).view(1, 1, SIDE, SIDE)
        with torch.no_grad():
            model(torch.cat([images + length * direction for length in torch.arange(8) / 10]))
        return images

    result = Callable(in_a_row, "l2").search(model, images[:1], LABELS[:1])
    assert int(result.queries) == model.asked
    assert float(result.distances) == pytest.approx(0.1 * STEPS, rel=1e-4)


def test_a_single_image_may_be_asked_about_as_often_as_one_likes(model: Counted, images: Tensor) -> None:
    def uneven(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        for count in (0, 1, 3):
            points = images.repeat(count, 1, 1, 1).requires_grad_()
            gap(model(points)).sum().backward()
        return images

    for budget, queries, backwards in ((None, 4, 4), (8, 4, 4), (7, 4, 1), (4, 1, 1)):
        model.asked = model.differentiated = 0
        result = Callable(uneven, "l2", budget=budget).search(model, images[:1], LABELS[:1])
        assert int(result.queries) == model.asked
        assert int(result.queries) - 5 == queries
        assert int(result.backwards) == backwards == model.differentiated


def test_the_model_itself_is_not_to_be_asked(model: Counted, images: Tensor) -> None:
    def past(handed: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return exact(model, images, labels)

    def inside(handed: Any, images: Tensor, labels: Tensor) -> Tensor:
        return exact(handed.model, images, labels)

    def copied(handed: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return exact(copy.deepcopy(handed), images, labels)

    for attack in (past, inside, copied):
        with pytest.raises(AbsynthError, match="asks the model itself and not the one that it is given"):
            Callable(attack, "l2")(model, images, LABELS)
    assert model(images).shape == (IMAGES, 2)  # afterwards it may be

    def function(points: Tensor) -> Tensor:
        return model(points) - 0.0

    with pytest.raises(AbsynthError, match="asks the model itself"):
        Callable(past, "l2")(function, images, LABELS)


def test_neither_mode_nor_weights_of_the_model_are_changed(images: Tensor) -> None:
    model = nn.Sequential(nn.Dropout(0.5), Counted())

    def trains(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model.train()
        assert not any(part.training for part in model.modules())
        return exact(model, images, labels)

    def spoils(model: Any, images: Tensor, labels: Tensor) -> Tensor:
        model.model[1].bias.data += 50
        return images

    model.train()
    assert Callable(trains, "l2")(model, images, LABELS).success.all()
    assert model.training and model[0].training
    before = model[1].bias.detach().clone()
    with pytest.raises(AbsynthError, match="changes the model's weights"):
        Callable(spoils, "l2")(model, images, LABELS)
    assert torch.equal(model[1].bias, before)


def test_the_seed_decides_and_the_global_generators_are_untouched(model: Counted, images: Tensor) -> None:
    def noise(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return images + 0.5 * torch.rand_like(images) * WEIGHT.sign().view(1, 1, SIDE, SIDE)

    state = torch.get_rng_state()
    results = [Callable(noise, "l2")(model, images, LABELS, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(results[0].distances, results[1].distances)
    assert not torch.equal(results[0].distances, results[2].distances)


def test_it_can_run_beside_a_suite(model: Counted, images: Tensor) -> None:
    alone = absynth.attack(model, images, LABELS, "linf", "quick")
    both = absynth.attack(model, images, LABELS, "linf", "quick", attacks=[exact])
    assert (both.queries == alone.queries + 4).all()
    assert (both.distances <= alone.distances).all()
    own = absynth.attack(model, images, LABELS, "linf", attacks=[find_attack("bim", "linf", "quick"), exact])
    assert (own.queries < alone.queries).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"attacks": []}, "no list with at least one"),
        ({"attacks": exact}, r"give attacks=\[my_attack\]"),
        ({"attacks": "exact"}, r"give attacks=\[my_attack\]"),
        ({"attacks": [exact, exact]}, "Two attacks are called 'exact'; give one another name"),
        ({"attacks": ["exact"]}, "An attack was given as a str; give a function of"),
        ({"attacks": [find_attack("bim", "linf")]}, "The attack 'bim' is for linf; give norm='linf'"),
        ({"attacks": [lambda images, labels: images]}, "takes images and labels alone"),
        (
            {"attacks": [lambda a, b, c, d, *, e: a]},
            r"needs d, e besides .*functools.partial\(lambda, d=..., e=...\)",
        ),
        ({"attacks": [exact], "budget": 0}, "The budget"),
        ({"budget": 10}, "A budget is for attacks of your own"),
    ],
)
def test_what_is_no_attack(model: Counted, images: Tensor, arguments: Any, sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        absynth.attack(model, images, LABELS, **arguments)


def test_names() -> None:
    assert [name_of(one) for one in (exact, partial(partial(exact)), Counted, Counted(), lambda: 0)] == [
        "exact",
        "exact",
        "Counted",
        "Counted",
        "lambda",
    ]
    assert Callable(exact, name="mine").name == "mine"


class Made:
    """What torchattacks makes of a model: an object that is called with images and labels."""

    def __init__(self, model: nn.Module, factor: float = 1.0001) -> None:
        self.model, self.factor = model, factor

    def __call__(self, inputs: Tensor, labels: Any = None, *others: Any) -> Tensor:
        return exact(self.model, inputs, labels, self.factor)


class Generating:
    """What ART makes of an estimator: an object that generates arrays."""

    _estimator_requirements = ()

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def generate(self, x: np.ndarray, y: Any = None) -> np.ndarray:
        assert isinstance(x, np.ndarray) and np.array_equal(y, np.eye(2)[LABELS])
        slope = self.estimator.class_gradient(x, label=1) - self.estimator.class_gradient(x, label=0)
        scores = self.estimator.predict(x)
        steps = (scores[:, 0] - scores[:, 1]) / np.square(slope).sum(axis=(1, 2, 3, 4))
        return np.asarray(x + 1.0001 * (steps[:, None, None, None] * slope[:, 0]), dtype=np.float32)


def same_as_exact(model: Counted, images: Tensor, attack: Any) -> AttackResult:
    result = absynth.attack(model, images, LABELS, "l2", attacks=[attack])
    torch.testing.assert_close(
        result.distances, torch.full_like(result.distances, MINIMA["l2"]), rtol=1e-3, atol=0
    )
    return result


@pytest.mark.parametrize(
    "attack",
    [
        exact,
        partial(exact, factor=1.0001),
        Made,
        partial(Made, factor=1.0001),
        lambda model, factor=1.0001: Made(model, factor),
        lambda model: exact,
        lambda model: lambda images, labels: exact(model, images, labels),
        lambda: exact,
        lambda *everything: exact(*everything, factor=1.0001),
        lambda model, images, labels=None: exact(model, images, labels),
    ],
)
def test_every_way_to_hand_an_attack_in(model: Counted, images: Tensor, attack: Any) -> None:
    result = same_as_exact(model, images, attack)
    assert result.backwards.tolist() == [1] * IMAGES


def test_an_attack_that_belongs_to_a_model_already_is_refused(model: Counted) -> None:
    with pytest.raises(
        AbsynthError, match=r"belongs to a model already, .* as lambda model: Generating\(model\)"
    ):
        Callable(Generating(None), "l2")


@pytest.fixture
def _their_warnings() -> Iterator[None]:
    """Other libraries warn about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("_their_warnings")
def test_attacks_of_foolbox(model: Counted, images: Tensor) -> None:
    foolbox = pytest.importorskip("foolbox")
    found = foolbox.attacks.L2DeepFoolAttack(overshoot=1e-4)
    for attack in (found, partial(foolbox.attacks.L2DeepFoolAttack, overshoot=1e-4), lambda model: found):
        same_as_exact(model, images, attack)
    fixed = foolbox.attacks.LinfFastGradientAttack()
    with pytest.raises(AbsynthError, match="LinfFastGradientAttack is an attack of a given size; give sizes"):
        absynth.attack(model, images, LABELS, "linf", attacks=[fixed])
    sizes = [0.01, MINIMA["linf"] + 1e-3, 0.4]
    result = Callable(fixed, "linf", sizes=sizes)(model, images, LABELS)
    torch.testing.assert_close(
        result.distances, torch.full_like(result.distances, sizes[1]), rtol=1e-4, atol=0
    )
    result = Callable(foolbox.attacks.HopSkipJumpAttack(), "l2", budget=50)(model, images, LABELS)
    assert int(result.queries.max()) <= 50 + 5
    assert result.success.any()


@pytest.mark.usefixtures("_their_warnings")
def test_attacks_of_art(model: Counted, images: Tensor) -> None:
    pytest.importorskip("art.estimators.classification", exc_type=ImportError)
    from art.attacks.evasion import DeepFool, ProjectedGradientDescentPyTorch

    same_as_exact(model, images, Generating)
    same_as_exact(model, images, partial(Generating))
    same_as_exact(model, images, partial(DeepFool, epsilon=1e-5, verbose=False))
    result = absynth.attack(
        model,
        images,
        LABELS,
        "linf",
        attacks=[
            partial(ProjectedGradientDescentPyTorch, eps=0.3, eps_step=0.01, max_iter=40, verbose=False)
        ],
        budget=60,
    )
    assert result.success.all()
    assert (result.distances <= MINIMA["linf"] + 0.02).all()
    assert int(result.queries.max()) <= 60


@pytest.mark.usefixtures("_their_warnings")
def test_attacks_of_torchattacks(model: Counted, images: Tensor) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    same_as_exact(model, images, partial(torchattacks.DeepFool, overshoot=1e-4))
    with pytest.raises(AbsynthError, match="PGD belongs to a model already"):
        Callable(torchattacks.PGD(model), "linf")


@pytest.mark.usefixtures("_their_warnings")
def test_attacks_of_adversarial_library(model: Counted, images: Tensor, monkeypatch: Any) -> None:
    pytest.importorskip("adv_lib")
    for name in ("torchvision", "torchvision.models", "visdom"):  # which its attacks do not use
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(
        sys.modules["torchvision"], "models", sys.modules["torchvision.models"], raising=False
    )
    from adv_lib.attacks import ddn, fmn

    result = absynth.attack(model, images, LABELS, "l2", attacks=[partial(ddn, steps=50)])
    assert (result.distances <= 1.05 * MINIMA["l2"]).all()
    assert result.backwards.tolist() == [50] * IMAGES
    with pytest.raises(AbsynthError, match=r"fmn needs norm besides .*functools.partial\(fmn, norm=...\)"):
        Callable(fmn, "l2")


@pytest.mark.parametrize("sizes", [0.1, [-1], ["small"], [0.0], [float("nan")]])
def test_sizes_that_are_none_are_told(sizes: Any) -> None:
    with pytest.raises(AbsynthError, match="give a list of numbers above 0"):
        Callable(lambda model, images, labels: images, "l2", sizes=sizes)
