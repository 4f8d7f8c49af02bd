"""The closed forms for one pair of prototypes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from absynth.certify.front import BINARY, GREY, Clamp, Front
from absynth.certify.halfspace import crossing, halfspace_distance, largest_gain
from absynth.norms import NORMS

Array = NDArray[np.float64]
ROWS = 40


def pairs(seed: int, pixels: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, margins and images, with zeros, ties and unreachable margins among them."""
    generator = torch.Generator().manual_seed(seed)
    gradient = 4 * torch.rand(ROWS, pixels, generator=generator).double() - 2
    gradient[::5] = gradient[::5].round()
    image = torch.rand(ROWS, pixels, generator=generator).double()
    image[::3] = (2 * image[::3]).round() / 2
    margin = 6 * torch.rand(ROWS, generator=generator).double() - 0.5
    return gradient, margin, image


def size_of(step: Tensor, norm: str) -> Tensor:
    if norm == "l0":
        return (step != 0).sum(-1).double()
    return torch.linalg.vector_norm(step, ord={"l2": 2, "l1": 1, "linf": torch.inf}[norm], dim=-1)


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
@pytest.mark.parametrize("seed", range(3))
def test_the_step_reaches_the_half_space_at_the_distance(norm: str, seed: int) -> None:
    gradient, margin, image = pairs(seed)
    distance, step = crossing(gradient, margin, image, norm)
    reachable = distance.isfinite()
    assert 0 < int(reachable.sum()) < ROWS
    moved = image + step
    assert bool(((moved > -1e-12) & (moved < 1 + 1e-12)).all())
    gained = (gradient * step).sum(-1)[reachable]
    wanted = margin[reachable].clamp(min=0)
    assert torch.allclose(gained, wanted, atol=1e-9)
    assert torch.allclose(size_of(step, norm)[reachable], distance[reachable], atol=1e-9)
    most = torch.where(gradient > 0, gradient * (1 - image), -gradient * image).sum(-1)
    assert bool((most[~reachable] <= margin[~reachable]).all())


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_distance_agrees_with_linear_programming(norm: str) -> None:
    gradient, margin, image = pairs(3, pixels=5)
    pixels = 5
    for row, distance in enumerate(halfspace_distance(gradient, margin, image, norm).tolist()):
        direction, start = gradient[row].numpy(), image[row].numpy()
        spread = np.eye(pixels) if norm == "l1" else np.ones((pixels, 1))
        slots = spread.shape[1]
        identity = np.eye(pixels)
        result = linprog(
            np.concatenate([np.zeros(pixels), np.ones(slots)]),
            A_ub=np.block([[-direction, np.zeros(slots)], [identity, -spread], [-identity, -spread]]),
            b_ub=np.concatenate([[-float(margin[row])], np.zeros(2 * pixels)]),
            bounds=[*zip(-start, 1 - start, strict=True), *[(0, None)] * slots],
        )
        assert distance == pytest.approx(result.fun if result.status == 0 else math.inf, abs=1e-7)


def test_l0_distance_is_the_smallest_sufficient_set() -> None:
    gradient, margin, image = pairs(4)
    gains = torch.where(gradient > 0, gradient * (1 - image), -gradient * image)
    for row, distance in enumerate(halfspace_distance(gradient, margin, image, "l0").tolist()):
        sizes = [
            count
            for count in range(7)
            for chosen in itertools.combinations(range(6), count)
            if float(gains[row, list(chosen)].sum()) >= float(margin[row])
        ]
        assert distance == min(sizes, default=math.inf)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_binary_distance_is_at_most_the_cheapest_flips(norm: str, seed: int) -> None:
    gradient, margin, image = pairs(seed)
    seen = BINARY.see(image)
    distances = halfspace_distance(gradient, margin, image, norm, BINARY)
    for row, distance in enumerate(distances.tolist()):
        sizes = []
        for flips in itertools.product((0, 1), repeat=6):
            flipped = torch.tensor(flips, dtype=torch.float64)
            step = flipped * (1 - 2 * seen[row])
            if float((gradient[row] * step).sum()) >= float(margin[row]):
                cost = flipped if norm == "l0" else flipped * (image[row] - 0.5).abs()
                sizes.append(float(size_of(cost, norm)))
        truth = min(sizes, default=math.inf)
        assert distance <= truth
        if norm in ("l0", "linf"):
            assert distance == pytest.approx(truth, abs=1e-12)
        else:
            assert math.isinf(distance) == math.isinf(truth)


CLAMP = Clamp(low=0.125, high=0.8125)


