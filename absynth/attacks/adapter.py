"""Foolbox's attacks as attacks of this package; the only module that imports foolbox."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.attacks.averaged import Averaged
from absynth.attacks.base import Attack
from absynth.attacks.batch import Mask, size
from absynth.attacks.line_search import ascend, shrink
from absynth.attacks.noise import starting_points
from absynth.attacks.target import Target, misclassified, of_images_alone, temper
from absynth.errors import AbsynthError
from absynth.norms import Norm
from absynth.shapes import Images, Labels, Logits

LEAST_PROGRESS = 0.01
"""An image whose adversarial has come nearer by a smaller share than this is finished."""

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
        patience: Of an attack by decisions: how many queries an image's adversarial may take to come nearer
            by ``LEAST_PROGRESS``; an image that takes more leaves the batch. None for as many as it likes.
    """

    name: str
    norm: Norm
    make: Callable[[], Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    epsilons: tuple[float, ...] | None = None
    needs_start: bool = False
    bisections: int = 10
    patience: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Foolbox's parameters, the sizes tried, the number of bisections, and the patience if any."""
        epsilons = None if self.epsilons is None else list(self.epsilons)
        patience = {} if self.patience is None else {"patience": self.patience}
        return {**self.parameters, "epsilons": epsilons, "bisections": self.bisections, **patience}

    def run(self, target: Target, images: Images) -> Images:
        """Asks foolbox for candidates and pulls them to the boundary."""
        if self.needs_start:
            nowhere = torch.zeros_like(target.labels, dtype=torch.bool)
            return self.run_from(target, images, images, nowhere)
        if self.epsilons is not None:
            candidates, _ = ascend(target, images, self.epsilons, self._ask)
        else:
            candidates = self._ask(target, images, epsilon=None)
        return self._pull(target, images, candidates)

    def run_from(self, target: Target, images: Images, points: Images, known: Mask) -> Images:
        """The same for an attack that walks, from given points.

        Args:
            target: The model with the labels.
            images: The clean images.
            points: Adversarials where ``known`` is set.
            known: Where to begin at a point; elsewhere the walk begins at noise.
        """
        rows = (~known).nonzero().squeeze(1)
        if len(rows):
            part = target.select(rows)
            noisy, success = starting_points(part, images[rows], START_LEVELS, self.bisections)
            points, known = points.index_copy(0, rows, noisy), known.index_copy(0, rows, success)
        rows, candidates = known.nonzero().squeeze(1), images
        if len(rows):
            part = target.select(rows)
            try:
                found = self._ask(part, images[rows], epsilon=None, starting_points=points[rows])
            except ValueError:
                if not isinstance(target.model, Averaged):
                    raise
                found = points[rows]  # foolbox asked once more, and a point near the boundary was none then
            candidates = images.index_copy(0, rows, found)
        return self._pull(target, images, candidates)

    def _pull(self, target: Target, images: Images, candidates: Images) -> Images:
        success = target.is_adversarial(candidates)
        return shrink(target, images, candidates, success, self.bisections)

    def _ask(self, target: Target, images: Images, epsilon: float | None, **options: Tensor) -> Images:
        with quiet_foolbox():
            from foolbox.models.pytorch import PyTorchModel

            asked = target if self.patience is None else _Impatient(target, images, self.patience)
            model = PyTorchModel(_Tempered(asked).eval(), bounds=(0, 1), device=images.device)
            _, clipped, _ = self.make()(model, images, target.labels, epsilons=epsilon, **options)
        candidates: Tensor = clipped
        return torch.where(candidates.isfinite(), candidates.detach(), images).clamp(0, 1)


def ask_foolbox(
    attack: Any, model: nn.Module, images: Images, labels: Labels, sizes: Sequence[float]
) -> Images:
    """What an attack object of foolbox answers, which its user made.

    Args:
        attack: The object; untargeted, as all attacks are here.
        model: What it asks.
        images: The clean images.
        labels: Their classes.
        sizes: To run an attack of a given size at, one after the other; the answer is for the last one.

    Raises:
        AbsynthError: If the attack has to be told a size and there is none.
    """
    with quiet_foolbox():
        from foolbox.attacks.base import FixedEpsilonAttack
        from foolbox.models.pytorch import PyTorchModel

        fixed = isinstance(attack, FixedEpsilonAttack)
        if fixed and not sizes:
            raise AbsynthError(
                f"{type(attack).__name__} is an attack of a given size; give sizes, as "
                "absynth.attacks.Callable(attack, norm, sizes=[0.1, 0.2])."
            )
        wrapped = PyTorchModel(model, bounds=(0, 1), device=images.device)
        # one that minimises its perturbation is not told how large it may be, with which some break
        epsilons = list(sizes) if fixed else None
        _, clipped, _ = attack(wrapped, images, labels, epsilons=epsilons)
    found: Images = clipped if epsilons is None else clipped[-1]
    return found


class _Impatient(nn.Module):
    """A model that is no longer asked about images whose adversarials have stopped coming nearer.

    For these it answers that every point has the image's own class, which an attack that walks by decisions
    takes for a step that failed: it stays where it is, and keeps the best point that it has.

    Args:
        target: The model, asked about the images that are left alone.
        images: The clean images.
        patience: Queries between two looks at how far each adversarial has come.
    """

    def __init__(self, target: Target, images: Images, patience: int) -> None:
        super().__init__()
        self.target, self.images, self.patience = target, images, patience
        self.nearest = torch.full((len(images),), torch.inf, device=images.device)
        self.before = self.nearest.clone()
        self.left = torch.arange(len(images), device=images.device)
        self.classes, self.queries = 0, 0

    def forward(self, images: Images) -> Logits:
        """The logits of the images that are left; of the others, 1 for their own class."""
        labels, left = self.target.labels, self.left
        logits: Tensor | None = None
        if len(left):
            logits = self.target.select(left)(images[left])
            self.classes = logits.shape[1]
            self._note(images[left], misclassified(logits, labels[left]))
        answers = functional.one_hot(labels, self.classes).to(images.dtype)
        return answers if logits is None else answers.index_copy(0, left, logits.to(images.dtype))

    def _note(self, points: Images, adversarial: Mask) -> None:
        """Keeps how near each adversarial is, and now and then lets those go that came no nearer."""
        left = self.left
        sizes = size(points - self.images[left], "l2").to(self.nearest.dtype)
        self.nearest[left] = torch.where(adversarial, sizes.minimum(self.nearest[left]), self.nearest[left])
        self.queries += 1
        if self.queries % self.patience == 0:
            moving = self.nearest < (1 - LEAST_PROGRESS) * self.before
            self.before, self.left = self.nearest.clone(), left[moving[left]]


class _Tempered(nn.Module):
    """A model behind :func:`absynth.attacks.target.temper`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Images) -> Logits:
        """The tempered logits."""
        return temper(of_images_alone(self.model, images))


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
