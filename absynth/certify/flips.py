"""The cheapest flips behind a threshold with which a rival beats every own prototype: branch and bound.

Multipliers prove what flips cost at least, and decide most pixels (:mod:`absynth.certify.covering`). Of the
few that are left, the ones that flip in part are tried both ways. HiGHS, as a solver of integer programs,
proposes the answer; it proves nothing here. Flips that meet the margins less the slack count as lost,
whatever the model says of them: in another batch it may round otherwise.

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

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from absynth.certify.boxed import Nearest
from absynth.certify.contest import Array, Contest
from absynth.certify.covering import PART, Covering, Mask, Node, Relaxed, partly
from absynth.certify.polytope import CUTS
from absynth.rounding import gamma

Fools = Callable[[Array], bool]
"""Whether a model decides otherwise after flips: 1 from black to white, -1 from white to black, else 0."""

ROUNDS = 5
"""How often a node is looked at again where more of it is decided."""

SOLVER_SHARE = 0.25
"""Of the time that is left, what the solver of integer programs may take for a proposal."""

SAME = 1e-6
"""Levels are further apart than this, and the distance of an adversarial is nearer to its level."""


class FlipSearch:
    """The search for the flips of one rival that cost least.

    Args:
        covering: Of the rival.
        best: What is of no more interest.
        tolerance: How near to the best, as distances, is near enough; None where costs are whole numbers.
        power: Of distances that costs are.
        fools: Whether the model itself decides otherwise after some flips.
        end: When to stop, in seconds of the clock that only goes forward.

    Attributes:
        best: The cost of what was found, or what it was.
        found: The flips; None if there are none that cost less.
        lost: The least cost of flips that may make the rival win and that nothing proves any more of.
    """

    def __init__(
        self, covering: Covering, best: float, tolerance: float | None, power: int, fools: Fools, end: float
    ) -> None:
        self.covering, self.best, self.end = covering, best, end
        self.tolerance, self.power, self.fools = tolerance, power, fools
        self.found: Mask | None = None
        self.lost = math.inf
        self._heap: list[tuple[float, float, int, Node, Relaxed]] = []
        self._order = count()

    @property
    def cutoff(self) -> float:
        """Nodes that cost more have nothing better, or nothing that is better by enough."""
        if self.tolerance is None:
            return self.best - 1
        distance = max(self.best ** (1 / self.power) - self.tolerance, 0.0)
        return float(distance**self.power)

    def run(self, allowed: Mask) -> float:
        """Proven lower bound on what the flips cost, of :attr:`cutoff` at the most, or of a whole number.

        Args:
            allowed: Which pixels may flip.
        """
        self.examine(Node(allowed, np.zeros_like(allowed)), 0.0, ask=True)
        while self._heap and self._heap[0][0] <= self.cutoff and self._heap[0][0] < self.lost:
            if time.monotonic() >= self.end:
                break
            total, _, _, before, relaxed = heapq.heappop(self._heap)
            node = self.covering.decide(before, relaxed.weights, self.cutoff)
            parts = partly(node, relaxed.flips)
            if not parts.any() and node.open.sum() < before.open.sum():
                self.examine(node, total)
                continue
            pixel = int((parts + PART * relaxed.flips * node.open + PART**2 * node.open).argmax())
            one = np.arange(len(parts)) == pixel
            self.examine(Node(node.open & ~one, node.flipped | one), total)
            self.examine(Node(node.open & ~one, node.flipped), total)
        left = self._heap[0][0] if self._heap else math.inf
        return min(left, self.lost, self.best if self.tolerance is None else self.cutoff)

    def examine(self, node: Node, least: float, ask: bool = False) -> None:
        """Decides more of a node, proposes answers, and keeps it if it may have better ones.

        Args:
            node: What is decided.
            least: A lower bound on what it costs that is known already.
            ask: Whether to have HiGHS propose an answer, too.
        """
        every = not self._heap
        for _ in range(ROUNDS):
            relaxed, lost = self.cut(node, every)
            if relaxed.total > self.cutoff:
                return
            if not partly(node, relaxed.flips).any():
                self.offer(relaxed.flips > 0.5)
            self.propose(relaxed.flips)
            if lost:
                break
            node = self.covering.decide(node, relaxed.weights, self.cutoff)
            if self.tolerance is not None:
                node, relaxed = self.covering.decide_whole(node, relaxed, self.cutoff)
            at_least, at_most = node.flipped, node.open | node.flipped
            if ((relaxed.flips > at_least - PART) & (relaxed.flips < at_most + PART)).all():
                break
        if ask and relaxed.total <= self.cutoff:
            self.ask(node)
        total = max(relaxed.total, least)
        if total > self.cutoff:
            return
        if lost or not node.open.any():
            self.lost = min(self.lost, total)
        else:
            heapq.heappush(self._heap, (total, -relaxed.excess, next(self._order), node, relaxed))

    def cut(self, node: Node, every: bool) -> tuple[Relaxed, bool]:
        """A node with flips in part, and whether they are whole and may make the rival win.

        Args:
            node: What is decided.
            every: Whether to look for further own prototypes that matter, which takes longer than all else;
                without them the bound is smaller. Where no pixel flips in part they are looked for anyway.
        """
        for _ in range(CUTS):
            relaxed = self.covering.relax(node, self.best)
            whole = not partly(node, relaxed.flips).any()
            if relaxed.total > self.cutoff or not (every or whole):
                break
            missed = self.covering.missed(relaxed.flips)
            if len(missed) == 0:
                return relaxed, whole and self.covering.meets(relaxed.flips > 0.5)
            self.covering.add(missed)
        return relaxed, False

    def propose(self, flips: Array) -> None:
        """Flips every pixel that flips in part, and takes back those that are not needed."""
        chosen, gains = flips > PART, self.covering.gains
        spare = gains @ chosen - self.covering.pool.ahead
        for pixel in np.flatnonzero(chosen)[np.argsort(flips[chosen])]:
            if (spare >= gains[:, pixel]).all():
                chosen[pixel] = False
                spare -= gains[:, pixel]
        self.offer(chosen)

    def offer(self, chosen: Mask) -> bool:
        """Keeps flips that cost less if the model itself decides otherwise; whether nothing else was learned.

        Args:
            chosen: The flips.
        """
        cost = float(self.covering.costs[chosen].sum())
        if cost >= self.best or not self.covering.meets(chosen):
            return True
        missed = self.covering.missed(chosen)
        if len(missed):
            self.covering.add(missed)
            return False
        if self.fools(chosen * self.covering.direction):
            self.best, self.found = cost, chosen
        return True

    def ask(self, node: Node) -> None:
        """Has HiGHS look for whole flips; what does not cost anything is done for the margins' sake."""
        covering, free = self.covering, np.flatnonzero(node.open)
        for _ in range(CUTS):
            left = self.end - time.monotonic()
            if left <= 0 or len(free) == 0:
                return
            prices = covering.costs[free] if covering.costs.any() else -covering.gains[:, free].mean(0)
            result = milp(
                prices,
                integrality=np.ones(len(free)),
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(
                    covering.gains[:, free], covering.pool.ahead - covering.gains @ node.flipped
                ),
                options={"time_limit": SOLVER_SHARE * left},
            )
            if result.x is None:
                return
            chosen = node.flipped.copy()
            chosen[free] = result.x > 0.5
            if self.offer(chosen):
                return


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
    search = FlipSearch(Covering(contest, costs), min(limit**power, beyond), near_enough, power, fools, end)
    proven = search.run(np.ones(len(costs), dtype=bool))
    if norm == "l0":
        bound = float(math.ceil(proven))
    else:
        bound = proven ** (1 / power) * (1 - 8 * gamma(8, torch.float64))
    if search.found is None and proven > beyond - 1:
        return Nearest(math.inf, None)
    return Nearest(bound, None if search.found is None else search.found * search.covering.direction)


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
    # Where nothing has to flip, a tie is all that there is.
    levels = np.unique(np.append(costs, 0.0))
    for level in levels[levels >= known - SAME].tolist():
        if level >= limit - SAME or time.monotonic() >= end:
            return Nearest(level, None)
        search = FlipSearch(Covering(contest, np.zeros(len(costs))), 1.0, None, 1, fools, end)
        proven = search.run(costs <= level)
        if search.found is not None:
            return Nearest(level, search.found * search.covering.direction)
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
