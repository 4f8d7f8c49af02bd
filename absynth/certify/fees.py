"""What it costs to move what is seen of each pixel, where the first bit costs a fee: hulls, bounds, steps.

Behind a clamp moving pixel i by e costs (dead_i + e)² in L2 and dead_i + e in L1, and nothing where it
stays. That is no convex function of the move: the dead zone is a fee. The cheapest place where a rival q
beats all own prototypes p_k is found by branching (:mod:`absynth.certify.branching`) on whether pixels pay.
In between, each pixel is *free* to pay or not, has *paid* and may move, or stays.

For any multipliers μ ≥ 0 and a = Σ μ_k g_k, every move δ with ⟨g_k, δ⟩ ≥ m_k has

    cost(δ) ≥ Σ μ_k m_k − Σ_i max_{δ_i} (a_i δ_i − cost_i(δ_i)).

The maximum of a pixel has a closed form in all three cases, so that this is a proof, whatever μ is
(:meth:`Fees.bound`). The best μ solves the problem with the convex hull of each cost in its place:

- **L2**: the hull is straight, with slope 4 dead_i, up to a move as long as the dead zone, then quadratic.
  The jump of the best move at this price is spread a little, and Newton's method does the rest
  (:func:`absynth.certify.polytope.ascend`).
- **L1**: the hull is straight, a linear program for HiGHS.

Few pixels of the solution lie inside the straight part of their hull, no more than there are multipliers,
and at these alone hull and cost differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from absynth.certify.boxed import best_within
from absynth.certify.contest import Contest
from absynth.certify.polytope import Array, Response, ascend
from absynth.rounding import gamma

Mask = NDArray[np.bool_]
Self = TypeVar("Self", bound="Fees")

SPREADS = (0.5, 0.1, 0.01)
"""Shares of its price over which the jump of a pixel's best move is spread, either way."""

DOUBLINGS = 20
"""Of the first multiplier, from what it would be without fees."""

STILL = 1e-9
"""A move of no more is none, and comes of a solver's rounding."""


class Solved(NamedTuple):
    """The solution with hulls in place of costs.

    Attributes:
        weights: μ ≥ 0.
        step: δ; it may miss the margins where nothing meets them.
    """

    weights: Array
    step: Array


@dataclass(frozen=True)
class Fees(ABC):
    """The costs of moving each pixel, and what has been decided of it.

    Attributes:
        low: How far what is seen of it can fall, not positive.
        high: How far it can rise.
        fee: What the first bit of a move costs; where there is one, a pixel moves in one direction only.
        paid: Whether it pays even if it stays.
    """

    low: Array
    high: Array
    fee: Array
    paid: Mask

    @abstractmethod
    def costs(self, step: Array) -> Array:
        """What each pixel's part of a step costs."""

    @abstractmethod
    def hulls(self, step: Array) -> Array:
        """The convex hulls of these costs."""

    @abstractmethod
    def conjugates(self, pull: Array) -> tuple[Array, Array, Array]:
        """The largest a_i δ_i − cost_i(δ_i) of each pixel, with both terms where it is reached."""

    @abstractmethod
    def solve(self, gradients: Array, margins: Array, start: Array, enough: float) -> Solved:
        """The best multipliers and the cheapest step by the hulls.

        Args:
            gradients: g_k, one row an own prototype.
            margins: m_k.
            start: Multipliers to begin with.
            enough: Cost that is of no more interest.
        """

    @abstractmethod
    def distance(self, cost: float) -> float:
        """The distance that a cost comes to."""

    @abstractmethod
    def cost(self, distance: float) -> float:
        """The cost that a distance comes to."""

    def bound(self, gradients: Array, margins: Array, weights: Array) -> float:
        """A lower bound on the distance that multipliers prove, rounded down.

        Args:
            gradients: g_k, one row an own prototype.
            margins: m_k, less every slack.
            weights: μ ≥ 0.
        """
        pixels = len(self.low)
        pull = weights @ gradients
        value, gained, spent = self.conjugates(pull)
        earned = float(weights @ margins)
        # Each sum is of as many terms as there are pixels or multipliers, of a few roundings each. A pull is
        # a sum over the multipliers, whose terms come to at most twice a multiplier.
        magnitude = float(weights @ np.abs(margins)) + gained.sum() + spent.sum() + self.fee.sum()
        rounding = 4 * gamma(pixels + len(weights) + 16, torch.float64) * magnitude
        rounding += 2 * pixels * gamma(len(weights) + 4, torch.float64) * float(weights.sum())
        # A pixel that rounding keeps still, as moving it seems to gain just what it costs.
        rounding += pixels * gamma(16, torch.float64)
        # Where a number overflowed there is none to compare with, and 0 is what is kept.
        return self.distance(max(0.0, earned - float(value.sum()) - rounding)) * (
            1 - 8 * gamma(8, torch.float64)
        )

    def open(self, step: Array) -> Array:
        """By how much the cost of each pixel's part of a step exceeds its hull."""
        return np.maximum(self.costs(step) - self.hulls(step), 0)

    def decide(self: Self, pixel: int, pays: bool) -> Self:
        """The same with one pixel decided."""
        chosen = np.zeros(len(self.low), dtype=bool)
        chosen[pixel] = True
        return self._decided(chosen & pays, chosen & (not pays))

    def decide_all(self: Self, step: Array, share: float) -> Self:
        """The same with every free pixel decided: it pays where a step moves it by some share.

        Args:
            step: δ.
            share: Of the straight part of its hull.
        """
        free = (self.fee > 0) & ~self.paid
        pays = np.abs(step) > share * np.minimum(self.natural, np.maximum(self.high, -self.low))
        return self._decided(free & pays, free & ~pays)

    @property
    @abstractmethod
    def natural(self) -> Array:
        """How far the straight part of each hull reaches, at most."""

    def _decided(self: Self, pays: Mask, stays: Mask) -> Self:
        return replace(
            self,
            low=np.where(stays, 0, self.low),
            high=np.where(stays, 0, self.high),
            paid=self.paid | pays,
        )


