"""One own prototype p against one rival q: how far the image is from the half-space where q beats p.

With scores s = ‖x − p‖² + w, margin m = s_q(x) − s_p(x) and gradient g = 2(q − p), a perturbation δ of what
the prototypes see leaves the margin m − ⟨g, δ⟩. So q beats p nowhere nearer than

    distance = min cost(δ)  subject to  ⟨g, δ⟩ ≥ m  and  0 ≤ abs(δ_i) ≤ room_i,

which is infinite where the room leaves no such δ, and 0 where m ≤ 0. Without anything in front room_i is
1 − x_i where g_i > 0 and x_i elsewhere, and the cost is ‖δ‖. What stands in front
(:mod:`absynth.certify.front`) changes room and cost. A module a norm has the closed forms, each case beside
the other: :mod:`~absynth.certify.halfspace.l2`, :mod:`~absynth.certify.halfspace.l1`,
:mod:`~absynth.certify.halfspace.linf` and :mod:`~absynth.certify.halfspace.l0`.

Every quantity is computed so that rounding can only make it smaller: the margin is raised by what the gains
may be off by (:meth:`Problem.of`), searches approach a root from below
(:mod:`~absynth.certify.halfspace.searches`), and what comes out is rounded down (:func:`crossing`).

The same formulas hold for a *mixture* of own prototypes with weights μ ≥ 0, Σμ = 1, whose gradient and margin
are the weighted means: where q beats every p_k it also beats their mean, so the distance to the mixture's
half-space is a lower bound on the distance to the place where q wins. :mod:`absynth.certify.polytope` looks
for the best mixture.
"""

from absynth.certify.halfspace.crossing import (
    Crossing,
    crossing,
    halfspace_distance,
    largest_gain,
    whole,
)
from absynth.certify.halfspace.l2 import dual_bound
from absynth.certify.halfspace.problem import Problem

__all__ = ["Crossing", "Problem", "crossing", "dual_bound", "halfspace_distance", "largest_gain", "whole"]
