"""The exact distance in Linf behind a clamp: where a rival beats every own prototype within a box.

For a fixed size ε what is seen of each pixel moves within an interval, whatever its dead zone is. So the
question whether a rival q can beat all own prototypes p_k within ε is a linear program,

    max t  subject to  ⟨g_k, δ⟩ − m_k ≥ t for all k,  −down_i(ε) ≤ δ_i ≤ up_i(ε),

and where t < 0 its multipliers are a mixture of own prototypes whose half-space lies beyond ε. The closed
form of that mixture is the next ε to try: Newton's method, from below. It ends at the exact distance, up to
:data:`NEARLY`, since a linear program has no duality gap.

As in :mod:`absynth.certify.polytope`, the solver only picks the mixture and proposes the point.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog

from absynth.certify.contest import AHEAD, Array, Contest, Rows

NEARLY = 1e-4
"""How much more than the bound the size is that a point is looked for within."""

PROGRAMS = 100
"""The most linear programs for a rival."""


class Boxed(NamedTuple):
    """What a linear program within a box found.

    Attributes:
        weights: μ ≥ 0.
        step: δ.
        excess: t, by which the rival beats those own prototypes that were looked at.
    """

    weights: Array
    step: Array
    excess: float


class Nearest(NamedTuple):
    """The nearest place where a rival wins.

    Attributes:
        bound: Proven lower bound on its distance.
        step: A point where it wins, if there is one within the limit.
    """

    bound: float
    step: Array | None


def best_within(gradients: Array, margins: Array, low: Array, high: Array) -> Boxed | None:
    """The point of a box where a rival wins by most; None if HiGHS fails.

    Args:
        gradients: g_k, one row an own prototype.
        margins: m_k.
        low: How far what is seen of each pixel can fall, not positive.
        high: How far it can rise.
    """
    free = np.flatnonzero(low < high)
    matrix = np.hstack([-gradients[:, free], np.ones((len(gradients), 1))])
    bounds = np.stack([np.append(low[free], -np.inf), np.append(high[free], np.inf)], axis=1)
    cost = np.zeros(len(free) + 1)
    cost[-1] = -1
    fixed = np.where(low < high, 0, high)
    limits = gradients @ fixed - margins
    result = linprog(cost, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs-ds")
    if result.x is None:
        return None
    fixed[free] = result.x[:-1]
    return Boxed(np.maximum(-result.ineqlin.marginals, 0), fixed, float(result.x[-1]))


def project_in_box(contest: Contest, known: float, limit: float, end: float) -> Nearest:
    """The nearest place in Linf behind a clamp where a rival beats every own prototype.

    Args:
        contest: Of the rival.
        known: A lower bound that is known already.
        limit: The distance beyond which nothing is of interest.
        end: When to stop, in seconds of the clock that only goes forward.
    """
    front, image = contest.field.search.codebook.front, contest.image
    ahead = AHEAD + contest.field.slack
    rows: Rows = np.array([contest.field.start])
    bound = max(known, contest.bound(rows, np.ones(1)))
    aim = bound + NEARLY
    for _ in range(PROGRAMS):
        if bound >= limit or time.monotonic() >= end:
            break
        size = torch.tensor([aim], dtype=torch.float64, device=image.device)
        high, low = front.up_within(image, size).cpu().numpy(), -front.down_within(image, size).cpu().numpy()
        found = best_within(contest.gradients(rows), contest.wanted[rows] + ahead, low, high)
        if found is None or not found.weights.any():
            break
        bound = max(bound, contest.bound(rows, found.weights))
        if found.excess < 0:
            # Where the closed form falls short of the program by rounding, the size still grows.
            aim = max(bound + NEARLY, aim + NEARLY)
            continue
        missed = contest.missed(found.step, rows, ahead / 2)
        if len(missed) == 0:
            return Nearest(bound, found.step)
        rows = np.concatenate([rows, missed])
    return Nearest(bound, None)
