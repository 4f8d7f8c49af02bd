"""What every attack has in common: checked input, verified output, one result."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from absynth.attacks.averaged import Averaged
from absynth.attacks.batch import Counts, Mask, Scalars
from absynth.attacks.course import Course, Recorder
from absynth.attacks.door import Opened, opened
from absynth.attacks.target import Target, misclassified, private_randomness
from absynth.errors import AbsynthError
from absynth.inputs import whole_number
from absynth.models.frozen import frozen
from absynth.norms import Norm, distance
from absynth.shapes import Images, Labels

PUSHES = (0.0, 1e-4, 1e-2)
"""How much further from the clean image a found one is moved, in turn, until the model agrees again.

An image on the boundary itself may change sides with the composition of the batch, by rounding alone."""

RANDOM_PUSHES = (0.0, 1e-2, 0.05, 0.1, 0.2, 0.4)
"""The same for a model that answers at random, which is not sure of what lies near the boundary."""


@dataclass(frozen=True)
class AttackResult:
    """The closest verified adversarials that were found; upper bounds on the robustness, never proofs.

    Attributes:
        adversarials: The adversarial of each image; the clean image where none was found. They have the wider
            type of the images and the model, and a pixel that was not changed has the value that was given.
        distances: How far it is from the clean image, float64, measured between the two as they are given and
            returned; 0 where the clean image is misclassified already, infinite where no adversarial was
            found.
        success: Where there is an adversarial, which may be the clean image itself.
        queries: How many forward passes each image took, those with a backward pass included.
        backwards: How many backward passes each image took.
        remarks: What to know of the attack, a sentence each.
        seconds: Wall-clock time of the search, over all images.
        course: How the adversarials came nearer, pass by pass, where that was asked for.
    """

    adversarials: Images
    distances: Scalars
    success: Mask
    queries: Counts
    backwards: Counts
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    course: Course | None = None

    @property
    def misclassified(self) -> Mask:
        """Which images the model got wrong from the start, so that nothing was attacked."""
        return self.success & (self.distances == 0)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.distances)


class Attack(ABC):
    """An attack: minimises the size of a perturbation, in one norm, that changes the decision.

    A subclass sets ``name`` and ``norm`` and writes :meth:`run` and :attr:`settings`; checking the input,
    leaving out images misclassified already, verifying and measuring are done here.

    Attributes:
        name: What the attack is called in suites and records.
        norm: The norm that it minimises and that its result is measured in.
    """

    name: str
    norm: Norm

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What determines the attack besides name, norm and seed, as plain JSON values."""

    @abstractmethod
    def run(self, target: Target, images: Images) -> Images:
        """Looks for adversarials; what it returns is verified by the caller.

        The model is in evaluation mode and its parameters collect no gradient. The global generators of torch
        and numpy are seeded and private to the call: draw from them.

        Args:
            target: The model with the labels of the images, which it classifies correctly.
            images: The clean images, at least one.

        Returns:
            A candidate for each image; the clean image, or any other, where there is none.
        """

    def applies_to(self, model: nn.Module) -> bool:
        """Whether the attack can be run on this model: some use what only some models have.

        Args:
            model: Any classifier.
        """
        return True

    def fits(self, shape: torch.Size, classes: int) -> bool:
        """Whether the attack can be run on such images: one may bring along what others do not fit.

        Args:
            shape: Of an image: channel, height, width.
            classes: That the model tells apart.
        """
        return True

    def __call__(
        self, model: Any, images: Any, labels: Any, seed: Any = 0, *, course: bool = False
    ) -> AttackResult:
        """Attacks a batch of images.

        Args:
            model: The classifier, from images to logits (batch, class): a module or a function.
            images: Clean images in [0, 1], shape (batch, channel, height, width), in any form that
                :mod:`absynth.inputs` names; a copy is moved to the model's device.
            labels: Their true classes, whole numbers, shape (batch,).
            seed: The result is the same for the same seed, batch and machine.
            course: Keep how the adversarials come nearer, which takes a little time at every pass.

        Raises:
            AbsynthError: If the images are no such batch, a pixel is NaN or outside [0, 1], a label is no
                class of the model, the model's answer is not one row of logits an image, or the attack does
                not apply to the model.
        """
        seed = whole_number(seed, "seed", least=0)
        with opened(model, images, labels, seed) as door:
            if not (self.applies_to(door.model) and self.fits(door.images.shape[1:], door.classes)):
                raise AbsynthError(
                    f"The attack '{self.name}' uses what a {type(model).__name__} does not have; leave it "
                    "out, as a suite does."
                )
            found = self.search(door.model, door.images, door.labels, seed, course=course)
            return as_given(found, door, self.norm)

    def search(
        self, model: nn.Module, images: Images, labels: Labels, seed: int = 0, *, course: bool = False
    ) -> AttackResult:
        """The same for what has been through the door (:func:`absynth.attacks.door.opened`).

        Args:
            model: The classifier as the door gives it.
            images: Clean images in the type that the model computes in, on its device.
            labels: Their classes.
            seed: Of the generators.
            course: As in :meth:`__call__`.

        Raises:
            AbsynthError: If the model's answer to the clean images is NaN or no row of logits an image.
        """
        started = time.perf_counter()
        target = Target(model, labels)
        with frozen(model), private_randomness(seed, images.device):
            with torch.no_grad():
                logits = target(images)
            _check_logits(logits, labels)
            if course:
                target.recorder = Recorder(images, self.norm, target.queries + target.backwards)
            wrong = misclassified(logits, labels)
            if isinstance(model, Averaged) and wrong.any():
                wrong &= target.confirmed(images)
            adversarials, found = images.clone(), wrong.clone()
            attacked = (~wrong).nonzero().squeeze(1)
            if len(attacked):
                part = target.select(attacked)
                candidates = self.run(part, images[attacked])
                adversarials[attacked], found[attacked] = verify(part, images[attacked], candidates)
        distances = distance(images, adversarials, self.norm).masked_fill(~found, torch.inf)
        return AttackResult(
            adversarials,
            distances,
            found,
            target.queries.to(images.device),
            target.backwards.to(images.device),
            tuple(dict.fromkeys(target.remarks)),
            time.perf_counter() - started,
            None
            if target.recorder is None
            else target.recorder.course(distances, target.queries + target.backwards),
        )


