"""The cheapest flips behind a threshold with which a rival beats every own prototype: branch and bound.

What is seen of a pixel flips or stays, z_i ∈ {0, 1}. A rival q beats all own prototypes p_k where
Σ_i G_ki z_i ≥ m_k for all of them, with G_ki = 2(q_i − p_ki) from 0 to 1 and its negative from 1 to 0. For
any multipliers μ ≥ 0 and a = μ G, every such z costs

    Σ c_i z_i ≥ Σ μ_k m_k + Σ_i min_{z_i} (c_i − a_i) z_i,

where pixels that are decided have the value that they have. That is a proof, whatever μ is
(:meth:`_Covering.proven`), and the best μ comes from the linear program in which pixels may flip in part.
What it says of a single pixel decides most of them: flipping it, or not, would cost more than what is known
already. Of the few that are left, the ones that flip in part are tried both ways. HiGHS, as a solver of
integer programs, proposes the answer; it proves nothing here. Where every pixel is decided the model is asked
itself: behind a threshold there is a single image to see.

- **L0, L1, L2**: c_i is 1, abs(x_i − ½) and its square.
- **Linf**: the levels abs(x_i − ½) are gone through from below. A level says which pixels may flip; they
  cost nothing, and a sum above that is larger than 0 proves that no such flips make the rival win.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor

from absynth.certify.boxed import Nearest, best_within
from absynth.certify.contest import Array, Contest, Rows
from absynth.certify.polytope import CUTS
from absynth.rounding import gamma

Mask = NDArray[np.bool_]

Fools = Callable[[Array], bool]
"""Whether a model decides otherwise after flips: 1 from black to white, -1 from white to black, else 0."""

PART = 1e-6
"""How much less than wholly a solver flips a pixel that it means to flip wholly, or not at all."""

SOLVER_SHARE = 0.25
"""Of the time that is left, what the solver of integer programs may take for a proposal."""

SAME = 1e-6
"""Levels are further apart than this, and the distance of an adversarial is nearer to its level."""


class Node(NamedTuple):
    """What has been decided of each pixel; those that are neither stay.

    Attributes:
        open: Whether it is undecided.
        flipped: Whether it flips.
    """

    open: Mask
    flipped: Mask


class Relaxed(NamedTuple):
    """A node with flips in part.

    Attributes:
        total: Proven lower bound on what it costs.
        weights: μ ≥ 0, of the first own prototypes of the pool.
        flips: How far each pixel flips.
    """

    total: float
    weights: Array
    flips: Array


def partly(node: Node, flips: Array) -> Array:
    """How far from flipping wholly or not at all each undecided pixel is; 0 where that is nothing."""
    parts: Array = np.where(node.open, np.minimum(flips, 1 - flips), 0)
    return parts * (parts > PART)


class _Covering:
    """The search for the flips of one rival that cost least.

    Args:
        contest: Of the rival.
        costs: Of each flip.
        best: What is of no more interest.
        tolerance: How near to the best, as distances, is near enough; None where costs are whole numbers.
        power: Of distances that costs are.
        fools: Whether the model itself decides otherwise after some flips.
        end: When to stop, in seconds of the clock that only goes forward.

    Attributes:
        best: The cost of what was found, or what it was.
        found: The flips; None if there are none that cost less.
    """

    def __init__(
        self,
        contest: Contest,
        costs: Array,
        best: float,
        tolerance: float | None,
        power: int,
        fools: Fools,
        end: float,
    ) -> None:
        self.contest, self.costs, self.best, self.end = contest, costs, best, end
        self.tolerance, self.power, self.fools = tolerance, power, fools
        self.direction = 1 - 2 * contest.field.batch.seen[0].cpu().numpy().astype(np.float64)
        self.found: Mask | None = None
        self.pool = contest.pool(np.array([contest.field.start]))
        self.gains = self.pool.gradients * self.direction

    @property
    def cutoff(self) -> float:
        """Nodes that cost more have nothing better, or nothing that is better by enough."""
        if self.tolerance is None:
            return self.best - 1
        distance = max(self.best ** (1 / self.power) - self.tolerance, 0.0)
        return float(distance**self.power)

    def add(self, missed: Rows) -> None:
        """Takes further own prototypes into the pool."""
        self.pool = self.contest.pool(np.concatenate([self.pool.rows, missed]))
        self.gains = self.pool.gradients * self.direction

    def proven(self, node: Node, weights: Array) -> float:
        """A lower bound on what a node costs, as multipliers prove it, rounded down; NaN if they overflow.

        Args:
            node: What is decided.
            weights: μ ≥ 0, of the first own prototypes of the pool.
        """
        some, pixels = len(weights), len(self.costs)
        margins = self.pool.proven[:some]
        pull = weights @ self.gains[:some]
        left, moving = self.costs - pull, node.open | node.flipped
        value = weights @ margins + left[node.flipped].sum() + np.minimum(left[node.open], 0).sum()
        # Each sum is of as many terms as there are pixels or multipliers, of a few roundings each. A pull is
        # a sum over the multipliers, whose terms come to at most twice a multiplier.
        magnitude = weights @ np.abs(margins) + (self.costs + np.abs(pull))[moving].sum()
        rounding = 4 * gamma(pixels + some + 16, torch.float64) * magnitude
        rounding += 2 * pixels * gamma(some + 4, torch.float64) * weights.sum()
        return float(value - rounding)

    def decide(self, node: Node, weights: Array) -> Node:
        """The same with those pixels decided that cost too much one way, as the same multipliers prove.

        Args:
            node: What is decided.
            weights: μ ≥ 0, of the first own prototypes of the pool.
        """
        proven = self.proven(node, weights)
        left = self.costs - weights @ self.gains[: len(weights)]
        never = node.open & (left > 0) & (proven + left > self.cutoff)
        always = node.open & (left < 0) & (proven - left > self.cutoff)
        return Node(node.open & ~never & ~always, node.flipped | always)

    def relax(self, node: Node) -> tuple[Array, Array]:
        """The best multipliers of a node and the flips in part that they come with."""
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
                return np.maximum(-result.ineqlin.marginals, 0), low
        boxed = best_within(self.gains, self.pool.proven, low, high)
        if boxed is None:
            return np.zeros(len(self.gains)), low
        # Where nothing meets the margins, multipliers that are large enough prove any cost.
        scale = 2 * max(self.best, 1.0) / -boxed.excess if boxed.excess < 0 else 1.0
        return scale * boxed.weights, boxed.step

    def examine(self, node: Node, every: bool) -> Relaxed:
        """A node with flips in part, which are rounded to propose an answer.

        Args:
            node: What is decided.
            every: Whether to look for further own prototypes that matter, which takes longer than all else;
                without them the bound is smaller. Where no pixel flips in part they are looked for anyway.
        """
        for _ in range(CUTS):
            weights, flips = self.relax(node)
            # Nothing costs less than what has flipped.
            flipped = self.costs[node.flipped].sum() * (1 - gamma(len(self.costs) + 1, torch.float64))
            total = max(float(flipped), self.proven(node, weights))
            if total > self.cutoff:
                return Relaxed(total, weights, flips)
            if not every and partly(node, flips).any():
                break
            missed = self.missed(flips)
            if len(missed) == 0:
                break
            self.add(missed)
        if not partly(node, flips).any():
            self.offer(flips > 0.5)
        self.propose(flips)
        return Relaxed(total, weights, flips)

    def propose(self, flips: Array) -> None:
        """Flips every pixel that flips in part, and takes back those that are not needed."""
        chosen = flips > PART
        spare = self.gains @ chosen - self.pool.ahead
        for pixel in np.flatnonzero(chosen)[np.argsort(flips[chosen])]:
            if (spare >= self.gains[:, pixel]).all():
                chosen[pixel] = False
                spare -= self.gains[:, pixel]
        self.offer(chosen)

    def offer(self, chosen: Mask) -> bool:
        """Keeps flips that cost less if they make the rival win; whether nothing was learned instead."""
        cost = float(self.costs[chosen].sum())
        if cost >= self.best or (self.gains @ chosen < self.pool.proven - PART).any():
            return True
        missed = self.missed(chosen)
        if len(missed):
            self.add(missed)
            return False
        self.take(chosen)
        return True

    def take(self, chosen: Mask) -> None:
        """Keeps flips if they cost less and the model says so itself."""
        cost = float(self.costs[chosen].sum())
        if cost < self.best and self.fools(chosen * self.direction):
            self.best, self.found = cost, chosen

    def missed(self, flips: Array | Mask) -> Rows:
        """Further own prototypes that hold off the rival after flips, whatever rounding does."""
        return self.contest.missed(flips * self.direction, self.pool.rows, -self.contest.field.slack)

    def ask(self, node: Node) -> None:
        """Has HiGHS look for whole flips; what does not cost anything is done for the margins' sake."""
        for _ in range(CUTS):
            left, free = self.end - time.monotonic(), np.flatnonzero(node.open)
            if left <= 0 or len(free) == 0:
                return
            prices = self.costs[free] if self.costs.any() else -self.gains[:, free].mean(0)
            wanted = self.pool.ahead - self.gains @ node.flipped
            result = milp(
                prices,
                integrality=np.ones(len(free)),
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(self.gains[:, free], wanted),
                options={"time_limit": SOLVER_SHARE * left},
            )
            if result.x is None:
                return
            chosen = node.flipped.copy()
            chosen[free] = result.x > 0.5
            if self.offer(chosen):
                return

    def run(self, allowed: Mask) -> float:
        """Proven lower bound on what the flips cost, of :attr:`cutoff` at the most, or of a whole number.

        Args:
            allowed: Which pixels may flip.
        """
        order = count()
        heap: list[tuple[float, int, Node, Relaxed]] = []

        def push(node: Node, least: float) -> None:
            relaxed = self.examine(node, every=not heap)
            relaxed = relaxed._replace(total=max(relaxed.total, least))
            if relaxed.total <= self.cutoff:
                heapq.heappush(heap, (relaxed.total, next(order), node, relaxed))

        push(Node(allowed, np.zeros_like(allowed)), 0.0)
        if heap:
            self.ask(self.decide(heap[0][2], heap[0][3].weights))
        while heap and heap[0][0] <= self.cutoff and time.monotonic() < self.end:
            total, _, before, relaxed = heapq.heappop(heap)
            node = self.decide(before, relaxed.weights)
            if not node.open.any():
                # What is seen is known wholly, and the model has an answer to it.
                self.take(node.flipped)
                continue
            parts = partly(node, relaxed.flips)
            if not parts.any() and node.open.sum() < before.open.sum():
                push(node, total)
                continue
            pixel = int((parts + PART * relaxed.flips * node.open + PART**2 * node.open).argmax())
            one = np.arange(len(parts)) == pixel
            for flipped in (node.flipped | one, node.flipped):
                push(Node(node.open & ~one, flipped), total)
        left = heap[0][0] if heap else math.inf
        return min(left, self.best if self.tolerance is None else self.cutoff)


