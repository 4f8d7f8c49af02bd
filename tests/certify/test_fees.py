"""What moving a pixel costs where the first bit has a fee: every case against a fine grid of moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from absynth.certify.fees import Fees, LinearFees, SquaredFees

KINDS = (SquaredFees, LinearFees)


def some_fees(kind: type[Fees], seed: int, pixels: int = 12) -> Fees:
    """Pixels with fees, which move one way; others move both ways; some have paid or cannot move."""
    generator = np.random.default_rng(seed)
    high, low = generator.random(pixels), -generator.random(pixels)
    fee = generator.random(pixels) * (generator.random(pixels) < 0.7) * 0.5
    up = generator.random(pixels) < 0.5
    low, high = np.where((fee > 0) & up, 0, low), np.where((fee > 0) & ~up, 0, high)
    high[0] = low[0] = 0
    return kind(low, high, fee, (generator.random(pixels) < 0.3) & (fee > 0))


def grid(fees: Fees) -> Any:
    """Moves from the lowest to the highest of each pixel, one row a share of the way, and none at all."""
    shares = np.linspace(0, 1, 2001)[:, None]
    return np.concatenate([fees.low + shares * (fees.high - fees.low), np.zeros((1, len(fees.low)))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_conjugates_are_the_largest_gains_less_costs(kind: type[Fees], seed: int) -> None:
    fees = some_fees(kind, seed)
    moves = grid(fees)
    every = np.stack([fees.costs(step) for step in moves])
    for scale in (0.0, 0.5, 2.0, 6.0):
        pull = scale * np.random.default_rng(seed).normal(size=12)
        found, gained, spent = fees.conjugates(pull)
        assert found == pytest.approx(gained - spent)
        # A grid that misses the best move by half its spacing loses at most some 1e-3 of it.
        assert (found >= (pull * moves - every).max(0) - 1e-12).all()
        assert found == pytest.approx((pull * moves - every).max(0), abs=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_hulls_are_convex_and_nowhere_above_the_costs(kind: type[Fees]) -> None:
    fees = some_fees(kind, 1)
    moves = grid(fees)[:-1]
    hulls = np.stack([fees.hulls(step) for step in moves])
    assert (hulls <= np.stack([fees.costs(step) for step in moves]) + 1e-12).all()
    assert (hulls[:-2] + hulls[2:] - 2 * hulls[1:-1] >= -1e-9).all()
    assert (fees.open(np.zeros(12)) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_the_solution_has_a_bound_near_its_hull_and_below_any_cost(kind: type[Fees], seed: int) -> None:
    fees = some_fees(kind, seed)
    generator = np.random.default_rng(seed)
    inside = generator.uniform(fees.low, fees.high)
    gradients = generator.normal(size=(3, 12))
    margins = gradients @ inside - 0.1 * generator.random(3)
    margins[0] = abs(margins[0])
    gradients[0] = np.where(gradients[0] * inside < 0, -gradients[0], gradients[0])
    margins[0] = 0.5 * gradients[0] @ inside
    weights, step = fees.solve(gradients, margins, np.zeros(3), 100.0)
    assert (gradients @ step >= margins - 1e-6).all()
    hull, bound = float(fees.hulls(step).sum()), fees.cost(fees.bound(gradients, margins, weights))
    assert bound <= hull + 1e-6
    assert bound == pytest.approx(hull, abs=0.02 * hull + 1e-3)
    assert bound <= fees.costs(inside).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_margins_out_of_reach_are_told_by_the_bound(kind: type[Fees]) -> None:
    fees = some_fees(kind, 2)
    gradients = np.ones((1, 12))
    out_of_reach = np.array([fees.high.sum() + 0.1])
    weights, _ = fees.solve(gradients, out_of_reach, np.zeros(1), fees.cost(5.0))
    assert fees.bound(gradients, out_of_reach, weights) > 4.9


@pytest.mark.parametrize("kind", KINDS)
def test_deciding_a_pixel(kind: type[Fees]) -> None:
    fees = some_fees(kind, 3)
    pixel = int(np.flatnonzero((fees.fee > 0) & ~fees.paid)[0])
    still = np.zeros(12)
    pays, stays = fees.decide(pixel, True), fees.decide(pixel, False)
    assert pays.costs(still)[pixel] == pytest.approx(fees.cost(float(fees.fee[pixel])))
    assert stays.low[pixel] == stays.high[pixel] == 0 and not stays.paid[pixel]
    all_decided = fees.decide_all(still, 0.5)
    assert ((all_decided.high == 0) & (all_decided.low == 0))[(fees.fee > 0) & ~fees.paid].all()


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_that_cannot_move_reach_nothing(kind: type[Fees]) -> None:
    none = np.zeros(4)
    fees = kind(none, none, none + 0.1, np.zeros(4, dtype=bool))
    for gradients in (np.ones((1, 4)), np.zeros((1, 4))):
        weights, step = fees.solve(gradients, np.array([0.5]), np.zeros(1), fees.cost(5.0))
        assert not step.any()
        assert fees.bound(gradients, np.array([0.5]), weights) > 4.9
        _, step = fees.solve(gradients, np.array([-0.5]), np.zeros(1), fees.cost(5.0))
        assert not step.any()
