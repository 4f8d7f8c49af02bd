"""The Brendel-Bethge attack through foolbox, for which numba has to be installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from absynth.attacks.adapter import FoolboxAttack, foolbox_class
from absynth.attacks.base import Attack, require
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

    Attributes:
        name: Name in suites and records.
        norm: Any of the four.
        steps: Forward and backward passes.
        radius: Of the trust region at first, in L2.
        decays: How often it is halved.
    """

    name: str
    norm: Norm
    steps: int = 200
    radius: float = 1.0
    decays: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm, and foolbox's class."""
        return {
            "foolbox": CLASSES[self.norm],
            "steps": self.steps,
            "radius": self.radius,
            "decays": self.decays,
        }

    def run(self, target: Target, images: Images) -> Images:
        """Walks from noisy starting points.

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
        return FoolboxAttack(self.name, self.norm, make, needs_start=True).run(target, images)
