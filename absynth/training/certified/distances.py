"""How far an image must change until a rival prototype beats an own one, as functions with a derivative.

They compute what :mod:`absynth.certify.halfspace` computes for proofs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from absynth.certify.front import Clamp
from absynth.certify.halfspace.l2 import moves, prices
from absynth.models.front import limits

NEWTON_STEPS = 8
"""Of the search for the multiplier in :func:`box_distance`; its derivative needs no more."""

HALVINGS = 12
"""Of the same search behind a clamp, which narrows a factor of ``DEAREST`` down to 1 %."""

DEAREST = 32.0
"""How many times larger than without box and clamp the multiplier may be."""

LEAST_STEEPNESS = 1e-4
"""Σ_free g² below which a pair is taken to be out of the box's reach."""

MOST_CHANGED = 40
"""Changed pixels that are told apart in :func:`pixel_distance`."""

LEAST_GAIN = 0.05
"""Of a pixel, where the number of pixels that are missing is estimated from it."""

Distance = Callable[
    [
        Float[Tensor, "batch 1 pixel"],
        Float[Tensor, "batch pair pixel"],
        Float[Tensor, "batch pair pixel"],
        Float[Tensor, "batch pair"],
    ],
    Float[Tensor, "batch pair"],
]
"""How far images are from where rivals beat own prototypes, by images, own, rivals and margins."""


def box_distance(
    images: Float[Tensor, "batch 1 pixel"],
    own: Float[Tensor, "batch pair pixel"],
    rivals: Float[Tensor, "batch pair pixel"],
    margins: Float[Tensor, "batch pair"],
) -> Float[Tensor, "batch pair"]:
    """The L2 distance to where a rival beats an own prototype, with the box [0, 1], differentiably.

    With g = 2(q − p), the nearest point moves each pixel by λ g until it meets the box. λ and the set of
    pixels that meet it are found without a derivative; for these fixed, the distance is the root of
    (m − Σ_met abs(g) room)² / Σ_free g² + Σ_met room², whose derivative is the distance's own. Where the
    margin m is negative, or more than the box leaves, it is m / ‖g‖, which still says which way is better.

    Args:
        images: x, flattened.
        own: p.
        rivals: q.
        margins: m = s_q(x) − s_p(x).
    """
    slopes = 2 * (rivals - own)
    with torch.no_grad():
        room = torch.where(slopes > 0, 1 - images, images)
        steep, caps = slopes.square(), slopes.abs() * room
        multiplier = torch.zeros_like(margins)
        for _ in range(NEWTON_STEPS):
            gains = steep * multiplier[..., None]
            free = gains < caps
            short = margins - torch.where(free, gains, caps).sum(-1)
            multiplier += short / (steep * free).sum(-1).clamp(min=1e-6)
        free = steep * multiplier[..., None] < caps
    left = margins - (slopes.abs() * room * ~free).sum(-1)
    steepness = (slopes.square() * free).sum(-1)
    moved = left.square() / steepness.clamp(min=LEAST_STEEPNESS)
    with_box = (moved + (room.square() * ~free).sum(-1) + 1e-9).sqrt()
    reached = (margins > 0) & (left > 0) & (steepness > LEAST_STEEPNESS)
    return torch.where(reached, with_box, margins / slopes.norm(dim=-1))


def clamped_distance(
    images: Float[Tensor, "batch 1 pixel"],
    own: Float[Tensor, "batch pair pixel"],
    rivals: Float[Tensor, "batch pair pixel"],
    margins: Float[Tensor, "batch pair"],
    *,
    tail: float,
) -> Float[Tensor, "batch pair"]:
    """The L2 distance to where a rival beats an own prototype behind a clamp, differentiably.

    Its square is the largest over λ of λ m − Σ_i (λ abs(g_i) e_i − (dead_i + e_i)²), the sum over the pixels
    that λ is worth using (:mod:`absynth.certify.halfspace.l2`). λ and the moves e are found without a
    derivative: at the maximum that by either is 0. Otherwise as :func:`box_distance`.

    Args:
        images: x, flattened, before the clamp.
        own: p.
        rivals: q.
        margins: m = s_q(x) − s_p(x), of what the prototypes see.
        tail: Of the clamp.
    """
    slopes = 2 * (rivals - own)
    steep = slopes.abs()
    with torch.no_grad():
        low, high = limits(tail)
        front = Clamp(low, high)
        room, dead = front.room(slopes, images), front.dead(slopes, images)
        price = prices(steep, room, dead)
        lower = 2 * margins.clamp(min=0) / slopes.square().sum(-1).clamp(min=LEAST_STEEPNESS)
        upper = DEAREST * lower
        for _ in range(HALVINGS):
            multiplier = (lower + upper) / 2
            moved = moves(steep, room, dead, price, multiplier)
            short = (steep * moved).sum(-1) < margins
            lower = torch.where(short, multiplier, lower)
            upper = torch.where(short, upper, multiplier)
        spent = ((dead + moved).square() * (moved > 0)).sum(-1)
    squared = multiplier * (margins - (steep * moved).sum(-1)) + spent
    reached = (margins > 0) & (squared > LEAST_STEEPNESS) & ((steep * room).sum(-1) > margins)
    return torch.where(
        reached, squared.clamp(min=LEAST_STEEPNESS).sqrt(), margins / slopes.norm(dim=-1).clamp(min=1e-3)
    )


def pixel_distance(
    images: Float[Tensor, "batch 1 pixel"],
    own: Float[Tensor, "batch pair pixel"],
    rivals: Float[Tensor, "batch pair pixel"],
    margins: Float[Tensor, "batch pair"],
    given: Float[Tensor, "batch 1 pixel"] | None = None,
) -> Float[Tensor, "batch pair"]:
    """How many changed pixels it takes until a rival beats an own prototype, in fractions, differentiably.

    A pixel that is changed as much as the box allows brings the rival nearer by its gain. The largest gains
    are added up until they reach the margin, the last one in part; beyond ``MOST_CHANGED`` each counts as the
    last of them. A negative margin counts as changes of the best pixel that are missing.

    Args:
        images: What the prototypes see, flattened; behind a threshold a change is a flip.
        own: p.
        rivals: q.
        margins: m = s_q(x) − s_p(x).
        given: 1 for pixels that change in any case if that helps the rival; they are not counted.
    """
    slopes = 2 * (rivals - own)
    gains = slopes.abs() * torch.where(slopes > 0, 1 - images, images)
    if given is not None:
        margins = margins - (gains * given).sum(-1)
        gains = gains * (1 - given)
    best = gains.topk(min(MOST_CHANGED, gains.shape[-1])).values
    total = functional.pad(best.cumsum(-1), (1, 0))
    with torch.no_grad():
        whole = (total[..., 1:-1] < margins[..., None]).sum(-1, keepdim=True)
    part = (margins - total.gather(-1, whole)[..., 0]) / best.gather(-1, whole)[..., 0].clamp(min=LEAST_GAIN)
    return whole[..., 0] + part
