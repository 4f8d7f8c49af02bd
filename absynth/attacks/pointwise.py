"""The Pointwise attack, batched: salt-and-pepper noise that is thinned, and taken back pixel after pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from absynth.attacks.base import Attack
from absynth.attacks.batch import Counts, Mask, Scalars, choose, keep_closer, size
from absynth.attacks.line_search import bisect, shrink
from absynth.attacks.noise import escalate
from absynth.attacks.target import Target
from absynth.norms import Norm
from absynth.shapes import Images

Pixels = Bool[Tensor, "row pixel"]

ROWS_AT_ONCE = 64
"""Repetitions of images that go through the model together: more leave less to learn from those before."""

SWEEPS = 5
"""How often noise of all strengths is tried before an image is given up."""

FIRST_SHARE = 0.2
"""Of the perturbed pixels, set back in the first exchange."""
WIDER, NARROWER = 1.25, 0.93
"""What an exchange that succeeds and one that fails make of that share: a quarter succeed in balance."""
REPLACED = 0.8
"""For each pixel set back, how many others are perturbed instead."""
BLAME = 2.0
"""How much a pixel is put off by a failed exchange of its own, in units of the range of the random order."""


@dataclass(frozen=True)
class Pointwise(Attack):
    """The Pointwise attack (Schott et al. 2019, arXiv 1805.09190, section 5, "Pointwise attack").

    Starts from salt-and-pepper noise and greedily sets pixels back to their clean value while the image stays
    adversarial, until no pixel can be set back. Only decisions are used. Before that, :func:`thin_noise`
    exchanges pixels of the noise for fewer others, which ends with fewer pixels; and where the original tries
    one pixel a query, :func:`reset_pixels` tries groups, which saves queries. For L2 and L1 the values that
    remain are then moved towards the clean ones, either all together or one by one, whichever ends closer.

    Attributes:
        name: Name in suites and records.
        norm: L0, L1 or L2.
        repetitions: Starts from different noise, of which the best is kept; the paper used 10.
        levels: Strengths of the starting noise, evenly spaced, at which it is searched.
        bisections: Queries for weakening it.
        exchanges: The most queries for thinning it.
        max_queries: The most queries of one repetition after that. An image that has used them up may keep a
            pixel that could be set back.
    """

    name: str
    norm: Norm
    repetitions: int = 10
    levels: int = 10
    bisections: int = 4
    exchanges: int = 300
    max_queries: int = 1000

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm."""
        return {
            "repetitions": self.repetitions,
            "levels": self.levels,
            "bisections": self.bisections,
            "exchanges": self.exchanges,
            "max_queries": self.max_queries,
        }

    @torch.no_grad()
    def run(self, target: Target, images: Images) -> Images:
        """Takes back the noise, in as many repetitions at once as fit."""
        best, best_size = images.clone(), torch.full_like(images[:, 0, 0, 0], torch.inf)
        at_once = max(1, ROWS_AT_ONCE // len(images))
        for first in range(0, self.repetitions, at_once):
            count = min(at_once, self.repetitions - first)
            rows = torch.arange(len(images), device=images.device).repeat(count)
            points, success = self.descend(target.select(rows), images[rows], best_size[rows])
            sizes = size(points - images[rows], self.norm)
            for once in zip(points.chunk(count), sizes.chunk(count), success.chunk(count), strict=True):
                best, best_size = keep_closer(best, best_size, *once)
        return best

    def descend(self, target: Target, images: Images, best_size: Scalars) -> tuple[Images, Mask]:
        """One repetition for each image, given the size of the best perturbation of those before."""
        start = escalate(
            target, images, "salt-and-pepper", self.levels, bisections=self.bisections, sweeps=SWEEPS
        )
        thinned = thin_noise(target, images, start.images, start.success, self.exchanges)
        limit = best_size if self.norm == "l0" else None
        points = reset_pixels(target, images, thinned, start.success, self.max_queries, limit=limit)
        if self.norm != "l0":
            single = move_pixels(target, images, points, start.success, self.max_queries)
            together = shrink(target, images, points, start.success, steps=10)
            shorter = size(single - images, self.norm) < size(together - images, self.norm)
            points = choose(shorter, single, together)
        return points, start.success


@dataclass(frozen=True)
class _Queue:
    """The perturbed pixels of each image in the order of their trials, and what is known of them.

    Attributes:
        rows: Which image each row is of.
        pixels: Pixel indices; the first ``remaining`` of each row wait, the others are done with.
        remaining: Pixels that are still perturbed.
        untried: How many of them, at the front, were never rejected alone.
        rejected: Single pixels rejected since a reset last succeeded.
        group: Pixels that the next trial resets.
    """

    rows: Counts
    pixels: Int64[Tensor, "row place"]
    remaining: Counts
    untried: Counts
    rejected: Counts
    group: Counts

    @classmethod
    def shuffled(cls, perturbed: Pixels, rows: Counts) -> _Queue:
        """A queue of all perturbed pixels in random order."""
        remaining = perturbed.sum(dim=1)
        order = (
            torch.rand(perturbed.shape, device=perturbed.device).masked_fill(~perturbed, 2.0).argsort(dim=1)
        )
        pixels = order[:, : int(remaining.amax())]
        group = (remaining // 4).clamp(min=1)
        return cls(rows, pixels, remaining, remaining, torch.zeros_like(remaining), group)

    def select(self, mask: Mask) -> _Queue:
        """The queues of some of the images."""
        return _Queue(
            self.rows[mask],
            self.pixels[mask],
            self.remaining[mask],
            self.untried[mask],
            self.rejected[mask],
            self.group[mask],
        )

    def after(self, accepted: Mask) -> _Queue:
        """The queues after a trial: an accepted group leaves, a pixel rejected alone goes to the back."""
        alone = ~accepted & (self.group == 1)
        length = self.pixels.shape[1]
        place = torch.arange(length, device=self.pixels.device)[None]
        count, remaining = self.group[:, None], self.remaining[:, None]
        rotated = torch.where(place < remaining, (place + 1) % remaining, place)
        source = torch.where(accepted[:, None], (place + count) % length, place)
        source = torch.where(alone[:, None], rotated, source)

        left = self.remaining - self.group * accepted
        untried = (self.untried - self.group * (accepted | alone)).clamp(min=0)
        rejected = torch.where(accepted, 0, self.rejected + alone.long())
        wanted = torch.where(accepted, 2 * self.group, self.group // 2)
        # a pixel that was once needed alone is rarely free later: it is never risked in a group
        group = torch.minimum(wanted, untried).clamp(min=1)
        return _Queue(self.rows, self.pixels.gather(1, source), left, untried, rejected, group)


@torch.no_grad()
def thin_noise(
    target: Target, images: Images, adversarials: Images, success: Mask, max_queries: int
) -> Images:
    """Exchanges perturbed pixels for fewer others while the images stay adversarial.

    A trial sets some random pixels back and fewer random others to black or white, and is kept if it fools
    the model. How many at once is learned for each image: more after a success, fewer after a failure. It
    also remembers which pixels took part in trials that failed, and tries others first. An image is finished
    when less than half a pixel would be set back. Unlike pixels that are only ever set back, those that
    remain are the better ones of many more that were tried.

    Args:
        target: The model with the labels.
        images: The clean images.
        adversarials: Adversarials where ``success`` is set.
        success: Which images to work on; the others are returned as they are.
        max_queries: Trials of each image at most.

    Returns:
        Adversarials with at most as many perturbed pixels.
    """
    shape = adversarials.shape
    clean, current = images.flatten(2), adversarials.flatten(2).clone()
    share = torch.full_like(clean[:, 0, 0], FIRST_SHARE)
    blame = torch.zeros_like(clean[:, 0])
    rows = success.nonzero().squeeze(1)
    for _ in range(max_queries):
        perturbed = (current != clean).any(dim=1)
        wanted = share * perturbed.sum(dim=1)
        rows = rows[wanted[rows] >= 0.5]
        if len(rows) == 0:
            break
        here, goal, size_back = current[rows], clean[rows], wanted[rows].round().clamp(min=1)
        size_new = (REPLACED * size_back + torch.rand_like(size_back)).floor().clamp(max=size_back - 1)
        colours = (torch.rand_like(blame[rows]) < 0.5).to(here.dtype)[:, None].expand_as(here)
        order = torch.rand_like(blame[rows]) + BLAME * blame[rows]
        back = _first(order, perturbed[rows], size_back)
        new = _first(order, ~perturbed[rows] & (colours != goal).any(dim=1), size_new)
        trial = torch.where(back[:, None], goal, torch.where(new[:, None], colours, here))
        fooled = target.select(rows).is_adversarial(trial.view(-1, *shape[1:]))
        current[rows[fooled]] = trial[fooled]
        share[rows] *= torch.where(fooled, WIDER, NARROWER)
        share.clamp_(max=0.5)
        failed = (~fooled)[:, None] & (back | new)
        blame[rows] += failed / size_back[:, None]
    return current.view(shape)


def _first(order: Float[Tensor, "row pixel"], among: Pixels, counts: Scalars) -> Pixels:
    """The pixels that come first in an order among those given, as many as ``counts`` says for each row."""
    places = order.masked_fill(~among, torch.inf).argsort(dim=1).argsort(dim=1)
    return among & (places < counts[:, None])


@torch.no_grad()
def reset_pixels(
    target: Target,
    images: Images,
    adversarials: Images,
    success: Mask,
    max_queries: int,
    *,
    limit: Scalars | None = None,
) -> Images:
    """Sets pixels back to their clean value while the images stay adversarial.

    Group testing: a trial resets the next few perturbed pixels of a random order at once. If the image stays
    adversarial they are done with and the group doubles, else it halves; a pixel rejected alone is put to the
    back. An image is finished when every pixel that is left was rejected alone since the last success, so
    that **no single pixel can be reset**. All images advance together and leave the batch when finished.

    Args:
        target: The model with the labels.
        images: The clean images.
        adversarials: Adversarials where ``success`` is set.
        success: Which images to work on; the others are returned as they are.
        max_queries: Trials of each image at most; one that reaches them may be unfinished.
        limit: Pixels of an earlier result. An image is given up, unfinished, when as many pixels were
            rejected alone, since what is needed once is rarely free later.

    Returns:
        Adversarials with at most as many perturbed pixels.
    """
    shape = adversarials.shape
    clean, current = images.flatten(2), adversarials.flatten(2).clone()
    perturbed = (clean != current).any(dim=1)
    rows = success.nonzero().squeeze(1)
    if len(rows) == 0:
        return adversarials
    queue = _Queue.shuffled(perturbed[rows], rows)
    part = target.select(rows)
    for _ in range(max_queries):
        unfinished = queue.rejected < queue.remaining
        if limit is not None:
            unfinished &= queue.remaining - queue.untried < limit[queue.rows]
        if not unfinished.all():
            queue, part = queue.select(unfinished), part.select(unfinished)
            if len(queue.rows) == 0:
                break
        places = torch.arange(queue.pixels.shape[1], device=images.device)
        chosen = torch.zeros_like(perturbed[queue.rows])
        chosen.scatter_(1, queue.pixels, places < queue.group[:, None])
        trial = torch.where(chosen[:, None], clean[queue.rows], current[queue.rows])
        accepted = part.is_adversarial(trial.view(-1, *shape[1:]))
        current[queue.rows[accepted]] = trial[accepted]
        queue = queue.after(accepted)
    return current.view(shape)


@torch.no_grad()
def move_pixels(
    target: Target, images: Images, adversarials: Images, success: Mask, max_queries: int
) -> Images:
    """Moves perturbed pixels, one after another, as far towards their clean value as bisection allows.

    Args:
        target: The model with the labels.
        images: The clean images.
        adversarials: Adversarials where ``success`` is set.
        success: Which images to work on; the others are returned as they are.
        max_queries: Trials of each image at most.
    """
    steps = 8
    shape = adversarials.shape
    clean, current = images.flatten(2), adversarials.flatten(2).clone()
    rows = success.nonzero().squeeze(1)
    if len(rows) == 0:
        return adversarials
    queue = _Queue.shuffled((clean != current).any(dim=1)[rows], rows)
    for place in range(min(queue.pixels.shape[1], max_queries // steps)):
        queue = queue.select(queue.remaining > place)
        if len(queue.rows) == 0:
            break
        pixel = torch.zeros_like(current[queue.rows, :1], dtype=torch.bool)
        pixel[torch.arange(len(pixel), device=pixel.device), 0, queue.pixels[:, place]] = True
        here, goal = current[queue.rows], clean[queue.rows]

        def path(
            position: Scalars, here: Tensor = here, goal: Tensor = goal, pixel: Tensor = pixel
        ) -> Images:
            moved = goal + position[:, None, None] * (here - goal)
            return torch.where(pixel, moved, here).view(-1, *shape[1:])

        start = torch.ones(len(here), dtype=images.dtype, device=images.device)
        position = bisect(target.select(queue.rows), path, torch.zeros_like(start), start, steps)
        moved = path(position).flatten(2)
        current[queue.rows] = torch.where((position < 1)[:, None, None], moved, here)
    return current.view(shape)
