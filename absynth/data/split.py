"""Holding images out of training, to measure on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.shapes import Labels


@dataclass(frozen=True)
class Validation:
    """Which training images are held out.

    Attributes:
        share: Of every class, from 0 (none) to below 1.
        seed: Of the choice.

    Raises:
        AbsynthError: If the share is no such number.
    """

    share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Sees that something is left to train on."""
        if not 0 <= self.share < 1:
            raise AbsynthError(f"The share held out is {self.share:g}; it must be at least 0 and below 1.")

    def split(self, labels: Labels) -> tuple[Int64[Tensor, "trained"], Int64[Tensor, "held_out"]]:
        """The rows to train on and those held out, both in ascending order.

        Of every class the share is held out, rounded to whole images, but never its last image: a class of
        few images may have none held out.

        Args:
            labels: Classes of all images.

        >>> trained, held_out = Validation(0.25).split(torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1]))
        >>> len(trained), len(held_out)
        (7, 2)
        """
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(int(labels.max()) + 1 if len(labels) else 0):
            members = (labels == label).nonzero()[:, 0]
            order = members[torch.randperm(len(members), generator=generator)]
            chosen[order[: min(round(self.share * len(members)), max(0, len(members) - 1))]] = True
        return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]
