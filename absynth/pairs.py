"""Pairs of prototypes that training for certificates compares: how to find them, and what each allows.

A pair is an own prototype p and a rival q. Its distance is how far an image must change until q beats p: what
:mod:`absynth.certify.halfspace` computes for proofs, here as a function with a derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from absynth.certify.front import Front
from absynth.certify.halfspace import moves, prices
from absynth.models.front import limits
from absynth.shapes import Labels

SCORES_AT_ONCE = 2**21
"""Of images and the prototypes of one class, computed together (8 MiB)."""

PAIRED_AT_ONCE = 250
"""Images whose pairs are compared pixel by pixel together."""

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


class Pairs(NamedTuple):
    """Which prototypes to compare for each image, as entries of the codebook with its classes in a row.

    Attributes:
        image: Rows of the images, which may come in another order.
        own: Entries of the image's class.
        rival: Entries of other classes, against each of which the own one stands.
        distance: To the nearest of these rivals, without the box; a lower bound on that with it.
    """

    image: Int64[Tensor, "batch"]
    own: Int64[Tensor, "batch pair"]
    rival: Int64[Tensor, "batch pair"]
    distance: Float[Tensor, "batch"]


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
    that λ is worth using (:mod:`absynth.certify.halfspace`). λ and the moves e are found without a
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
        front = Front(low=low, high=high)
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


@torch.no_grad()
def mine(
    images: Float[Tensor, "batch pixel"],
    labels: Labels,
    prototypes: Float[Tensor, "class prototype pixel"],
    offsets: Float[Tensor, "class prototype"],
    *,
    rivals: int,
    own: int,
    basis: Float[Tensor, "pixel axis"],
) -> Pairs:
    """The rivals nearest to winning each image, by the distance without the box.

    Which own prototypes are near and which rivals are threatening is judged by a few coordinates of all; the
    distances of those chosen are computed from all pixels.

    Args:
        images: x, flattened.
        labels: Their classes.
        prototypes: Of all classes.
        offsets: Their offsets.
        rivals: How many an image, if there are so many.
        own: How many own prototypes may be chosen from.
        basis: Orthonormal axes along which images and prototypes are compared.
    """
    classes, count = offsets.shape
    flat, squares = prototypes.flatten(0, 1), prototypes.square().sum(2)
    energies = squares + offsets
    offsets = offsets.flatten()
    coordinates, looked_for = prototypes @ basis, images @ basis
    found = []
    for label in labels.unique().tolist():
        for rows in (labels == label).nonzero()[:, 0].split(max(1, SCORES_AT_ONCE // count)):
            some = looked_for[rows]
            scores = torch.addmm(energies[label], some, coordinates[label].T, alpha=-2)
            own_scores, nearest = scores.topk(min(own, count), largest=False)
            first = nearest[:, 0]
            heights, candidates = [], []
            for other in range(classes):
                if other == label:
                    continue
                scores = torch.addmm(energies[other], some, coordinates[other].T, alpha=-2)
                squared = torch.addmm(
                    squares[other], coordinates[label, first], coordinates[other].T, alpha=-2
                ).add_(squares[label, first][:, None])
                lengths = squared.clamp_(min=1e-3).rsqrt_()
                best = scores.sub_(own_scores[:, :1]).mul_(lengths).topk(min(rivals, count), largest=False)
                heights.append(best.values)
                candidates.append(best.indices + other * count)
            lowest = torch.cat(heights, dim=1)
            chosen = lowest.topk(min(rivals, lowest.shape[1]), largest=False).indices
            rival = torch.cat(candidates, dim=1).gather(1, chosen)
            nearest = nearest + label * count
            lengths = torch.cdist(flat[rival], flat[nearest])
            own_exact, rival_exact = (
                (images[rows, None] - flat[entries]).square().sum(-1) + offsets[entries]
                for entries in (nearest, rival)
            )
            better = (rival_exact[:, :, None] - own_exact[:, None]) / lengths.clamp(min=1e-3)
            distances, chosen = better.max(-1)
            found.append(Pairs(rows, nearest.gather(1, chosen), rival, distances.amin(1) / 2))
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@torch.no_grad()
def nearest_in_pixels(
    pairs: Pairs,
    images: Float[Tensor, "batch pixel"],
    prototypes: Float[Tensor, "class prototype pixel"],
    offsets: Float[Tensor, "class prototype"],
    count: int,
) -> Pairs:
    """Of the pairs of each image the one that is nearest in L2, and those others that are nearest in L0.

    Args:
        pairs: More than are wanted, as :func:`mine` finds them, the nearest of each image first.
        images: What the prototypes see, flattened.
        prototypes: Of all classes.
        offsets: Their offsets.
        count: How many pairs an image.
    """
    flat, energies = prototypes.flatten(0, 1), offsets.flatten()
    kept = []
    for rows in torch.arange(len(pairs.image)).split(PAIRED_AT_ONCE):
        entries = torch.stack([pairs.own[rows], pairs.rival[rows]])
        some = images[pairs.image[rows]][:, None]
        own, rival = flat[entries]
        own_score, rival_score = (some - torch.stack([own, rival])).square().sum(-1) + energies[entries]
        pixels = pixel_distance(some, own, rival, rival_score - own_score)
        pixels[:, 0] = -torch.inf
        kept.append(pixels.topk(min(count, pixels.shape[1]), largest=False).indices)
    places = torch.cat(kept)
    return pairs._replace(own=pairs.own.gather(1, places), rival=pairs.rival.gather(1, places))