def smallest(reached: Callable[[float], float], wanted: float) -> float:
    """Where a non-decreasing function gets to what is wanted."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < wanted else (low, middle)
    return high


def size_of_moves(slopes: Array, rooms: Array, fees: Array, margin: float, norm: str) -> float:
    """The smallest change that makes up for a margin and uses all of these pixels."""
    if norm == "l0":
        return float(len(slopes))
    if norm == "l1":
        box = [(0, room) for room in rooms]
        result = linprog(np.ones(len(slopes)), A_ub=-slopes[None], b_ub=[-margin], bounds=box)
        return float(result.fun + fees.sum())

    def moves(price: float) -> Array:
        return (price * slopes / 2 - fees).clip(0, rooms)

    price = smallest(lambda price: float(slopes @ moves(price)), margin)
    return float(np.linalg.norm(fees + moves(price)))


def cheapest_beyond_dead_zones(gradient: Tensor, margin: float, image: Tensor, norm: str) -> float:
    """The smallest change behind the clamp that makes up for a margin, over all sets of pixels it may use."""
    rooms, dead = CLAMP.room(gradient, image).numpy(), CLAMP.dead(gradient, image).numpy()
    slopes = gradient.abs().numpy()
    if margin <= 0:
        return 0.0
    if norm == "linf":
        if slopes @ rooms < margin:
            return math.inf
        return smallest(lambda size: float(slopes @ (size - dead).clip(0, rooms)), margin)
    sizes = []
    for used in itertools.product((False, True), repeat=len(slopes)):
        some = np.array(used)
        if slopes[some] @ rooms[some] >= margin:
            sizes.append(size_of_moves(slopes[some], rooms[some], dead[some], margin, norm))
    return min(sizes, default=math.inf)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(2))
def test_distance_behind_a_clamp_is_at_most_the_cheapest_set_of_pixels(norm: str, seed: int) -> None:
    gradient, margin, image = pairs(seed)
    distances = halfspace_distance(gradient, margin / 2, image, norm, CLAMP)
    assert 0 < int(distances.isfinite().sum()) < ROWS
    for row, distance in enumerate(distances.tolist()):
        truth = cheapest_beyond_dead_zones(gradient[row], float(margin[row]) / 2, image[row], norm)
        assert distance <= truth * (1 + 1e-9)
        if norm in ("l0", "linf"):
            assert distance == pytest.approx(truth, abs=1e-6)
        else:
            # What is lost is less than what the dead zone of one pixel costs.
            most = float(CLAMP.dead(gradient[row], image[row]).max())
            assert distance >= truth - (most if norm == "l1" else math.sqrt(5 * most)) - 1e-9
            assert math.isinf(distance) == math.isinf(truth)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", NORMS)
def test_dead_zones_of_no_width_change_nothing(norm: str, dtype: torch.dtype) -> None:
    gradient, margin, image = (part.to(dtype) for part in pairs(4, pixels=60))
    plain = crossing(gradient, 3 * margin, image, norm).distance
    clamped = crossing(gradient, 3 * margin, image, norm, Clamp(low=1e-13)).distance
    assert torch.allclose(clamped, plain, rtol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_behind_a_clamp_stays_in_what_is_seen(norm: str) -> None:
    gradient, margin, image = pairs(7, pixels=30)
    distance, step = crossing(gradient, 3 * margin, image, norm, CLAMP)
    moved = CLAMP.see(image) + step
    assert bool(((moved > CLAMP.low - 1e-12) & (moved < CLAMP.high + 1e-12)).all())
    assert bool(((gradient * step).sum(-1) >= -1e-12).all())
    assert bool((step[(distance > 0) & distance.isfinite()].abs().amax(-1) > 0).all())


@pytest.mark.parametrize("front", [GREY, BINARY])
@pytest.mark.parametrize("norm", NORMS)
def test_largest_gain_is_the_inverse_of_the_distance(norm: str, front: Front) -> None:
    gradient, margin, image = pairs(5)
    distances = halfspace_distance(gradient, margin, image, norm, front)
    for row in ((distances > 0) & distances.isfinite()).nonzero()[:, 0].tolist():
        arguments = (gradient[row], float(distances[row]), image[row], norm, front)
        nearly = float(distances[row]) - (1 if norm == "l0" else 1e-6)
        slightly = float(distances[row]) * (1 + 1e-9)
        assert float(largest_gain(arguments[0], slightly, *arguments[2:])) >= float(margin[row]) - 1e-6
        assert float(largest_gain(arguments[0], nearly, *arguments[2:])) < float(margin[row])


@pytest.mark.parametrize("norm", NORMS)
def test_float32_stays_below_float64(norm: str) -> None:
    gradient, margin, image = pairs(6)
    exact = crossing(gradient, margin, image, norm).distance
    single = crossing(gradient.float(), margin.float() * (1 - 1e-6), image.float(), norm).distance.double()
    finite = exact.isfinite()
    assert bool((single[finite] <= exact[finite] * (1 + 1e-6)).all())
    assert torch.allclose(single[finite], exact[finite], rtol=1e-4, atol=1e-4)


def test_l0_counts_a_pixel_once_for_all_its_channels() -> None:
    gradient, image = torch.full((6,), 1.0).double(), torch.zeros(6).double()
    margin = torch.tensor(2.5).double()
    assert float(halfspace_distance(gradient, margin, image, "l0")) == 3
    assert float(halfspace_distance(gradient, margin, image, "l0", channels=3)) == 1
    assert float(largest_gain(gradient, 1, image, "l0", channels=3)) == 3


def test_a_pixel_at_the_threshold_flips_for_nothing() -> None:
    gradient, image = torch.tensor([2.0, 2.0]).double(), torch.tensor([0.5, 0.0]).double()
    for norm, distance in (("l1", 0.25), ("l2", math.sqrt(0.125)), ("linf", 0.5), ("l0", 2.0)):
        found = halfspace_distance(gradient, torch.tensor(3.0).double(), image, norm, BINARY)
        assert float(found) == pytest.approx(distance)
        nothing = halfspace_distance(gradient, torch.tensor(1.0).double(), image, norm, BINARY)
        assert float(nothing) == (1.0 if norm == "l0" else 0.0)