def flip_costs(contest: Contest) -> Array:
    """abs(x_i − ½) of each pixel."""
    costs: Array = contest.field.search.codebook.front.cost_up(contest.image).cpu().numpy()
    return costs


def project_by_flips(contest: Contest, limit: float, tolerance: float, fools: Fools, end: float) -> Nearest:
    """The nearest place in L0, L1 or L2 behind a threshold where a rival beats every own prototype.

    Args:
        contest: Of the rival.
        limit: The distance beyond which nothing is of interest, or infinite.
        tolerance: How near the bound has to come to the distance of what is found, in L1 and L2.
        fools: Whether the model itself decides otherwise after some flips.
        end: When to stop, in seconds of the clock that only goes forward.
    """
    norm, costs = contest.field.search.norm, flip_costs(contest)
    power = 2 if norm == "l2" else 1
    costs = np.ones(len(costs)) if norm == "l0" else costs**power
    beyond = costs.sum() + 1
    near_enough = None if norm == "l0" else tolerance
    search = _Covering(contest, costs, min(limit**power, beyond), near_enough, power, fools, end)
    proven = search.run(np.ones(len(costs), dtype=bool))
    if norm == "l0":
        bound = float(math.ceil(proven))
    else:
        bound = proven ** (1 / power) * (1 - 8 * gamma(8, torch.float64))
    if search.found is None and proven > beyond - 1:
        return Nearest(math.inf, None)
    return Nearest(bound, None if search.found is None else search.found * search.direction)


