"""The front of the closed forms: the half-space of one pair, in any norm and behind anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import GREY, Front, Grey, Threshold
from absynth.certify.halfspace import l0, l1, l2, linf
from absynth.certify.halfspace.problem import Moved, Problem
from absynth.certify.rounding import round_down
from absynth.norms import Norm

NEAREST: dict[Norm, Callable[[Problem], Moved]] = {
    "l2": l2.nearest,
    "l1": l1.nearest,
    "linf": linf.nearest,
    "l0": l0.nearest,
}
"""The closed form of each norm."""

FARTHEST: dict[Norm, Callable[[Problem, float], Tensor]] = {
    "l2": l2.farthest,
    "l1": l1.farthest,
    "linf": linf.farthest,
    "l0": l0.farthest,
}
"""Its inverse."""


class Crossing(NamedTuple):
    """Where the nearest point of a half-space is.

    Attributes:
        distance: Lower bound on the distance, infinite if the box has no such point. For L0, and for Linf
            behind the threshold, the last pixel counts in part; :func:`whole` rounds up.
        step: The perturbation that gets there, of the image or, for binary input, of the binary image with
            the last flip fractional.
    """

    distance: Float[Tensor, "*rows"]
    step: Float[Tensor, "*rows pixel"]


def crossing(
    gradient: Float[Tensor, "*rows pixel"],
    margin: Float[Tensor, "*rows"],
    image: Float[Tensor, "*#rows pixel"],
    norm: Norm,
    front: Front = GREY,
    channels: int = 1,
) -> Crossing:
    """The nearest point of the half-space ⟨g, δ⟩ ≥ m (see :mod:`absynth.certify.halfspace`).

    Works in the precision of its arguments; in float32 the bound is still sound, and a little smaller.

    Args:
        gradient: g = 2(q − p).
        margin: m.
        image: The image x in [0, 1].
        norm: Which norm measures δ.
        front: What stands between image and prototypes.
        channels: Channels of an image, outermost in ``pixel``; L0 counts a pixel once whatever its channels.
    """
    problem = Problem.of(gradient, margin, image, front, channels)
    cost, moved = NEAREST[norm](problem)
    step = (moved * (problem.slopes > 0)).copysign(gradient)
    return Crossing(round_down(cost, gradient.shape[-1] + 8), step)


def whole(
    distance: Float[Tensor, "*rows"], image: Float[Tensor, "*#rows pixel"], norm: Norm, front: Front
) -> Float[Tensor, "*rows"]:
    """Rounds up to a distance that exists: a whole number of pixels, or a cost at which some pixel flips.

    Args:
        distance: Lower bounds from :func:`crossing`, or their smallest.
        image: The image x in [0, 1].
        norm: Which norm.
        front: What stands between image and prototypes.
    """
    if norm == "l0":
        return distance.ceil()
    if norm == "linf" and isinstance(front, Threshold):
        return linf.next_level(distance, front.flip(image))
    return distance


def halfspace_distance(
    gradient: Float[Tensor, "*rows pixel"],
    margin: Float[Tensor, "*rows"],
    image: Float[Tensor, "*#rows pixel"],
    norm: Norm,
    front: Front = GREY,
    channels: int = 1,
) -> Float[Tensor, "*rows"]:
    """The distance from an image to the half-space ⟨g, δ⟩ ≥ m, rounded down; a whole number for L0.

    Arguments as for :func:`crossing`.

    >>> gradient, image = torch.tensor([3.0, 4.0]).double(), torch.tensor([0.5, 0.5]).double()
    >>> halfspace_distance(gradient, torch.tensor(1.0).double(), image, "l2")
    tensor(0.2000, dtype=torch.float64)
    >>> halfspace_distance(gradient, torch.tensor(3.0).double(), image, "l0")
    tensor(2., dtype=torch.float64)
    """
    return whole(crossing(gradient, margin, image, norm, front, channels).distance, image, norm, front)


def largest_gain(
    gradient: Float[Tensor, "*rows pixel"],
    size: float,
    image: Float[Tensor, "*#rows pixel"],
    norm: Norm,
    front: Grey | Threshold = GREY,
    channels: int = 1,
) -> Float[Tensor, "*rows"]:
    """The largest ⟨g, δ⟩ over perturbations of a given size that stay in the box: the way there, not back.

    For binary input under L1 and L2 it is an upper bound (the fractional knapsack), exact in all other cases.

    Args:
        gradient: g = 2(q − p).
        size: The size of the perturbation; a number of pixels for L0.
        image: The image x in [0, 1].
        norm: Which norm measures the size.
        front: What stands between image and prototypes, other than a clamp.
        channels: Channels of an image, outermost in ``pixel``.

    >>> largest_gain(torch.tensor([3.0, 4.0]), 0.1, torch.tensor([0.5, 1.0]), "linf")
    tensor(0.3000)
    """
    nothing = torch.zeros_like(gradient[..., 0])
    return FARTHEST[norm](Problem.of(gradient, nothing, image, front, channels), size)
