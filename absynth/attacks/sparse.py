"""A random search for few pixels: exchanges in the manner of Sparse-RS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from absynth.attacks.base import Attack
from absynth.attacks.batch import choose
from absynth.attacks.pointwise import Pixels, Pointwise
from absynth.attacks.target import Target, margin_loss
from absynth.norms import Norm
from absynth.shapes import Images

LEAST_CHANGE = 0.01
"""A pixel this close to 0 or 1 is only ever set to the other."""


@dataclass(frozen=True)
class SparseSearch(Attack):
    """Random search over which pixels are black or white, by scores alone, in L0.

    In the manner of Sparse-RS (Croce et al. 2022, arXiv 2006.12834): some pixels are set to 0 or 1, one after
    the other is exchanged for a random one elsewhere, and an exchange that does not lower the margin is kept.
    There the number of pixels is given and many are exchanged at first; here the search starts from what the
    Pointwise attack leaves of salt-and-pepper noise, and goes on with one pixel less whenever it fools the
    model. Where gradients vanish, it finds fewer pixels than attacks that follow them.

    Attributes:
        name: Name in suites and records.
        norm: L0.
        queries: Exchanges.
        thinning: Queries for thinning the noise at the start.
        start_queries: For taking back its pixels.
    """

    name: str
    queries: int = 3000
    thinning: int = 300
    start_queries: int = 200
    norm: Norm = field(default="l0", init=False)

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm."""
        return {"queries": self.queries, "thinning": self.thinning, "start_queries": self.start_queries}

    @torch.no_grad()
    def run(self, target: Target, images: Images) -> Images:
        """Takes back noise, and then exchanges what is left of it."""
        start = Pointwise(self.name, "l0", exchanges=self.thinning, max_queries=self.start_queries)
        best, success = start.descend(target, images, torch.full_like(images[:, 0, 0, 0], torch.inf))
        rows = success.nonzero().squeeze(1)
        if len(rows) == 0:
            return images
        return best.index_copy(0, rows, self._search(target.select(rows), images[rows], best[rows]))

    def _search(self, target: Target, images: Images, best: Images) -> Images:
        """Adversarials of fewer pixels than those given, by exchanging their pixels."""
        colours, chosen = best, without_one((best != images).any(dim=1).flatten(1))
        margins = torch.full_like(images[:, 0, 0, 0], -torch.inf)
        for _ in range(self.queries):
            left = chosen.any(dim=1).nonzero().squeeze(1)
            if len(left) == 0:
                break
            tried = exchange(chosen)
            new = (tried & ~chosen).view_as(images[:, :1])
            painted = torch.where(new, extreme(images), colours)
            points = torch.where(tried.view_as(images[:, :1]), painted, images)
            found = margins.index_copy(
                0, left, margin_loss(target.select(left)(points[left]), target.labels[left])
            )
            kept = found >= margins
            chosen, colours = torch.where(kept[:, None], tried, chosen), choose(kept, painted, colours)
            fooled = kept & (found > 0)
            best = choose(fooled, points, best)
            # with a pixel less, anything is worth trying
            chosen = torch.where(fooled[:, None], without_one(chosen), chosen)
            margins = torch.where(kept, found, margins).masked_fill(fooled, -torch.inf)
        return best


def random_one(chosen: Pixels) -> Pixels:
    """A random one of the pixels chosen, where there is one."""
    keys = torch.rand(chosen.shape, device=chosen.device).masked_fill(~chosen, -1.0)
    return functional.one_hot(keys.argmax(dim=1), chosen.shape[1]).bool() & chosen


def without_one(chosen: Pixels) -> Pixels:
    """The pixels chosen but for a random one."""
    return chosen & ~random_one(chosen)


def exchange(chosen: Pixels) -> Pixels:
    """The pixels chosen, a random one of them for a random other one, where there are both."""
    other = random_one(~chosen) & chosen.any(dim=1, keepdim=True)
    return other | torch.where(other.any(dim=1, keepdim=True), without_one(chosen), chosen)


def extreme(images: Images) -> Images:
    """Black or white for every value, at random, and the other one of what is near to one already."""
    drawn = torch.rand_like(images) < 0.5
    drawn = torch.where(images < LEAST_CHANGE, True, torch.where(images > 1 - LEAST_CHANGE, False, drawn))
    return drawn.to(images.dtype)