def project_by_levels(contest: Contest, known: float, limit: float, fools: Fools, end: float) -> Nearest:
    """The nearest place in Linf behind a threshold where a rival beats every own prototype.

    Args:
        contest: Of the rival.
        known: A lower bound that is known already.
        limit: The distance beyond which nothing is of interest.
        fools: Whether the model itself decides otherwise after some flips.
        end: When to stop, in seconds of the clock that only goes forward.
    """
    costs = flip_costs(contest)
    for level in np.unique(costs[costs >= known - SAME]).tolist():
        if level >= limit - SAME or time.monotonic() >= end:
            return Nearest(level, None)
        search = _Covering(contest, np.zeros(len(costs)), 1.0, None, 1, fools, end)
        proven = search.run(costs <= level)
        if search.found is not None:
            return Nearest(level, search.found * search.direction)
        if not proven > 0:
            return Nearest(level, None)
    return Nearest(math.inf, None)


def flipped_image(contest: Contest, step: Array) -> Float[Tensor, "pixel"]:
    """The nearest image of which what is seen has flipped; pixels that do not flip stay as they are.

    White pixels become ½, which is seen as black, and black ones the next number of float32.

    Args:
        contest: Whose image it is.
        step: 1 from black to white, −1 from white to black, else 0.
    """
    moved = torch.from_numpy(step).to(contest.image.device)
    black = torch.tensor(0.5, device=moved.device)
    white = torch.nextafter(black, torch.ones_like(black))
    image = contest.image.float()
    return torch.where(moved > 0.5, white, torch.where(moved < -0.5, black, image))
