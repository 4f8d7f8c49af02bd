"""The pairwise certificate of a whole batch: every rival covered, only a handful looked at closely.

Each rival prototype holds a sound lower bound on its distance at all times, and the certificate is the
smallest of them; looking closely at a rival only ever replaces its bound by a better one. So no argument
about the order of the search enters the proof. Three levels, each for the rivals that the level before leaves
below the best distance found:

0. all rivals, from two float32 matrix products with the best own prototype p0;
1. float32, a few hundred: for L2 the plain bound with several own prototypes (behind a clamp where that is
   not enough the best of them with the dead zones too), for the others p0 with the box;
2. float64, a few: the best mixture of own prototypes with the box.

Level 0 is the margin over the largest gain of a unit of perturbation: ‖g‖₂ for L2 and, by Cauchy-Schwarz,
sqrt(pixels) ‖g‖₂ ≥ ‖g‖₁ for Linf; a clamp makes no change larger. For L1 and L0, and behind a threshold, no
pixel gains more than 2, so the bound depends on the margin alone. Where that leaves too many rivals,
:mod:`absynth.certify.sieve` checks all of them against the distance found so far, and for L2 behind a clamp
:mod:`absynth.certify.dead_zones` counts what the dead zones cost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from absynth.certify.codebook import Codebook
from absynth.certify.dead_zones import clamped_bounds
from absynth.certify.front import GREY, Clamp, Threshold
from absynth.certify.halfspace import crossing, dual_bound
from absynth.certify.mixture import Duels, best_mixture
from absynth.certify.rounding import double_slack
from absynth.certify.scan import (
    Batch,
    exact_scores,
    lengths_from,
    prune_slack,
    rounded_scores,
    scan,
)
from absynth.certify.sieve import moves_within, safe_rivals
from absynth.norms import Norm

CANDIDATES = (48, 128, 1024, 8192)
"""Rivals taken to level 1, more only for images where the bounds beyond are still too small."""

AT_ONCE = 4
"""Rivals an image taken to level 2 together."""

ELEMENTS = 2**18
"""Numbers in one temporary tensor of level 1 (1 MiB, which stays in a processor's cache)."""

SLIGHTLY_MORE = 1 + 2.0**-20
"""Rounds the forward's slack up by more than float32 can lose of it."""

REFINED_AT_ONCE = 256
"""Rivals of one image taken to level 2 together where all within a distance are wanted."""

MOST_WITHIN = 512
"""Rivals of one image at the most where all within a distance are wanted; of more only the nearest."""

SEEDS = 8
"""Rivals an image that the price of the sieve is set by."""

NEAR = 2.0**-22
"""Relative difference of distances, a few roundings of float32, that is not worth looking closer for."""


class Within(NamedTuple):
    """The rivals of one image that may win within a distance.

    Attributes:
        rivals: Their rows in the codebook.
        bounds: Lower bounds on how far they are, ascending, float64.
        reached: All other rivals are further than this, times 1 − 2 :data:`NEAR`.
    """

    rivals: Int64[Tensor, "some"]
    bounds: Float[Tensor, "some"]
    reached: float


class Search:
    """The search for one class, norm and slack.

    Args:
        codebook: The prototypes.
        label: The predicted class of all images.
        norm: Which norm.
        channels: Channels of an image.

    Attributes:
        by_length: Whether level 0 goes by the distances of the prototypes from the best own one.
        sifts: Whether another look at all rivals pays where that leaves many.
    """

    def __init__(self, codebook: Codebook, label: int, norm: Norm, channels: int) -> None:
        self.codebook = codebook
        self.label = label
        self.norm = norm
        self.channels = channels
        self.relative = rounded_scores(codebook)
        self.by_length = not isinstance(codebook.front, Threshold) and norm in ("l2", "linf")
        self.sifts = norm != "l2" or codebook.front != GREY

    def look_at(self, image: Float[Tensor, "batch pixel"]) -> Batch:
        """Images compared with the prototypes, as far as the norm needs.

        Args:
            image: Images that the model gives the class of the search.
        """
        batch = scan(self.codebook, image, self.label)
        if not self.by_length:
            return batch
        return replace(batch, length=lengths_from(self.codebook, batch.own_rows[:, 0]))

    def run(self, batch: Batch, slack: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """A lower bound on each image's distance to the nearest place where any rival wins.

        Args:
            batch: The images.
            slack: The margin to keep for the forward's own rounding, float64.
        """
        distance = torch.full_like(slack, torch.inf)
        nearest = distance
        bounds = self._first_bounds(batch, slack)
        pending = torch.arange(len(slack), device=slack.device)
        rivals = bounds.shape[1]
        for count in (*(count for count in CANDIDATES if count < rivals), rivals):
            lowest = bounds.topk(count, largest=False)
            beyond = (
                lowest.values[:, -1].double()
                if count < rivals
                else torch.full_like(slack[pending], torch.inf)
            )
            nearest = self._closest(batch, slack[pending], lowest.indices, nearest)
            distance[pending] = torch.minimum(nearest, beyond)
            left = (beyond < nearest * (1 - 2 * NEAR)).nonzero()[:, 0]
            if len(left) == 0:
                break
            pending, batch, bounds = pending[left], batch.select(left), bounds[left]
            if count == CANDIDATES[0] and self.sifts:
                seeds = lowest.indices[left, :SEEDS]
                bounds = self._sift(batch, slack[pending], nearest[left], seeds, bounds)
            nearest = nearest[left]
        return distance

    def rivals_within(self, batch: Batch, slack: Float[Tensor, "1"], distance: float) -> Within:
        """The rivals of one image that may win within a distance, with their bounds, in ascending order.

        Of more than :data:`MOST_WITHIN` that would have to be looked at closely, only the nearest
        :data:`REFINED_AT_ONCE` are.

        Args:
            batch: One image.
            slack: The margin to keep for the forward's own rounding.
            distance: How far to look.
        """
        limit = torch.full_like(slack, distance)
        bounds = self.bounds_by_best_own(batch, slack, limit)
        kept, reached = (bounds[0] < distance * (1 - 2 * NEAR)).nonzero()[:, 0], distance
        if len(kept):
            closer = self._second_bounds(batch, slack, kept[None], limit)[0]
            kept, closer = kept[closer < distance], closer[closer < distance]
            if len(kept) > MOST_WITHIN:
                nearest = closer.topk(REFINED_AT_ONCE + 1, largest=False)
                kept, reached = kept[nearest.indices[:-1]], float(nearest.values[-1])
        own_scores = exact_scores(self.codebook, batch.seen, batch.own_rows)
        refined = [limit[:0]]
        for some in kept.split(REFINED_AT_ONCE) if len(kept) else ():
            image = torch.zeros_like(some)
            refined.append(self._refine(batch, slack, own_scores, image, some, limit))
        ascending, order = torch.cat(refined).sort()
        near = ascending < distance
        return Within(kept[order][near], ascending[near], reached)

    def bounds_by_best_own(
        self, batch: Batch, slack: Float[Tensor, "batch"], distance: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch entry"]:
        """Lower bounds on the distances to where each rival beats the best own prototype, of one a row.

        Args:
            batch: The images.
            slack: The margin to keep for the forward's own rounding.
            distance: How far bounds need to reach.
        """
        bounds = self._first_bounds(batch, slack)
        if self.sifts:
            seeds = bounds.topk(min(SEEDS, bounds.shape[1]), largest=False).indices
            bounds = self._sift(batch, slack, distance, seeds, bounds)
        return bounds

    def _margins(self, batch: Batch, slack: Tensor) -> Float[Tensor, "batch entry"]:
        """Lower bounds on s_q − s_p0 less the slack, in float32; negative ones become 0."""
        high = (batch.own_high[:, 0].double() + slack * SLIGHTLY_MORE).float()
        return (batch.rival_low - high[:, None]).clamp_(min=0)

    def _first_bounds(self, batch: Batch, slack: Tensor) -> Float[Tensor, "batch entry"]:
        """Level 0."""
        margins = self._margins(batch, slack)
        if not self.by_length:
            return self._bounds_by_margin(batch, margins)
        assert batch.length is not None
        scale = 2 if self.norm == "l2" else 2 * self.codebook.pixels**0.5
        return margins.div_((batch.length * (scale * (1 + 4 * self.relative))).add_(1e-30))

    def _bounds_by_margin(self, batch: Batch, margins: Tensor) -> Float[Tensor, "batch entry"]:
        """Level 0 where no pixel gains more than 2, so that m / 2 pixels at the lowest cost are needed."""
        needed = margins.mul_((1 - 4 * self.relative) / 2)
        if self.norm == "l0":
            return needed.div_(self.channels)
        front = self.codebook.front
        if not isinstance(front, Threshold):
            return needed
        costs = front.flip(batch.image.double()).sort(dim=1).values
        spent = {"linf": costs, "l1": costs.cumsum(1), "l2": costs.square().cumsum(1)}[self.norm]
        table = torch.cat([torch.zeros_like(spent[:, :1]), spent], dim=1) * (1 - 4 * self.relative)
        table = (table.sqrt() if self.norm == "l2" else table).float()
        pixels = costs.shape[1]
        full = needed.clamp(max=pixels - 1).long()
        low, high = table.gather(1, full), table.gather(1, full + 1)
        # The root is concave, so that for L2, too, the straight line stays below.
        return torch.where(needed > pixels, torch.inf, torch.lerp(low, high, (needed - full).clamp(max=1)))

    def _sift(
        self,
        batch: Batch,
        slack: Float[Tensor, "batch"],
        distance: Float[Tensor, "batch"],
        seeds: Int64[Tensor, "batch seed"],
        bounds: Float[Tensor, "batch entry"],
    ) -> Float[Tensor, "batch entry"]:
        """Raises the bounds of the rivals that cannot win nearer than ``distance``."""
        images, front = self.codebook.images, self.codebook.front
        best, nearby, margins = images[batch.own_rows[:, 0]], images[seeds], self._margins(batch, slack)
        if self.norm == "l2" and isinstance(front, Clamp):
            found = clamped_bounds(
                batch.image, best, nearby, margins.gather(1, seeds), images, margins, front, self.relative
            )
            return torch.maximum(bounds, found, out=found)
        size = (distance * (1 - NEAR)).float()
        safe = safe_rivals(
            moves_within(batch.image.double(), size.double(), self.norm, front, self.channels),
            best,
            nearby,
            images,
            margins,
            bounds < size[:, None],
            prune_slack(self.codebook),
            self.relative,
        )
        return torch.where(safe, bounds.maximum(size[:, None]), bounds)

    def _closest(
        self,
        batch: Batch,
        slack: Float[Tensor, "batch"],
        rivals: Int64[Tensor, "batch some"],
        nearest: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """The smallest of ``nearest`` and the distances to some rivals, by levels 1 and 2."""
        bounds, order = self._second_bounds(batch, slack, rivals, nearest).double().sort(dim=1)
        rivals = rivals.gather(1, order)
        own_scores = exact_scores(self.codebook, batch.seen, batch.own_rows)
        start = 0
        while start < bounds.shape[1]:
            stop = start + (1 if start == 0 else AT_ONCE)
            image, column = (bounds[:, start:stop] < nearest[:, None]).nonzero(as_tuple=True)
            if len(image) == 0:
                break
            chosen = rivals[image, start + column]
            refined = self._refine(batch, slack, own_scores, image, chosen, nearest)
            nearest = nearest.scatter_reduce(0, image, refined, "amin")
            start = stop
        return nearest

    def _second_bounds(
        self, batch: Batch, slack: Tensor, rivals: Tensor, nearest: Tensor
    ) -> Float[Tensor, "batch some"]:
        """Level 1; bounds beyond ``nearest`` need not be good."""
        parts = []
        width = max(1, ELEMENTS // (len(rivals) * self.codebook.pixels))
        own, front, image = self.codebook.images[batch.own_rows], self.codebook.front, batch.image[:, None]
        high = (batch.own_high.double() + slack[:, None] * SLIGHTLY_MORE).float()
        for some in rivals.split(width, dim=1):
            images = self.codebook.images[some]
            margins = (batch.rival_low.gather(1, some)[:, :, None] - high[:, None]).clamp_(min=0)
            if isinstance(front, Threshold) or self.norm != "l2":
                gradient, margin = 2 * (images - own[:, :1]), margins[:, :, 0]
                parts.append(crossing(gradient, margin, image, self.norm, front, self.channels).distance)
            else:
                squares = self.codebook.squares
                energy = squares[some][:, :, None] + squares[batch.own_rows][:, None]
                energy = (energy * (1 + 4 * self.relative)).baddbmm_(images, own.mT, alpha=-2).clamp_(min=0)
                gain = 2 * energy.sqrt_() * (1 + 4 * self.relative)
                bounds, choice = (margins / (gain + 1e-30)).max(-1)
                if isinstance(front, Clamp):
                    row, column = (bounds < nearest[:, None]).nonzero(as_tuple=True)
                    best = choice[row, column]
                    gradient = 2 * (images[row, column] - own[row, best])
                    found = dual_bound(gradient, margins[row, column, best], batch.image[row], front)
                    bounds[row, column] = bounds[row, column].maximum(found)
                parts.append(bounds)
        return torch.cat(parts, dim=1)

    def _refine(
        self, batch: Batch, slack: Tensor, own_scores: Tensor, image: Tensor, chosen: Tensor, enough: Tensor
    ) -> Float[Tensor, "row"]:
        """Level 2."""
        codebook = self.codebook
        rival = codebook.images[chosen].double()
        score = (batch.seen[image].double() - rival).square().sum(1) + codebook.offsets[chosen].double()
        own = codebook.images[batch.own_rows[image]]
        rounding = double_slack(
            torch.maximum(score, own_scores.amax(1)[image]), codebook.lowest_offset, codebook.pixels
        )
        margins = score[:, None] - own_scores[image] - (slack[image] + rounding)[:, None]
        duels = Duels(batch.image[image].double(), rival, own, margins)
        length = (rival.float()[:, None] - own).norm(dim=-1).double()
        choice = (margins / (length + 1e-30)).argmax(dim=1)
        return best_mixture(duels, choice, self.norm, codebook.front, self.channels, enough[image])
