"""Radii of images of one class by prototypes: the pairwise bound, and the exact radius on top of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.exact import Solver
from absynth.certify.front import GREY
from absynth.certify.growth import LEVELS, diameter, growth_within, reach
from absynth.certify.halfspace import whole
from absynth.certify.scan import Batch, exact_scores
from absynth.certify.search import Search

STRICTLY = 1 - 2.0**-40
"""Turns the distance of the nearest point that might be decided otherwise into a ball that leaves it out."""

SOLVED_WITHIN = 1.1
"""How much larger than the first bound the exact radius may be without being cut."""

HIDDEN_WITHIN = 1.5
"""The same behind a clamp, where the first bound may be further from the truth."""


class Radii(NamedTuple):
    """What was found for some images, or for all of them.

    Attributes:
        radius: Proven, float64; 0 where nothing was asked.
        gap: Of the adversarial beyond it; 0 without an exact search.
        adversarials: Flat; the image itself without an exact search.
    """

    radius: Tensor
    gap: Tensor
    adversarials: Tensor


def find_radii(search: Search, solver: Solver | None, batch: Batch) -> Radii:
    """Radii, gaps and adversarials of images that the model gives the search's class.

    Args:
        search: For rivals of that class.
        solver: For the exact radius; None if the pairwise one is enough.
        batch: The images.
    """
    codebook, images = search.codebook, batch.image
    own_score = exact_scores(codebook, batch.seen, batch.own_rows[:, :1])[:, 0]
    radius = pairwise_radius(search, batch, own_score)
    gap, adversarials = torch.zeros_like(radius), images.clone()
    if solver is None:
        return Radii(radius, gap, adversarials)
    own = codebook.images[batch.own_rows[:, 0]].double()
    largest = diameter(search.norm, codebook.pixels, search.channels)
    grey = codebook.front == GREY
    within = SOLVED_WITHIN * radius + 0.01 if grey else HIDDEN_WITHIN * radius + 0.1
    within = within.clamp(max=largest)
    slack = codebook.slack(
        own_score + growth_within(images.double(), own, within, search.norm, codebook.front)
    )
    for row in range(len(images)):
        this = torch.tensor([row], device=images.device)
        solution = solver.solve(batch.select(this), slack[this], float(radius[row]))
        radius[row] = max(float(radius[row]), min(solution.radius * STRICTLY, float(within[row])))
        missing = torch.full_like(images[row], torch.nan)
        adversarials[row] = missing if solution.adversarial is None else solution.adversarial
        gap[row] = 0 if solution.radius == torch.inf else solution.distance - radius[row]
    return Radii(radius, gap, adversarials)


def pairwise_radius(
    search: Search, batch: Batch, own_score: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """The pairwise radius, with no more slack for rounding than a ball of its size needs."""
    codebook, norm = search.codebook, search.norm
    pixels, channels = codebook.pixels, search.channels
    radius = torch.zeros_like(own_score)
    pending = torch.arange(len(radius), device=radius.device)
    for growth in (*(level for level in LEVELS if level < pixels), float(pixels)):
        image = batch.image.double()
        slack = codebook.slack(own_score[pending] + growth)
        distance = whole(search.run(batch, slack), image, norm, codebook.front)
        bound = (distance - 1).clamp(min=0) if norm == "l0" else distance * STRICTLY
        own = codebook.images[batch.own_rows[:, 0]].double()
        limit = reach(image, own, growth, norm, codebook.front, channels)
        largest = torch.maximum(radius[pending], bound.minimum(limit))
        radius[pending] = largest.clamp(max=diameter(norm, pixels, channels))
        cut = (bound > limit).nonzero()[:, 0]
        if len(cut) == 0:
            break
        pending, batch = pending[cut], batch.select(cut)
    return radius
