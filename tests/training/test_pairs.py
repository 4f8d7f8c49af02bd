"""What pairs of prototypes allow, and how they are found."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from absynth.certify.front import Clamp
from absynth.certify.halfspace import crossing
from absynth.models.front import limits
from absynth.training.certified import distances
from absynth.training.certified.distances import box_distance, clamped_distance, pixel_distance
from absynth.training.certified.pairs import mine, nearest_in_pixels


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four images, two pairs each, of which one margin is negative and one out of the box's reach."""
    images, own, rivals = (torch.rand(4, count, 30, dtype=torch.float64) for count in (1, 2, 2))
    margins = torch.tensor([[0.5, 1.0], [3.0, -0.4], [5.0, 60.0], [0.01, 2.0]], dtype=torch.float64)
    return images, own, rivals, margins


def test_the_distance_with_the_box_is_that_of_the_certificates(
    pairs: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    images, own, rivals, margins = pairs
    found = box_distance(images, own, rivals, margins)
    expected = crossing(2 * (rivals - own), margins, images, "l2").distance
    regular = (margins > 0) & expected.isfinite()
    assert regular.sum() == 6
    torch.testing.assert_close(found[regular], expected[regular], rtol=1e-4, atol=1e-3)
    straight = margins / (2 * (rivals - own)).norm(dim=-1)
    torch.testing.assert_close(found[~regular], straight[~regular])


def test_the_derivative_of_the_distance_is_right(pairs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    images, own, rivals, margins = pairs
    inside = [0, 3]

    def of(own: Tensor, rivals: Tensor, margins: Tensor) -> Tensor:
        return box_distance(images[inside], own, rivals, margins)

    variables = [part[inside].clone().requires_grad_() for part in (own, rivals, margins)]
    assert torch.autograd.gradcheck(of, variables, eps=1e-7, atol=1e-4)


def scattered(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images with black and white pixels, a pair each, and margins from none to more than there is."""
    images = torch.rand(count, 1, 60, dtype=torch.float64)
    images = torch.where(torch.rand(count, 1, 60) < 0.6, images.round(), images)
    own, rivals = (torch.rand(count, 1, 60, dtype=torch.float64) for _ in range(2))
    return images, own, rivals, 8 * torch.rand(count, 1, dtype=torch.float64)


def test_the_distance_behind_a_clamp_is_that_of_the_certificates() -> None:
    images, own, rivals, margins = scattered(50)
    found = clamped_distance(images, own, rivals, margins, tail=0.1)
    low, high = limits(0.1)
    expected = crossing(2 * (rivals - own), margins, images, "l2", Clamp(low, high)).distance
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3)
    hopeless = clamped_distance(images, own, rivals, 1000 + margins, tail=0.1)
    straight = (1000 + margins) / (2 * (rivals - own)).norm(dim=-1)
    torch.testing.assert_close(hopeless, straight)
    lost = clamped_distance(images, own, rivals, -margins, tail=0.1)
    assert bool((lost <= 0).all())


def test_the_derivative_of_the_distance_behind_a_clamp_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "HALVINGS", 50)
    images, *variables = scattered(20)
    inputs = [part.clone().requires_grad_() for part in variables]
    slopes = torch.autograd.grad(clamped_distance(images, *inputs, tail=0.1).sum(), inputs)
    for index, slope in enumerate(slopes):
        step = 1e-5 * torch.randn_like(slope)
        ends = []
        for sign in (1, -1):
            moved = list(variables)
            moved[index] = variables[index] + sign * step
            ends.append(clamped_distance(images, *moved, tail=0.1)[:, 0])
        expected = 2 * (slope * step).flatten(1).sum(1)
        # Where the multiplier is about to take in another pixel there is no derivative.
        close = torch.isclose(ends[0] - ends[1], expected, rtol=1e-3, atol=1e-8)
        assert int(close.sum()) >= 16


@pytest.fixture(params=["binary", "grey"])
def changes(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four images, two pairs each, with margins that some pixels make up for, and a negative one."""
    images = torch.rand(4, 1, 30, dtype=torch.float64)
    if request.param == "binary":
        images = (images > 0.5).double()
    own, rivals = (torch.rand(4, 2, 30, dtype=torch.float64) for _ in range(2))
    margins = torch.tensor([[0.5, 1.0], [3.0, -0.4], [5.0, 7.0], [0.01, 2.0]], dtype=torch.float64)
    return images, own, rivals, margins


@pytest.mark.parametrize("some_are_given", [False, True])
def test_as_many_pixels_are_changed_as_it_takes(
    changes: tuple[Tensor, Tensor, Tensor, Tensor], some_are_given: bool
) -> None:
    images, own, rivals, margins = changes
    given = torch.zeros(4, 1, 30, dtype=torch.float64)
    given[..., ::3] = float(some_are_given)
    found = pixel_distance(images, own, rivals, margins, given if some_are_given else None)
    for image in range(4):
        for pair in range(2):
            slopes = 2 * (rivals - own)[image, pair]
            ends = torch.where(slopes > 0, 1.0, 0.0)
            gains = slopes * (ends - images[image, 0])
            free = given[image, 0] == 0
            left, expected = margins[image, pair] - gains[~free].sum(), 0.0
            for gain in gains[free].sort(descending=True).values:
                if left <= gain:
                    expected += float(left / gain)
                    break
                left, expected = left - gain, expected + 1
            assert float(found[image, pair]) == pytest.approx(expected)


def test_the_derivative_of_the_number_of_pixels_is_right(
    changes: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    images, *variables = changes
    inputs = [part.clone().requires_grad_() for part in variables]
    assert torch.autograd.gradcheck(partial(pixel_distance, images), inputs, eps=1e-7, atol=1e-4)


def test_mining_finds_the_nearest_rivals_and_the_best_own_prototype_against_each() -> None:
    prototypes, offsets, images = torch.rand(3, 12, 20), torch.rand(3, 12), torch.rand(7, 20)
    labels = torch.arange(7) % 3
    mined = mine(images, labels, prototypes, offsets, rivals=4, own=12, basis=torch.eye(20))
    assert sorted(mined.image.tolist()) == list(range(7))
    flat, weights = prototypes.flatten(0, 1), offsets.flatten()
    for row, own, rival, distance in zip(*mined, strict=True):
        scores = (images[row] - flat).square().sum(1) + weights
        members = torch.arange(36) // 12 == labels[row]
        best = scores.masked_fill(~members, torch.inf).argmin()
        height = (scores - scores[best]) / (flat - flat[best]).norm(dim=1)
        nearest = height.masked_fill(members, torch.inf).argsort()[:4]
        assert set(rival.tolist()) == set(nearest.tolist())
        heights = []
        for p, q in zip(own, rival, strict=True):
            against = ((scores[q] - scores) / (flat[q] - flat).norm(dim=1)).masked_fill(~members, -torch.inf)
            assert float(against[p]) == pytest.approx(float(against.max()), abs=1e-4)
            heights.append(float(against[p]) / 2)
        assert float(distance) == pytest.approx(min(heights), abs=1e-4)


def test_the_pairs_kept_are_the_nearest_in_l2_and_then_those_in_l0() -> None:
    prototypes, offsets, images = torch.rand(3, 12, 20), torch.rand(3, 12), torch.rand(300, 20)
    labels = torch.arange(300) % 3
    basis = torch.linalg.qr(torch.randn(20, 20)).Q
    pairs = mine(images, labels, prototypes, offsets, rivals=8, own=2, basis=basis)
    kept = nearest_in_pixels(pairs, images, prototypes, offsets, 3)
    flat, energies = prototypes.flatten(0, 1), offsets.flatten()
    assert torch.equal(kept.image, pairs.image)
    assert torch.equal(kept.distance, pairs.distance)
    for row, image in enumerate(pairs.image.tolist()):
        distances = []
        for own, rival in zip(pairs.own[row].tolist(), pairs.rival[row].tolist(), strict=True):
            scores = ((images[image] - flat[[own, rival]]) ** 2).sum(1) + energies[[own, rival]]
            one = pixel_distance(
                images[image][None, None],
                flat[own][None, None],
                flat[rival][None, None],
                (scores[1] - scores[0])[None, None],
            )
            distances.append(float(one))
        others = sorted(range(1, 8), key=lambda place: distances[place])[:2]
        expected = {(int(pairs.own[row, place]), int(pairs.rival[row, place])) for place in (0, *others)}
        assert set(zip(kept.own[row].tolist(), kept.rival[row].tolist(), strict=True)) == expected
    assert kept.own.shape == (300, 3)