@torch.no_grad()
def verify(target: Target, images: Images, candidates: Images) -> tuple[Images, Mask]:
    """What of an attack's answer holds when the model is asked once more.

    Args:
        target: The model with the labels.
        images: The clean images.
        candidates: What the attack returned; clipped to [0, 1] here.

    Returns:
        The adversarials, the clean image where there is none, and where there is one.
    """
    finite = candidates.isfinite().flatten(1).all(dim=1)
    verified, found = images.clone(), torch.zeros_like(finite)
    random = isinstance(target.model, Averaged)
    for push in RANDOM_PUSHES if random else PUSHES:
        moved = torch.where(finite[:, None, None, None], candidates + push * (candidates - images), images)
        moved = target.seen(moved.to(images.dtype).clamp(0, 1))
        new = (target.confirmed(moved) if random else target.is_adversarial(moved)) & ~found
        verified = torch.where(new[:, None, None, None], moved, verified)
        found |= new
        if found.all():
            break
    if random:  # several were tried, so that one may have been luck
        found &= target.confirmed(verified)
        verified = torch.where(found[:, None, None, None], verified, images)
    return verified, found


def require(package: str, attack: str) -> None:
    """Sees that a package which only some attacks need is there.

    Raises:
        AbsynthError: If it is not installed.
    """
    if find_spec(package) is None:
        raise AbsynthError(
            f"The attack '{attack}' needs {package}, which is missing; pip install 'absynth[attacks]'."
        )


def as_given(result: AttackResult, door: Opened, norm: Norm) -> AttackResult:
    """A result for the images as they were given, where they were given.

    A pixel that was not changed gets the value that was given, which the model may have seen rounded.

    Args:
        result: For the images as the model saw them.
        door: That they came through.
        norm: Of the distances.
    """
    home, given = door.home, door.given
    adversarials, distances = result.adversarials, result.distances
    if given is not door.images:
        same = adversarials == door.images
        adversarials = torch.where(same, given, adversarials.to(given.dtype))
        distances = distance(given, adversarials, norm).masked_fill(~result.success, torch.inf)
    course = result.course
    if course is not None:
        # the look at the clean image is no pass of the search
        course = course.ending(distances, result.queries + result.backwards - 1)
    return AttackResult(
        adversarials.to(home),
        distances.to(home),
        result.success.to(home),
        result.queries.to(home),
        result.backwards.to(home),
        result.remarks,
        result.seconds,
        course,
    )


def _check_logits(logits: Tensor, labels: Labels) -> None:
    if logits.ndim != 2 or len(logits) != len(labels) or logits.shape[1] < 2:
        raise AbsynthError(
            f"The model answers {len(labels)} images with shape {tuple(logits.shape)}; an attack takes "
            f"models that answer with logits of shape ({len(labels)}, classes), at least two classes."
        )
    if logits.isnan().any():
        raise AbsynthError("The model's logits for the clean images contain NaN; an attack takes numbers.")
