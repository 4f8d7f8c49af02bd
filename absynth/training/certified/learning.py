"""What is learned from mined pairs: to bring them beyond the targets for their distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from absynth.training.certified.distances import Distance, pixel_distance
from absynth.training.certified.pairs import Pairs
from absynth.training.certified.settings import CertifiedSettings

SPARED = 2.0
"""Pixels that may still flip after all those that an Linf size suffices for."""

SPARED_SHARPNESS = 2.0
"""β of what is short of them."""


def learn(
    pairs: Pairs,
    images: Float[Tensor, "batch pixel"],
    make: Callable[[Int64[Tensor, "some"]], tuple[Float[Tensor, "some pixel"], Float[Tensor, "some"]]],
    settings: CertifiedSettings,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    distance: Distance,
) -> float:
    """One pass over the pairs of those images that are not beyond the target yet, a batch a step.

    Args:
        pairs: Mined among these images.
        images: Flattened, before threshold or clamp.
        make: The images and offsets of entries of the codebook, differentiably.
        settings: What is asked for.
        optimizer: Of what the codebook is made from.
        generator: Source of the order.
        distance: What measures the pairs in L2, differentiably.

    Returns:
        The mean of what the pairs are short of the target in L2.
    """
    # n changed pixels are at most √n away in L2.
    most = max(settings.target, math.sqrt(settings.pixels) if settings.pixels_weight else 0.0)
    near = (pairs.distance < most).nonzero()[:, 0]
    if len(near) == 0:
        # Without gradients it changes nothing; the schedule expects a step in every round.
        optimizer.zero_grad()
        optimizer.step()
        return 0.0
    total = 0.0
    for rows in near[torch.randperm(len(near), generator=generator)].split(settings.batch_size):
        batch = images[pairs.image[rows]][:, None]
        entries = torch.stack([pairs.own[rows], pairs.rival[rows]])
        made, energy = make(entries.flatten())
        own, rival = made.view(*entries.shape, -1)
        seen = settings.see(batch)
        difference = seen - torch.stack([own, rival])
        own_score, rival_score = difference.square().sum(-1) + energy.view_as(entries)
        margin = rival_score - own_score
        distances = distance(seen if settings.binary else batch, own, rival, margin)
        missing = shortfall(distances, settings.target, settings.sharpness)
        unsafe = shortfall(distances, settings.safety, settings.safety_sharpness)
        loss = settings.target_weight * missing + settings.safety_weight * unsafe
        loss = loss + settings.closeness * own_score.mean()
        if settings.pixels_weight:
            changed = pixel_distance(seen, own, rival, margin)
            loss = loss + settings.pixels_weight * lacking_pixels(changed, settings)
        if settings.reach_weight:
            given = ((batch - 0.5).abs() <= settings.reach).to(batch.dtype)
            spared = pixel_distance(seen, own, rival, margin, given)
            loss = loss + settings.reach_weight * shortfall(spared, SPARED, SPARED_SHARPNESS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(missing.detach()) * len(rows)
    return total / len(near)


def shortfall(distances: Float[Tensor, "batch pair"], target: float, sharpness: float) -> Float[Tensor, ""]:
    """The mean of softplus(β (t − h)) / β: by how much distances fall short of a target, smoothly."""
    return functional.softplus(sharpness * (target - distances)).mean() / sharpness


def lacking_pixels(distances: Float[Tensor, "batch pair"], settings: CertifiedSettings) -> Float[Tensor, ""]:
    """By how much distances in L0 fall short of the target, hopeless ones by hardly more than the rest."""
    lacking = shortfall(distances, settings.pixels, settings.pixels_sharpness)
    if settings.pixels_hopeless:
        lacking = lacking - shortfall(distances, settings.pixels_hopeless, settings.pixels_sharpness)
    return lacking
