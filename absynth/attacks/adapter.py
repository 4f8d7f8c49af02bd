"""Foolbox's attacks as attacks of this package; the only module that imports foolbox."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from absynth.attacks.base import Attack
from absynth.attacks.batch import choose
from absynth.attacks.line_search import shrink
from absynth.attacks.noise import starting_points
from absynth.attacks.target import Target, temper
from absynth.norms import Norm
from absynth.shapes import Images, Logits

START_LEVELS = 10
"""Strengths of each kind of noise that a starting point is searched at."""


@dataclass(frozen=True)
class FoolboxAttack(Attack):
    """A foolbox attack (Rauber et al. 2020, https://foolbox.jonasrauber.de), run untargeted.

    Foolbox is only asked for candidates. They are pulled to the boundary along the straight line, verified
    and measured here. It sees tempered logits (:func:`absynth.attacks.target.temper`), so that a confident
    model does not hide its gradient; the decisions are the model's own.

    Attributes:
        name: Name in suites and records.
        norm: The norm that the result is measured in; foolbox's attack should minimise the same.
        make: Makes the foolbox attack, see :func:`foolbox_class`.
        parameters: What ``make`` was given, for records.
        epsilons: None for an attack that minimises its perturbation. For one of fixed size, the sizes to try
            in ascending order, each on the images that no smaller one fooled.
        needs_start: Whether it walks from starting points, as decision-based attacks do.
        bisections: Queries of each pull to the boundary.
    """

    name: str
    norm: Norm
    make: Callable[[], Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    epsilons: tuple[float, ...] | None = None
    needs_start: bool = False
    bisections: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters of foolbox's attack, the sizes tried and the number of bisections."""
        epsilons = None if self.epsilons is None else list(self.epsilons)
        return {**self.parameters, "epsilons": epsilons, "bisections": self.bisections}

    def run(self, target: Target, images: Images) -> Images:
        """Asks foolbox for candidates and pulls them to the boundary."""
        candidates = images
        if self.epsilons is not None:
            candidates = self._with_epsilons(target, images)
        elif self.needs_start:
            points, success = starting_points(target, images, START_LEVELS, self.bisections)
            rows = success.nonzero().squeeze(1)
            if len(rows):
                part = target.select(rows)
                found = self._ask(part, images[rows], epsilon=None, starting_points=points[rows])
                candidates = images.index_copy(0, rows, found)
        else:
            candidates = self._ask(target, images, epsilon=None)
        success = target.is_adversarial(candidates)
        return shrink(target, images, candidates, success, self.bisections)

    def _with_epsilons(self, target: Target, images: Images) -> Images:
        candidates, found = images, torch.zeros_like(target.labels, dtype=torch.bool)
        for epsilon in sorted(self.epsilons or ()):
            rows = (~found).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            part = target.select(rows)
            tried = self._ask(part, images[rows], epsilon=epsilon)
            success = part.is_adversarial(tried)
            candidates = candidates.index_copy(0, rows, choose(success, tried, images[rows]))
            found = found.index_copy(0, rows, success)
        return candidates

    def _ask(self, target: Target, images: Images, epsilon: float | None, **options: Tensor) -> Images:
        with quiet_foolbox():
            from foolbox.models.pytorch import PyTorchModel

            model = PyTorchModel(_Tempered(target).eval(), bounds=(0, 1), device=images.device)
            _, clipped, _ = self.make()(model, images, target.labels, epsilons=epsilon, **options)
        candidates: Tensor = clipped
        return torch.where(candidates.isfinite(), candidates.detach(), images).clamp(0, 1)


class _Tempered(nn.Module):
    """A model behind :func:`absynth.attacks.target.temper`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Images) -> Logits:
        """The tempered logits."""
        return temper(self.model(images))


def foolbox_class(name: str, **parameters: Any) -> Callable[[], Any]:
    """Something that makes the attack ``foolbox.attacks.<name>`` when it is called.

    Foolbox is imported only then, as it takes a second.

    Args:
        name: Name of the class.
        parameters: For its constructor.
    """

    def make() -> Any:
        with quiet_foolbox():
            import foolbox.attacks

            return getattr(foolbox.attacks, name)(**parameters)

    return make


@contextmanager
def quiet_foolbox() -> Iterator[None]:
    """Keeps foolbox's warnings to itself: deprecated imports, and means over statistics not yet collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
