"""Mining: which pairs of an own prototype and a rival training for certificates compares for each image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from absynth.models.projection import principal_axes
from absynth.shapes import Images, Labels
from absynth.training.certified.distances import pixel_distance

MINED_ALONG = 96
"""Axes along which images and prototypes are compared when pairs are mined."""

MINED_SAMPLE = 512
"""About how many training images these axes are the principal ones of."""

SCORES_AT_ONCE = 2**21
"""Of images and the prototypes of one class, computed together (8 MiB)."""

PAIRED_AT_ONCE = 250
"""Images whose pairs are compared pixel by pixel together."""


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


def mining_axes(images: Images) -> Float[Tensor, "pixel axis"]:
    """The axes along which pairs are mined among training images."""
    return principal_axes(images.flatten(1), MINED_ALONG, MINED_SAMPLE).to(images.dtype)


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