@dataclass(frozen=True)
class SquaredFees(Fees):
    """Moving a pixel by e costs (fee + e)²: L2 behind a clamp."""

    @property
    def natural(self) -> Array:
        """The fee."""
        return self.fee

    @property
    def rooms(self) -> Array:
        """How far a pixel with a fee can move."""
        return np.maximum(self.high, -self.low)

    def distance(self, cost: float) -> float:
        """The root."""
        return float(np.sqrt(cost))

    def cost(self, distance: float) -> float:
        """The square."""
        return distance * distance

    def costs(self, step: Array) -> Array:
        """(fee + e)² where a pixel moves or has paid."""
        moved = np.abs(step)
        return np.square(self.fee + moved) * ((moved > STILL) | self.paid)

    def hulls(self, step: Array) -> Array:
        """Straight up to a move as long as the fee, or all the way."""
        moved, end = np.abs(step), np.minimum(self.fee, self.rooms)
        straight = ~self.paid & (moved < end)
        slope = np.square(self.fee + end) / np.where(end > 0, end, 1)
        return np.where(straight, slope * moved, self.costs(step))

    def conjugates(self, pull: Array) -> tuple[Array, Array, Array]:
        """The maximum is at e = abs(a) / 2 − fee, or at the end of the room."""
        steep = np.abs(pull)
        moved = np.clip(steep / 2 - self.fee, 0, np.where(pull > 0, self.high, -self.low))
        gained, spent = steep * moved, np.square(self.fee + moved)
        idle = ~self.paid & (gained <= spent)
        gained, spent = np.where(idle, 0, gained), np.where(idle, 0, spent)
        return gained - spent, gained, spent

    def solve(self, gradients: Array, margins: Array, start: Array, enough: float) -> Solved:
        """By Newton's method; from nothing, first with wide spreads, which leave no pixel without a slope."""
        weights = start
        if not start.any():
            # While no pixel moves Newton's method has no scale to go by: one multiplier grows until some do.
            respond = partial(self._respond, SPREADS[0])
            scale = max(float(np.square(gradients[0]).sum()), STILL)
            weights = np.eye(1, len(margins))[0] * 2 * max(margins[0], STILL) / scale
            for _ in range(DOUBLINGS):
                if gradients[0] @ respond(weights @ gradients).step >= margins[0]:
                    break
                weights = 2 * weights
        for spread in SPREADS if not start.any() else SPREADS[-1:]:
            weights, step = ascend(gradients, margins, partial(self._respond, spread), weights, enough)
        return Solved(weights, step)

    def _respond(self, spread: float, pull: Array) -> Response:
        """The cheapest answer to a pull, by hulls whose jumps are spread a little."""
        end = np.minimum(self.fee, self.rooms)
        jumps = ~self.paid & (end > 0)
        price = np.where(jumps, np.square(self.fee + end) / np.where(end > 0, end, 1), 0)
        first, last = (1 - spread) * price, (1 + spread) * price
        reached = np.clip(last / 2 - self.fee, 0, self.rooms)
        rise = np.where(jumps, reached / np.where(jumps, last - first, 1), 0)
        # What the value at the end of the jump is less without the spread.
        offset = 0.5 * reached * (last - first) - (last * reached - np.square(self.fee + reached))
        steep = np.abs(pull)
        room = np.where(pull > 0, self.high, -self.low)
        moved = np.clip(steep / 2 - self.fee, 0, room)
        value = np.square(self.fee + moved) - steep * moved
        slope = 0.5 * ((moved > 0) & (moved < room)).astype(np.float64)
        inside = jumps & (steep < last)
        along = np.clip(steep - first, 0, None)
        moved = np.where(inside, np.minimum(rise * along, room), moved)
        slope = np.where(inside, rise * ((along > 0) & (room > 0)), slope)
        value = np.where(jumps, np.where(inside, -0.5 * rise * along * along, value - offset), value)
        # Where there is no room on the side of the pull, a free pixel stays and pays nothing.
        value = np.where(~self.paid & (self.fee > 0) & (room <= 0), 0, value)
        return Response(np.copysign(moved, pull), slope, float(value.sum()))


