"""A search for few pixels: combinations of those that scores say are worth setting to black or white."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from absynth.attacks.base import Attack
from absynth.attacks.batch import Counts, Scalars
from absynth.attacks.target import Target, margin_loss
from absynth.norms import Norm
from absynth.shapes import Images

TRIALS_AT_ONCE = 512
"""Images that go through the model together."""


@dataclass(frozen=True)
class CornerSearch(Attack):
    """Sets one pixel more at a time, and goes on with the best combinations, by scores alone, in L0.

    In the manner of CornerSearch (Croce and Hein 2019, arXiv 1909.05040): every pixel is set to black and to
    white, and the changes that raise the margin most are combined. There combinations are drawn at random;
    here they grow by one pixel a round, a beam search, and stop at the first that fools the model. Tens of
    thousands of queries an image, which no gradient has to guide.

    Attributes:
        name: Name in suites and records.
        norm: L0.
        candidates: Single changes that are combined, the best of all.
        width: Combinations that each round goes on with.
        most: The most pixels changed.
    """

    name: str
    candidates: int = 300
    width: int = 20
    most: int = 20
    norm: Norm = field(default="l0", init=False)

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm."""
        return {"candidates": self.candidates, "width": self.width, "most": self.most}

    @torch.no_grad()
    def run(self, target: Target, images: Images) -> Images:
        """Searches for one image after the other."""
        rows = torch.arange(len(images), device=images.device)
        found = [self._search(target.select(row), images[row]) for row in rows.split(1)]
        return torch.cat(found)

    def _search(self, target: Target, image: Images) -> Images:
        """An image with few pixels changed that fools the model; the clean one if there is none."""
        corners = _Corners.of(image)
        points, chosen = image.flatten(2), [frozenset[int]()]
        first = torch.arange(len(corners.pixels), device=image.device)
        alone = _margins(target, corners, points, torch.zeros_like(first), first, image.shape)
        corners = corners.select(alone.topk(min(self.candidates, len(alone))).indices)
        for count in range(1, self.most + 1):
            used = torch.zeros(len(points), points.shape[2], dtype=torch.bool, device=image.device)
            for member, changes in enumerate(chosen):
                used[member, corners.pixels[list(changes)]] = True
            members, added = (~used[:, corners.pixels]).nonzero(as_tuple=True)
            if len(members) == 0:
                break
            margins = _margins(target, corners, points, members, added, image.shape)
            if margins.amax() > 0:
                best = margins.argmax()[None]
                return corners.change(points[members[best]], added[best]).view_as(image)
            # a combination comes up once for each order in which its pixels may be set
            together: dict[frozenset[int], int] = {}
            for trial in margins.topk(min(count * self.width, len(margins))).indices.tolist():
                together.setdefault(chosen[int(members[trial])] | {int(added[trial])}, trial)
            chosen = list(together)[: self.width]
            trials = torch.tensor([together[changes] for changes in chosen], device=image.device)
            points = corners.change(points[members[trials]], added[trials])
        return image


@dataclass(frozen=True)
class _Corners:
    """Changes of one pixel to black or white.

    Attributes:
        pixels: Which pixel each is of.
        colours: What it sets.
    """

    pixels: Counts
    colours: Scalars

    @classmethod
    def of(cls, image: Images) -> _Corners:
        """All that change anything."""
        clean = image.flatten(2)[0]
        pixels = torch.arange(clean.shape[1], device=image.device).repeat(2)
        colours = torch.zeros_like(pixels, dtype=image.dtype)
        colours[clean.shape[1] :] = 1
        changing = (clean[:, pixels] != colours).any(dim=0)
        return cls(pixels[changing], colours[changing])

    def select(self, rows: Counts) -> _Corners:
        """Some of them."""
        return _Corners(self.pixels[rows], self.colours[rows])

    def change(self, points: Tensor, which: Counts) -> Tensor:
        """Points, flattened, with one change each."""
        changed = points.clone()
        rows = torch.arange(len(points), device=points.device)
        changed[rows, :, self.pixels[which]] = self.colours[which][:, None]
        return changed


def _margins(
    target: Target, corners: _Corners, points: Tensor, members: Counts, added: Counts, shape: torch.Size
) -> Scalars:
    """How far each point with one change more is on the side of another class."""
    found = []
    for rows, changes in zip(members.split(TRIALS_AT_ONCE), added.split(TRIALS_AT_ONCE), strict=True):
        part = target.select(torch.zeros_like(rows))
        trials = corners.change(points[rows], changes).view(-1, *shape[1:])
        found.append(margin_loss(part(trials), part.labels))
    return torch.cat(found)
