"""How much the own score can grow within a distance: what the forward's rounding is measured by.

The slack of :func:`absynth.certify.rounding.forward_slack` needs an upper bound on the own score over the
certified ball, s_y(x') ≤ s_p0(x') = s_p0(x) + growth. Moving a pixel by d from a prototype at distance e adds
(e + d)² − e² ≤ 2ed + d², and at most 2d and at most 1, as all of it stays in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import Front, Threshold
from absynth.norms import Norm

LEVELS = (64.0, 256.0)
"""Growths allowed for, the smaller the tighter; then one a pixel, which is all there can be."""

FLIPS: dict[Norm, Callable[[Tensor, Tensor], Tensor]] = {
    "l0": lambda costs, distance: torch.arange(1, costs.shape[1] + 1, device=costs.device) <= distance,
    "l1": lambda costs, distance: costs.cumsum(1) <= distance,
    "l2": lambda costs, distance: costs.square().cumsum(1) <= distance.square(),
    "linf": lambda costs, distance: costs <= distance,
}
"""Which of the flips that cost least, in ascending order, are possible together within a distance."""

ROUNDED_DOWN = 1 - 1e-9
"""Far more than float64 loses here."""


def diameter(norm: Norm, pixels: int, channels: int) -> float:
    """The largest distance between two images, which no radius needs to exceed."""
    return {"l2": math.sqrt(pixels), "l1": float(pixels), "linf": 1.0, "l0": float(pixels // channels)}[norm]


def reach(
    image: Float[Tensor, "batch pixel"],
    own: Float[Tensor, "batch pixel"],
    growth: float,
    norm: Norm,
    front: Front,
    channels: int,
) -> Float[Tensor, "batch"]:
    """A distance within which the score of an own prototype grows by at most ``growth``.

    Args:
        image: Float64.
        own: The prototype, float64.
        growth: The growth allowed.
        norm: Which norm.
        front: What stands between image and prototypes: behind a threshold each flip adds at most 1, and a
            clamp moves what is seen no further than the image moves.
        channels: Channels of an image.
    """
    pixels = image.shape[1]
    if growth >= pixels:
        return torch.full_like(image[:, 0], torch.inf)
    if norm == "l0":
        return torch.full_like(image[:, 0], growth // channels)
    if isinstance(front, Threshold):
        costs = front.flip(image).sort(dim=1).values[:, : int(growth) + 1]
        order = {"linf": torch.inf, "l1": 1.0, "l2": 2.0}[norm]
        spent: Tensor = torch.linalg.vector_norm(costs, ord=order, dim=1)
        return spent * ROUNDED_DOWN
    away = (front.see(image) - own).abs()
    if norm == "l1":
        return torch.full_like(image[:, 0], growth / 2)
    # The positive root of a r² + 2 b r = growth.
    square = 1 if norm == "l2" else pixels
    linear: Tensor = torch.linalg.vector_norm(away, ord=2 if norm == "l2" else 1, dim=1)
    return growth / (linear + (linear.square() + square * growth).sqrt()) * ROUNDED_DOWN


def growth_within(
    image: Float[Tensor, "batch pixel"],
    own: Float[Tensor, "batch pixel"],
    distance: Float[Tensor, "batch"],
    norm: Norm,
    front: Front,
) -> Float[Tensor, "batch"]:
    """How much the score of an own prototype can grow within a distance of an image.

    Args:
        image: Float64.
        own: The prototype, float64.
        distance: How far.
        norm: Which norm; L0 only behind a threshold.
        front: What stands between image and prototypes: behind a threshold each flip adds at most 1, and a
            clamp moves what is seen no further than the image moves.
    """
    if isinstance(front, Threshold):
        flips = FLIPS[norm](front.flip(image).sort(dim=1).values, distance[:, None] / ROUNDED_DOWN)
        return flips.sum(1).to(distance)
    away = (front.see(image) - own).abs()
    if norm == "l1":
        growth = 2 * distance
    elif norm == "l2":
        growth = 2 * away.norm(dim=1) * distance + distance.square()
    else:
        growth = 2 * away.sum(1) * distance + image.shape[1] * distance.square()
    return growth.clamp(max=image.shape[1]) / ROUNDED_DOWN
