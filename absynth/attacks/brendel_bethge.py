"""The Brendel-Bethge attack through foolbox, for which numba has to be installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from absynth.attacks.adapter import FoolboxAttack, foolbox_class
from absynth.attacks.base import Attack, require
from absynth.attacks.batch import keep_closer, size
from absynth.attacks.target import Target
from absynth.norms import Norm
from absynth.shapes import Images

CLASSES: dict[Norm, str] = {
    "l2": "L2BrendelBethgeAttack",
    "l1": "L1BrendelBethgeAttack",
    "linf": "LinfinityBrendelBethgeAttack",
    "l0": "L0BrendelBethgeAttack",
}


@dataclass(frozen=True)
class BrendelBethge(Attack):
    """Walks along the boundary within a trust region (Brendel et al. 2019, arXiv 1907.01003), in all norms.

    Foolbox scales the trust region with the number of values in the whole batch; here that is undone, so that
    an image does not fare differently in company. The first use in a norm compiles the solver, which takes
    about half a minute.

    Where a walk ends depends on where it begins. It may begin at what another attack found: for a model whose
    gradients vanish around an image, a search for few pixels by scores gets nearer than noise does, and the
    walk, along which there are gradients, spreads the change over more pixels.

    Attributes:
        name: Name in suites and records.
        norm: Any of the four.
        steps: Forward and backward passes.
        radius: Of the trust region at first, in L2.
        decays: How often it is halved.
        start: Gives the points to begin at, in any norm; without it, and for what it does not find, the walk
            begins at noise.
        repetitions: Walks, each from new points; the closest adversarial is kept.
    """

    name: str
    norm: Norm
    steps: int = 200
    radius: float = 1.0
    decays: int = 10
    start: Attack | None = None
    repetitions: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm, and foolbox's class; of the first attack, its name and settings."""
        start = self.start
        first = {} if start is None else {"start": {"name": start.name, **start.settings}}
        return {
            "foolbox": CLASSES[self.norm],
            "steps": self.steps,
            "radius": self.radius,
            "decays": self.decays,
            **first,
            **({} if self.repetitions == 1 else {"repetitions": self.repetitions}),
        }

    def applies_to(self, model: nn.Module) -> bool:
        """Whether the first attack does."""
        return self.start is None or self.start.applies_to(model)

    def fits(self, shape: torch.Size, classes: int) -> bool:
        """Whether the first attack does."""
        return self.start is None or self.start.fits(shape, classes)

    def run(self, target: Target, images: Images) -> Images:
        """Walks again and again.

        Raises:
            AbsynthError: If numba is not installed.
        """
        require("numba", self.name)
        make = foolbox_class(
            CLASSES[self.norm],
            steps=self.steps,
            lr=self.radius / images.numel(),
            lr_num_decay=self.decays,
        )
        walk = FoolboxAttack(self.name, self.norm, make, needs_start=True)
        best, best_size = images, torch.full_like(target.labels, torch.inf, dtype=images.dtype)
        for _ in range(self.repetitions):
            if self.start is None:
                found = walk.run(target, images)
            else:
                points = self.start.run(target, images)
                found = walk.run_from(target, images, points, target.is_adversarial(points))
            sizes = size(found - images, self.norm)
            # where nothing was moved, nothing was found
            best, best_size = keep_closer(best, best_size, found, sizes, sizes > 0)
        return best
