"""The exact distance to where a rival beats *every* own prototype: projection onto a polytope in the box.

For a rival q that place is {x + δ in the box : ⟨g_k, δ⟩ ≥ m_k for all own p_k}. Few of the thousands of
constraints matter, so they are generated: project onto the ones at hand, add the own prototypes that beat q
by most at the projected point, repeat until none does.

- **L2**: the dual of the projection is max_{μ ≥ 0} Σ μ_k m_k + Σ_i min_{δ_i} (½ δ_i² − a_i δ_i) with
  a = Σ μ_k g_k, whose inner minimum is δ = clip(a, −x, 1 − x). It is concave and piecewise quadratic, and as
  large as the number of constraints: Newton's method, with a small non-negative least squares problem a step,
  takes some ten steps.
- **L1, Linf**: linear programs, solved by HiGHS.

Whatever the solver answers, its multipliers μ only pick a mixture of own prototypes
(:mod:`absynth.certify.mixture`) whose closed form is then the bound: no solver's tolerance enters the proof.
And the point δ only proposes an adversarial, which counts when the model itself says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog, nnls

from absynth.norms import Norm

Array = NDArray[np.float64]

CUTS = 40
"""Rounds of constraints added."""

ADDED = 4
"""Constraints added a round."""

VIOLATION = 1e-4
"""How much an own prototype may beat the rival at the point found; worth about 1e-5 of radius."""

NEWTON_STEPS = 60
"""Steps of the dual ascent."""

SHARES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11)
"""Shares of a Newton step that are tried; the least are for where the dual is nearly linear."""


class Projection(NamedTuple):
    """The nearest point of a polytope and what proves it.

    Attributes:
        rows: Own prototypes whose constraints were used.
        weights: Their multipliers μ ≥ 0, not all zero: where no multiplier is needed the first one is 1.
        step: δ; None if the constraints were found to leave no point.
    """

    rows: NDArray[np.int64]
    weights: Array
    step: Array | None


class Response(NamedTuple):
    """How a step answers to a pull a = Σ μ_k g_k, pixel by pixel.

    Attributes:
        step: The δ with the smallest cost(δ) − ⟨a, δ⟩.
        slope: The derivative of each δ_i by its a_i.
        value: That smallest value.
    """

    step: Array
    slope: Array
    value: float


def ascend(
    gradients: Array, margins: Array, respond: Callable[[Array], Response], start: Array, enough: float
) -> tuple[Array, Array]:
    """The multipliers with the largest μ·m + value(μ G), by Newton's method, and the step they come with.

    Args:
        gradients: G, one row a constraint.
        margins: m.
        respond: Whose value is concave and piecewise quadratic.
        start: Multipliers to begin with.
        enough: Stop once the maximum is known to exceed it, as it does without end where no step is enough.
    """
    weights = start

    def evaluate(trial: Array) -> tuple[float, Response]:
        response = respond(trial @ gradients)
        return float(trial @ margins) + response.value, response

    value, response = evaluate(weights)
    for _ in range(NEWTON_STEPS):
        slope = margins - gradients @ response.step
        wrong = np.where(weights > 0, np.abs(slope), slope)
        if wrong.max() < 1e-9 or value > enough:
            break
        moving = response.slope > 0
        some = gradients[:, moving] * np.sqrt(response.slope[moving])
        curvature = some @ some.T
        # Where no pixel moves the dual is linear; the ridge makes the step long but finite.
        curvature[np.diag_indices_from(curvature)] += 1e-9 * (1 + curvature.trace())
        direction = _model_maximum(curvature, slope + curvature @ weights) - weights
        for share in SHARES:
            trial = np.maximum(weights + share * direction, 0)
            better = evaluate(trial)
            if better[0] > value:
                break
        else:
            break
        weights = trial
        value, response = better
    return weights, response.step


def dual_ascent(
    gradients: Array, margins: Array, low: Array, high: Array, limit: float
) -> tuple[Array, Array]:
    """Projects the origin onto {δ : G δ ≥ m, low ≤ δ ≤ high} in L2.

    Args:
        gradients: G, one row a constraint.
        margins: m.
        low: −x.
        high: 1 − x.
        limit: Stop once the distance is known to exceed it, as it does without end where there is no point.

    Returns:
        The multipliers and δ.
    """

    def respond(pull: Array) -> Response:
        step = np.clip(pull, low, high)
        free = ((pull > low) & (pull < high)).astype(np.float64)
        return Response(step, free, float((0.5 * step * step - pull * step).sum()))

    return ascend(gradients, margins, respond, np.zeros(len(margins)), 0.5 * limit * limit)


def _model_maximum(curvature: Array, linear: Array) -> Array:
    """The w ≥ 0 with the largest linear·w − ½ wᵀ curvature w, as non-negative least squares."""
    factor = np.linalg.cholesky(curvature)
    weights: Array = nnls(factor.T, np.linalg.solve(factor, linear), maxiter=100 * len(linear))[0]
    return weights


def linear_program(
    gradients: Array, margins: Array, low: Array, high: Array, norm: Norm
) -> tuple[Array, Array] | None:
    """The same projection in L1 or Linf; None if HiGHS finds no point.

    L1 splits δ into what goes up and what goes down; Linf adds ε ≥ abs(δ_i) as a variable.

    Args:
        gradients: G, one row a constraint.
        margins: m.
        low: −x.
        high: 1 − x.
        norm: ``"l1"`` or ``"linf"``.
    """
    pixels = len(low)
    if norm == "l1":
        cost = np.ones(2 * pixels)
        matrix = np.hstack([-gradients, gradients])
        limits = margins
        bounds = np.stack([np.zeros(2 * pixels), np.concatenate([high, -low])], axis=1)
    else:
        cost = np.zeros(pixels + 1)
        cost[-1] = 1
        identity, column = sparse.identity(pixels), np.ones((pixels, 1))
        matrix = sparse.bmat(
            [[-gradients, np.zeros((len(margins), 1))], [identity, -column], [-identity, -column]],
            format="csr",
        )
        limits = np.concatenate([margins, np.zeros(2 * pixels)])
        bounds = np.stack([np.append(low, 0), np.append(high, 1)], axis=1)
    limits = np.concatenate([-margins, limits[len(margins) :]])
    result = linprog(cost, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs")
    if result.x is None:
        return None
    weights = np.maximum(-result.ineqlin.marginals[: len(margins)], 0)
    step = result.x[:pixels] - result.x[pixels:] if norm == "l1" else result.x[:pixels]
    return weights, step


def project(
    image: Array, rival: Array, own: NDArray[np.float32], margins: Array, norm: Norm, start: int, limit: float
) -> Projection:
    """The point nearest to an image where a rival beats every own prototype.

    Args:
        image: x.
        rival: q.
        own: All own prototypes p_k, one a row.
        margins: s_q(x) − s_k(x) of each.
        norm: ``"l2"``, ``"l1"`` or ``"linf"``.
        start: The own prototype to begin with.
        limit: Under L2, the distance beyond which the point is of no interest.
    """
    low, high = -image, 1 - image
    rows = np.array([start])
    for _ in range(CUTS):
        gradients, wanted = 2 * (rival - own[rows].astype(np.float64)), margins[rows]
        if norm == "l2":
            weights, step = dual_ascent(gradients, wanted, low, high, limit)
        elif solved := linear_program(gradients, wanted, low, high, norm):
            weights, step = solved
        else:
            # Multipliers that put the point outside the box prove that there is none.
            weights, _ = dual_ascent(gradients, wanted, low, high, 2 * len(image) ** 0.5)
            return Projection(rows, _not_all_zero(weights), None)
        behind = margins - 2 * (rival @ step - own @ step.astype(np.float32))
        worst = furthest_behind(behind, rows, VIOLATION)
        if len(worst) == 0 or (norm == "l2" and np.linalg.norm(step) > limit):
            break
        rows = np.concatenate([rows, worst])
    return Projection(rows, _not_all_zero(weights), step)


def furthest_behind(behind: Array, known: NDArray[np.int64], allowed: float) -> NDArray[np.int64]:
    """The constraints that a point misses by most, :data:`ADDED` of them at the most.

    Args:
        behind: By how much it misses each; that of the known ones is overwritten.
        known: Constraints that are taken account of already.
        allowed: By how much one may be missed.
    """
    behind[known] = -np.inf
    worst = np.argpartition(-behind, min(ADDED, len(behind) - 1))[:ADDED]
    return worst[behind[worst] > allowed]


def _not_all_zero(weights: Array) -> Array:
    return weights if weights.any() else np.eye(1, len(weights))[0]