@dataclass(frozen=True)
class LinearFees(Fees):
    """Moving a pixel by e costs fee + e: L1 behind a clamp."""

    @property
    def natural(self) -> Array:
        """All the way."""
        return np.maximum(self.high, -self.low)

    def distance(self, cost: float) -> float:
        """The cost itself."""
        return cost

    def cost(self, distance: float) -> float:
        """The distance itself."""
        return distance

    @property
    def _prices(self) -> Array:
        """The slope of each hull."""
        return np.where(self.paid, 1.0, 1 + self.fee / np.where(self.natural > 0, self.natural, 1))

    def costs(self, step: Array) -> Array:
        """The fee and the move, where a pixel moves or has paid."""
        moved = np.abs(step)
        return moved + self.fee * ((moved > STILL) | self.paid)

    def hulls(self, step: Array) -> Array:
        """Straight all the way."""
        return self._prices * np.abs(step) + self.fee * self.paid

    def conjugates(self, pull: Array) -> tuple[Array, Array, Array]:
        """The maximum is at the end of the room, or where the pixel is."""
        steep = np.abs(pull)
        room = np.where(pull > 0, self.high, -self.low)
        gained, spent = steep * room, room + self.fee
        idle = gained <= np.where(self.paid, room, spent)
        gained = np.where(idle, 0, gained)
        spent = np.where(idle, self.fee * self.paid, spent)
        return gained - spent, gained, spent

    def solve(self, gradients: Array, margins: Array, start: Array, enough: float) -> Solved:
        """By a linear program."""
        upward, downward = np.flatnonzero(self.high > 0), np.flatnonzero(self.low < 0)
        matrix = np.hstack([-gradients[:, upward], gradients[:, downward]])
        rooms = np.concatenate([self.high[upward], -self.low[downward]])
        prices = np.concatenate([self._prices[upward], self._prices[downward]])
        bounds = np.stack([np.zeros(len(rooms)), rooms], axis=1)
        step = np.zeros(len(self.low))
        if len(rooms):
            result = linprog(prices, A_ub=matrix, b_ub=-margins, bounds=bounds, method="highs-ds")
            if result.x is not None:
                step[upward] += result.x[: len(upward)]
                step[downward] -= result.x[len(upward) :]
                return Solved(np.maximum(-result.ineqlin.marginals, 0), step)
        boxed = best_within(gradients, margins, self.low, self.high)
        if boxed is None or boxed.excess >= 0:
            return Solved(start, step)
        # Nothing meets the margins; multipliers that are large enough prove any distance.
        return Solved(2 * max(enough, 1.0) / -boxed.excess * boxed.weights, boxed.step)


def fees_of(contest: Contest) -> Fees:
    """What moving what is seen of each pixel costs, of the image of a contest behind a clamp.

    Args:
        contest: In L2 or L1.
    """
    search, image = contest.field.search, contest.image
    front = search.codebook.front
    low, high = -front.down(image).cpu().numpy(), front.up(image).cpu().numpy()
    fee = torch.maximum(front.dead_up(image), front.dead_down(image)).cpu().numpy()
    kind = SquaredFees if search.norm == "l2" else LinearFees
    return kind(low, high, fee, np.zeros(len(fee), dtype=bool))
