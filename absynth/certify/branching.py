"""The cheapest place where a rival beats every own prototype, where moving a pixel costs a fee.

Branch and bound over the pixels that pay (:mod:`absynth.certify.fees`), the most promising node first. Each
node is bounded by multipliers, whose proof needs no solver, and proposes a step: of what the hulls ask for,
it lets those pixels pay that move by a good part of their hull's straight part, and keeps all others still.
The bound of the rival is the smallest of all leaves, also of those that were given up, so that stopping
early makes it smaller and no less true. The search stops where the bound meets the best place found, or at
the end of its time.
"""

from __future__ import annotations

import heapq
import math
import time
from itertools import count

import numpy as np

from absynth.certify.boxed import Nearest
from absynth.certify.contest import AHEAD, Array, Contest
from absynth.certify.fees import Fees, fees_of
from absynth.certify.polytope import CUTS

SHARES = (0.5, 0.15)
"""Shares of its hull's straight part from which on a pixel pays in what is proposed."""


class _Branching:
    """The search for one rival.

    Args:
        contest: Of the rival.
        limit: The distance beyond which nothing is of interest.
    """

    def __init__(self, contest: Contest, limit: float) -> None:
        self.contest = contest
        self.pool = contest.pool(np.array([contest.field.start]))
        self.best = limit
        self.step: Array | None = None

    def bound(self, fees: Fees, weights: Array) -> tuple[float, Array, Array, bool]:
        """A node's bound, its multipliers, its step, and whether the rival wins there."""
        enough = fees.cost(self.best) * 1.1
        for _ in range(CUTS):
            pool = self.pool
            start = np.concatenate([weights, np.zeros(len(pool.rows) - len(weights))])
            weights, step = fees.solve(pool.gradients, pool.ahead, start, enough)
            proven = fees.bound(pool.gradients, pool.proven, weights)
            if proven >= self.best:
                return proven, weights, step, False
            if (pool.gradients @ step < pool.ahead - AHEAD / 2 - self.contest.field.slack).any():
                # The solver has not met its own constraints.
                return proven, weights, step, False
            missed = self.contest.missed(step, pool.rows, AHEAD / 2 + self.contest.field.slack)
            if len(missed) == 0:
                return proven, weights, step, True
            self.pool = self.contest.pool(np.concatenate([pool.rows, missed]))
        return proven, weights, step, False

    def propose(self, fees: Fees, weights: Array, step: Array) -> None:
        """Looks for a cheap place where the rival wins near what the hulls ask for."""
        for share in SHARES:
            _, _, found, wins = self.bound(fees.decide_all(step, share), weights)
            distance = fees.distance(float(fees.costs(found).sum()))
            if wins and distance < self.best:
                self.best, self.step = distance, found

    def run(self, tolerance: float, end: float) -> Nearest:
        """The bound, and the cheapest place found.

        Args:
            tolerance: Nodes whose bounds come this near to the best distance are given up.
            end: When to stop, in seconds of the clock that only goes forward.
        """
        order = count()
        root = fees_of(self.contest)
        bound, weights, step, wins = self.bound(root, np.zeros(1))
        heap = [(bound, next(order), root, weights, step, wins)]
        leaves = math.inf
        while heap and heap[0][0] < self.best - tolerance and time.monotonic() < end:
            bound, _, fees, weights, step, wins = heapq.heappop(heap)
            if wins:
                self.propose(fees, weights, step)
            gaps = fees.open(step)
            pixel = int(gaps.argmax())
            if gaps[pixel] <= 0 or not wins:
                leaves = min(leaves, bound)
                continue
            for pays in (True, False):
                child = fees.decide(pixel, pays)
                below, weights_below, step_below, wins_below = self.bound(child, weights)
                below = max(below, bound)
                heapq.heappush(heap, (below, next(order), child, weights_below, step_below, wins_below))
        return Nearest(min([leaves, *(node[0] for node in heap)]), self.step)


def project_with_fees(contest: Contest, limit: float, tolerance: float, end: float) -> Nearest:
    """The nearest place in L2 or L1 behind a clamp where a rival beats every own prototype.

    Args:
        contest: Of the rival.
        limit: The distance beyond which nothing is of interest.
        tolerance: How near the bound has to come to the distance of what is found.
        end: When to stop, in seconds of the clock that only goes forward.
    """
    return _Branching(contest, limit).run(tolerance, end)
