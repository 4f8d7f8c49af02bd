"""Radii of images of one class by prototypes: the pairwise bound, and the exact radius on top of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.exact import Solver
from absynth.certify.front import GREY, Threshold
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


FLIPS_MORE = 2
"""And behind a threshold, as a flip costs ½ at the most, or one pixel."""

JUST_BELOW_HALF = 0.5 * (1 - 1e-6)
"""Further in Linf than any flip of a pixel that is neither black nor white."""


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
    within = _within(radius, search).clamp(max=largest)
    slack = codebook.slack(
        own_score + growth_within(images.double(), own, within, search.norm, codebook.front)
    )
    for row in range(len(images)):
        this = torch.tensor([row], device=images.device)
        known = float(radius[row])
        # In L0 the radius is a pixel less than the distance of what may be decided otherwise.
        pixel = search.norm == "l0"
        solution = solver.solve(batch.select(this), slack[this], known + pixel if known > 0 else 0.0)
        solved = solution.radius - 1 if pixel else solution.radius * STRICTLY
        radius[row] = max(known, min(solved, float(within[row])))
        missing = torch.full_like(images[row], torch.nan)
        adversarials[row] = missing if solution.adversarial is None else solution.adversarial
        gap[row] = 0 if solution.radius == torch.inf else solution.distance - radius[row]
    return Radii(radius, gap, adversarials)


def _within(radius: Float[Tensor, "batch"], search: Search) -> Float[Tensor, "batch"]:
    """The largest exact radii that the slack is made for; larger ones are cut.

    Args:
        radius: The first bounds.
        search: In which norm, and behind what.
    """
    front = search.codebook.front
    if front == GREY:
        return SOLVED_WITHIN * radius + 0.01
    within = HIDDEN_WITHIN * radius + 0.1
    if not isinstance(front, Threshold):
        return within
    if search.norm == "linf":
        # From ½ on black and white pixels may flip as well, which takes much more slack.
        return torch.where(radius < 0.5, JUST_BELOW_HALF, radius)
    return (within + FLIPS_MORE).floor() if search.norm == "l0" else within + FLIPS_MORE / 2


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
