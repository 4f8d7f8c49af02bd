"""What proves how much flips cost behind a threshold: bounds of a node of the search, and what they decide.

What is seen of a pixel flips or stays, z_i ∈ {0, 1}. A rival q beats all own prototypes p_k where
Σ_i G_ki z_i ≥ m_k for all of them, with G_ki = 2(q_i − p_ki) from 0 to 1 and its negative from 1 to 0. For
any multipliers μ ≥ 0 and a = μ G, every such z costs

    Σ c_i z_i ≥ Σ μ_k m_k + Σ_i min_{z_i} (c_i − a_i) z_i,

where pixels that are decided have the value that they have. That is a proof, whatever μ is
(:meth:`Covering.proven`), and the best μ comes from the linear program in which pixels may flip in part. A
better bound of the same μ is the least cost of whole flips with Σ_i a_i z_i ≥ Σ μ_k m_k
(:mod:`absynth.certify.sums`). What both say of a single pixel decides most of them: flipping it, or not,
would cost more than what is known already.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from absynth.certify.boxed import best_within
from absynth.certify.contest import Array, Contest, Rows
from absynth.certify.sums import cheapest_sum
from absynth.rounding import gamma

Mask = NDArray[np.bool_]

PART = 1e-6
"""How much less than wholly a solver flips a pixel that it means to flip wholly, or not at all."""

TABULATED = 256
"""Undecided pixels at the most for which whole flips are looked at."""


class Node(NamedTuple):
    """What has been decided of each pixel; those that are neither stay.

    Attributes:
        open: Whether it is undecided.
        flipped: Whether it flips.
    """

    open: Mask
    flipped: Mask

    def decided(self, never: Mask, always: Mask) -> Node:
        """The same with more pixels decided, as far as they are open."""
        return Node(self.open & ~never & ~always, self.flipped | (self.open & always))


class Relaxed(NamedTuple):
    """A node with flips in part.

    Attributes:
        total: Proven lower bound on what it costs.
        weights: μ ≥ 0, of the first own prototypes of the pool.
        flips: How far each pixel flips.
        excess: By how much the rival is ahead at the most, if costs are 0.
    """

    total: float
    weights: Array
    flips: Array
    excess: float = 0.0


def partly(node: Node, flips: Array) -> Array:
    """How far from flipping wholly or not at all each undecided pixel is; 0 where that is nothing."""
    parts: Array = np.where(node.open, np.minimum(flips, 1 - flips), 0)
    return parts * (parts > PART)


class Covering:
    """One rival, what each flip costs, and those own prototypes that hold it off.

    Args:
        contest: Of the rival.
        costs: Of each flip.

    Attributes:
        pool: The own prototypes that are looked at.
        gains: G of these.
        direction: 1 where a flip is from black to white, −1 elsewhere.
    """

    def __init__(self, contest: Contest, costs: Array) -> None:
        self.contest, self.costs = contest, costs
        self.direction = 1 - 2 * contest.field.batch.seen[0].cpu().numpy().astype(np.float64)
        self.pool = contest.pool(np.array([contest.field.start]))
        self.gains = self.pool.gradients * self.direction

    def add(self, missed: Rows) -> None:
        """Takes further own prototypes into the pool."""
        self.pool = self.contest.pool(np.concatenate([self.pool.rows, missed]))
        self.gains = self.pool.gradients * self.direction

    def missed(self, flips: Array | Mask) -> Rows:
        """Further own prototypes that hold off the rival after flips, whatever rounding does."""
        return self.contest.missed(flips * self.direction, self.pool.rows, -self.contest.field.slack)

    def meets(self, chosen: Mask) -> bool:
        """Whether flips meet the constraints of the pool, less the slack, up to a solver's tolerance."""
        return bool((self.gains @ chosen >= self.pool.proven - PART).all())

    def cost(self, chosen: Mask) -> float:
        """What flips cost, rounded down."""
        return float(self.costs[chosen].sum() * (1 - gamma(len(self.costs) + 1, torch.float64)))

    def proven(self, node: Node, weights: Array) -> float:
        """A lower bound on what a node costs, as multipliers prove it, rounded down; NaN if they overflow.

        Args:
            node: What is decided.
            weights: μ ≥ 0, of the first own prototypes of the pool.
        """
        margins = self.pool.proven[: len(weights)]
        pull = weights @ self.gains[: len(weights)]
        left, moving = self.costs - pull, node.open | node.flipped
        value = weights @ margins + left[node.flipped].sum() + np.minimum(left[node.open], 0).sum()
        magnitude = weights @ np.abs(margins) + (self.costs + np.abs(pull))[moving].sum()
        return float(value - self.rounding(weights, magnitude))

    def rounding(self, weights: Array, magnitude: float) -> float:
        """What float64 may lose in a sum over the multipliers and the pixels.

        Each is of as many terms as there are pixels or multipliers, of a few roundings each. A pull is a sum
        over the multipliers, whose terms come to at most twice a multiplier.

        Args:
            weights: μ ≥ 0.
            magnitude: The sum of all terms without their signs.
        """
        some, pixels = len(weights), len(self.costs)
        summed = 4 * gamma(pixels + some + 16, torch.float64) * magnitude
        return float(summed + 2 * (pixels + 1) * gamma(some + 4, torch.float64) * weights.sum())

    def decide(self, node: Node, weights: Array, cutoff: float) -> Node:
        """The same with those pixels decided that cost too much one way, as the same multipliers prove.

        Args:
            node: What is decided.
            weights: μ ≥ 0, of the first own prototypes of the pool.
            cutoff: What is too much.
        """
        proven = self.proven(node, weights)
        left = self.costs - weights @ self.gains[: len(weights)]
        return node.decided((left > 0) & (proven + left > cutoff), (left < 0) & (proven - left > cutoff))

    def decide_whole(self, node: Node, relaxed: Relaxed, cutoff: float) -> tuple[Node, Relaxed]:
        """The same by whole flips whose pulls sum to enough, which also raise the bound.

        Args:
            node: What is decided.
            relaxed: What is known of it.
            cutoff: What is too much.
        """
        weights, free = relaxed.weights, np.flatnonzero(node.open)
        margins, pull = self.pool.proven[: len(weights)], weights @ self.gains[: len(weights)]
        magnitude = weights @ np.abs(margins) + np.abs(pull).sum()
        wanted = weights @ margins - pull[node.flipped].sum() - self.rounding(weights, magnitude)
        if len(free) > TABULATED or not math.isfinite(wanted):
            return node, relaxed
        found = cheapest_sum(pull[free], self.costs[free], float(wanted))
        spent, rounded_down = self.costs[node.flipped].sum(), 1 - 2 * gamma(len(pull) + 4, torch.float64)
        never, always = np.zeros_like(node.open), np.zeros_like(node.open)
        never[free] = (spent + found.within) * rounded_down > cutoff
        always[free] = (spent + found.without) * rounded_down > cutoff
        total = max(relaxed.total, float(spent + found.least) * rounded_down)
        return node.decided(never, always), relaxed._replace(total=total)

    def relax(self, node: Node, enough: float) -> Relaxed:
        """The best multipliers of a node, what they prove, and the flips in part that they come with.

        Args:
            node: What is decided.
            enough: What to prove, at least, where no flips meet the margins.
        """
        low, high = node.flipped.astype(np.float64), (node.open | node.flipped).astype(np.float64)
        free = np.flatnonzero(node.open)
        if len(free) and self.costs.any():
            result = linprog(
                self.costs[free],
                A_ub=-self.gains[:, free],
                b_ub=self.gains @ low - self.pool.proven,
                bounds=(0, 1),
                method="highs-ds",
            )
            if result.x is not None:
                low[free] = result.x
                return self._bounded(node, np.maximum(-result.ineqlin.marginals, 0), low)
        boxed = best_within(self.gains, self.pool.proven, low, high)
        if boxed is None:
            return self._bounded(node, np.zeros(len(self.gains)), low)
        # Where nothing meets the margins, multipliers that are large enough prove any cost.
        scale = 2 * max(enough, 1.0) / -boxed.excess if boxed.excess < 0 else 1.0
        return self._bounded(node, scale * boxed.weights, boxed.step, boxed.excess)

    def _bounded(self, node: Node, weights: Array, flips: Array, excess: float = 0.0) -> Relaxed:
        # Nothing costs less than what has flipped.
        return Relaxed(max(self.cost(node.flipped), self.proven(node, weights)), weights, flips, excess)
