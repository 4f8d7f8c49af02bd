"""What a recipe is carried out on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from absynth.data.domain import Domain
from absynth.data.split import Validation
from absynth.models.pretrained import PretrainedModel
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.vaes import FitVAEs, fit_in_turn


@dataclass(frozen=True, eq=False)
class Assignment:
    """Images to train a model with, and where it goes.

    A training that was interrupted goes on where it was when it is started again with the same ``out``.

    Attributes:
        images: Training images, those held out included.
        labels: Their classes, 0 to the largest.
        out: Folder of the finished model; checkpoints lie in its ``checkpoints``.
        command: Stored beside the weights.
        progress: Where to show the training and the measurements.
        domain: What the images are, kept in the model's config; by default classes called by their numbers.
            A model that builds on another one has that one's.
        validation: Which images to hold out and measure on; by default none.
        augmented: Change the images a little, anew each time they are seen, where a recipe leaves that
            open.
        fit_vaes: Where VAEs are trained; by default in this process, one after the other. Everything else is
            always done in this process.
    """

    images: Images
    labels: Labels
    out: Path
    command: str
    progress: Progress
    domain: Domain | None = None
    validation: Validation = field(default_factory=Validation)
    augmented: bool = False
    fit_vaes: FitVAEs = fit_in_turn

    @property
    def checkpoints(self) -> Path:
        """Their folder."""
        return self.out / "checkpoints"

    @property
    def trained(self) -> Int64[Tensor, "trained"]:
        """The rows of the images to train on."""
        return self._split[0]

    @property
    def held_out(self) -> Int64[Tensor, "held_out"]:
        """The rows of the images to measure on."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[Int64[Tensor, "trained"], Int64[Tensor, "held_out"]]:
        return self.validation.split(self.labels)


Train = Callable[[Assignment], PretrainedModel]
"""Trains a model, saves it and returns it, ready to classify."""
