"""AutoAttack through pyautoattack, which has to be installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from absynth.attacks.base import Attack, require
from absynth.attacks.line_search import ascend, shrink
from absynth.attacks.target import Target, of_images_alone, on_backward, temper
from absynth.norms import Norm
from absynth.shapes import Images, Logits

NAMES: dict[Norm, str] = {"l2": "L2", "linf": "Linf", "l1": "L1"}
"""The norms as the package calls them."""

SIZES: dict[Norm, tuple[float, ...]] = {
    "l2": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "linf": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4),
    "l1": (2.5, 5.0, 7.5, 10.0, 15.0, 20.0),
}
"""The sizes that are tried unless others are asked for: those of the paper's tables, and some between."""

MOST_TARGETS = 9
"""Rival classes that its targeted attacks take in turn."""

FEWEST_FOR_TARGETS = 4
"""Classes that the loss of the targeted gradient attack needs."""


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack in its standard version (Croce & Hein 2020, arXiv 2003.01690): four attacks of a given size.

    Two gradient attacks with steps of their own choosing, one that looks for the boundary, and one by scores
    alone. The sizes are tried in ascending order, each on the images that no smaller one fooled, and what is
    found is pulled to the boundary along the straight line. An image may take 50,000 queries.

    The package asks about fewer and fewer of the images without saying which, so that the queries of a batch
    are counted together and shared out evenly among its images.

    Attributes:
        name: Name in suites and records.
        norm: L2, Linf or L1.
        sizes: Tried in ascending order.
        bisections: Queries of the pull to the boundary.
    """

    name: str
    norm: Norm
    sizes: tuple[float, ...] = ()
    bisections: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes, and the number of bisections."""
        return {"sizes": list(self._sizes()), "bisections": self.bisections}

    def _sizes(self) -> list[float]:
        return sorted(self.sizes or SIZES[self.norm])

    def run(self, target: Target, images: Images) -> Images:
        """Tries size after size.

        Raises:
            AbsynthError: If pyautoattack is not installed.
        """
        require("pyautoattack", self.name)
        candidates, found = ascend(target, images, self._sizes(), self._ask)
        return shrink(target, images, candidates, found, self.bisections)

    def _ask(self, target: Target, images: Images, epsilon: float) -> Images:
        """What AutoAttack makes of the images."""
        from pyautoattack import AutoAttack as Standard

        model = _Counted(target.model).eval()
        with torch.no_grad():
            classes = model(images[:1]).shape[1]
        with quiet():
            attack = Standard(
                model,
                norm=NAMES[self.norm],
                eps=epsilon,
                seed=int(torch.randint(2**31, (), device="cpu")),
                device=images.device,
            )
            targets = min(MOST_TARGETS, classes - 1)
            attack.fab.n_target_classes = targets
            attack.apgd_targeted.n_target_classes = min(attack.apgd_targeted.n_target_classes, targets)
            if classes < FEWEST_FOR_TARGETS:
                attack.attacks_to_run = ["apgd-ce", "fab-t", "square"]
            found, _ = attack.run_standard_evaluation(images, target.labels, batch_size=len(images))
        target.count(round(model.asked / len(images)))
        target.count_backward(round(model.differentiated / len(images)))
        points: Images = found.detach().clamp(0, 1)
        return torch.where(points.isfinite(), points, images)


class _Counted(nn.Module):
    """A model with tempered logits that counts the images that it is asked about, and their gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked = 0
        self.differentiated = 0

    def forward(self, images: Images) -> Logits:
        """The tempered logits."""
        self.asked += len(images)
        logits = temper(of_images_alone(self.model, images))
        on_backward(logits, partial(self._differentiate, len(images)))
        return logits

    def _differentiate(self, count: int) -> None:
        self.differentiated += count


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the package's remarks on what kind of defence a model seems to be to itself."""
    logger = logging.getLogger("auto-attack")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
