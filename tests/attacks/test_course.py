"""How attacks came nearer, pass by pass: figures that can be counted by hand, and what attacks write down."""

from __future__ import annotations

from collections.abc import Callable as Function

import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import Attack, Callable, Course, suite_attacks
from absynth.attacks.course import Recorder
from absynth.attacks.gradient_estimation import WithEstimatedGradient
from absynth.errors import AbsynthError
from absynth.norms import NORMS, Norm


class HalfSpace(nn.Module):
    """Class 1 where the mean of four pixels is above 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


IMAGES = torch.tensor([0.0, 0.25, 0.75])[:, None, None, None].expand(3, 1, 2, 2).clone()
LABELS = torch.zeros(3, dtype=torch.int64)
"""The third image is wrong from the start."""


def fills(*values: float) -> Function[..., Tensor]:
    """An attack that asks about images of one value after the other, and returns the clean ones."""

    def attack(model: nn.Module, images: Tensor, _: Tensor) -> Tensor:
        for value in values:
            model(torch.full_like(images, value))
        return images

    return attack


def test_steps_counted_by_hand() -> None:
    attack = Callable(fills(0.4, 1.0, 0.6, 0.8), "linf")
    course = attack(HalfSpace(), IMAGES, LABELS, course=True).course
    assert course is not None
    # 0.4 is no adversarial, and 0.8 no closer one
    assert course.rows.tolist() == [0, 0, 1, 1, 2]
    assert course.passes.tolist() == [2, 3, 2, 3, 0]
    assert course.distances.tolist() == pytest.approx([1, 0.6, 0.75, 0.35, 0], abs=1e-6)
    assert course.after(2, 3).tolist() == pytest.approx([1, 0.75, 0])
    assert course.after(1, 3).tolist() == [torch.inf, torch.inf, 0]
    for too_few in (0, 2):
        with pytest.raises(AbsynthError, match="the course is of more"):
            course.after(2, too_few)
    cheap = Callable(fills(0.4, 1.0), "linf", budget=2)(HalfSpace(), IMAGES, LABELS)
    assert cheap.distances.tolist() == pytest.approx(course.after(2, 3).tolist())


def test_backward_passes_count() -> None:
    def one_gradient(model: nn.Module, images: Tensor, _: Tensor) -> Tensor:
        points = images.clone().requires_grad_()
        model(points)[:, 1].sum().backward()
        return torch.ones_like(model(torch.ones_like(images))[:, :1, None, None] * images)

    course = Callable(one_gradient, "linf")(HalfSpace(), IMAGES[:1], LABELS[:1], course=True).course
    assert course is not None
    assert course.passes.tolist() == [3]  # one forward, one backward, and the last


def test_nothing_is_kept_unless_asked_for() -> None:
    assert Callable(fills(1.0), "linf")(HalfSpace(), IMAGES, LABELS).course is None


def test_a_first_try_counts_for_nothing() -> None:
    """An attack that asks about one image in the place of two is run on each by itself."""

    def stubborn(model: nn.Module, images: Tensor, _: Tensor) -> Tensor:
        model(torch.full_like(images, 0.55))
        if len(images) > 1:
            model(images[:1])
        return torch.ones_like(images)

    course = Callable(stubborn, "linf")(HalfSpace(), IMAGES[:2], LABELS[:2], course=True).course
    assert course is not None
    assert course.passes.tolist() == [1, 1]


def test_a_step_that_did_not_hold() -> None:
    recorder = Recorder(IMAGES[:2], "linf", torch.tensor([1, 1]))
    rows, yes = torch.tensor([0, 1, 0]), torch.tensor([True, True, True])
    points = torch.tensor([0.5, 0.5, 0.2])[:, None, None, None].expand(3, 1, 2, 2)
    recorder.note(rows, points, yes, torch.tensor([2, 3]))
    recorder.note(rows[:1], points[:1] + 1, yes[:1], torch.tensor([4, 5]))  # outside [0, 1]
    course = recorder.course(torch.tensor([0.3, torch.inf]), torch.tensor([7, 8]))
    assert (course.rows.tolist(), course.passes.tolist()) == ([0], [1])
    assert course.distances.tolist() == pytest.approx([0.3])
    better = recorder.course(torch.tensor([0.1, 0.25]), torch.tensor([7, 8]))
    assert (better.rows.tolist(), better.passes.tolist()) == ([0, 0, 1], [1, 6, 2])


def test_some_of_the_images() -> None:
    course = Course(torch.tensor([0, 1, 5]), torch.tensor([1, 2, 3]), torch.tensor([3.0, 2.0, 1.0]))
    few = course.of([5, 0])
    assert (few.rows.tolist(), few.passes.tolist(), few.distances.tolist()) == ([1, 0], [1, 3], [3, 1])


def every_attack() -> list[Attack]:
    quick = [attack for norm in NORMS for attack in suite_attacks("quick", norm)]
    return [*quick, WithEstimatedGradient(next(one for one in quick if one.name == "fgm"))]


@pytest.mark.parametrize("attack", every_attack(), ids=lambda one: f"{one.norm}-{one.name}")
def test_every_attack_ends_where_its_result_is(attack: Attack) -> None:
    norm: Norm = attack.norm
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 16, generator=generator))
    images = torch.rand(4, 1, 4, 4, generator=generator)
    labels = model(images).argmax(1)
    if not attack.applies_to(model):
        pytest.skip("for other models")
    plain, kept = attack(model, images, labels), attack(model, images, labels, course=True)
    assert torch.equal(plain.adversarials, kept.adversarials)
    assert kept.course is not None
    passes = kept.queries + kept.backwards
    assert torch.equal(kept.course.after(int(passes.max()), 4), kept.distances)
    for row in range(4):
        own = kept.course.rows == row
        assert bool((kept.course.distances[own].diff() < 0).all()), norm
        assert bool((kept.course.passes[own].diff() >= 0).all())
        assert bool((kept.course.passes[own] <= passes[row]).all())
