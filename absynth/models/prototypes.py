"""Classification by the best prototype: a power diagram, and nearest neighbour as its plainest case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.models.confidence import ALPHA, losses_to_logits
from absynth.models.pretrained import PretrainedModel, register
from absynth.rounding import score_error
from absynth.shapes import Images, Labels, Logits, Losses

ROUNDED_UP = 1 + 2.0**-10
"""More than the rounding of the bounds on the search's own errors can lose."""

SCORES_AT_ONCE = 2**24
"""Scores held in memory at a time by the search (64 MiB)."""


def run_length(pixels: int) -> int:
    """The divisor of ``pixels`` nearest to its root: how many squares are added in one run.

    >>> run_length(784), run_length(7)
    (28, 1)
    """
    return max(divisor for divisor in range(1, math.isqrt(pixels) + 1) if pixels % divisor == 0)


def loss_roundings(pixels: int) -> int:
    """The most roundings that a square goes through until it is part of a logit.

    Difference and square make three, the sums of runs and of their results one less than their lengths each,
    offset and factor one each.

    >>> loss_roundings(784)
    59
    """
    run = run_length(pixels)
    return run + pixels // run + 3


@dataclass(frozen=True)
class Prototypes:
    """The codebook of every class: a class's score is min_k ‖x − image_k‖² + offset_k.

    Attributes:
        images: Flattened prototypes in [0, 1].
        offsets: What is added to the squared distance; infinite where a class has fewer prototypes.
    """

    images: Float[Tensor, "class prototype pixel"]
    offsets: Float[Tensor, "class prototype"]


class PrototypeClassifier(PretrainedModel):
    """Decides for the class with the smallest score min_k ‖x − p_k‖² + w_k.

    A subclass fills the buffers ``prototype_images`` (class, prototype, pixel) and ``prototype_offsets``
    (class, prototype), and calls :meth:`index` whenever they change.

    Attributes:
        alpha: Sharpness of the confidence.
    """

    alpha: float = ALPHA
    prototype_images: Tensor
    prototype_offsets: Tensor
    _energies: Tensor
    _errors: Tensor

    def index(self) -> None:
        """Precomputes ‖p‖² + w for the search, and how far its scores may be off in each class."""
        squares = self.prototype_images.square().sum(-1)
        self.register_buffer("_energies", squares + self.prototype_offsets, persistent=False)
        magnitudes = squares + self.prototype_offsets.abs()
        roundings = self.prototype_images.shape[-1] + 3
        error = score_error(magnitudes.flatten(), self.prototype_images.sum(-1).flatten(), roundings)
        largest = error.view_as(squares).nan_to_num(posinf=0.0).amax(1) * ROUNDED_UP
        self.register_buffer("_errors", largest, persistent=False)

    def prototypes(self) -> Prototypes:
        """The codebook that decides."""
        return Prototypes(self.prototype_images, self.prototype_offsets)

    def _flatten(self, images: Tensor) -> Float[Tensor, "batch pixel"]:
        pixels = self.prototype_images.shape[-1]
        if images.ndim != 4 or images.shape[1:].numel() != pixels:
            raise AbsynthError(
                f"The images have shape {tuple(images.shape)}; this model takes {pixels} pixels each."
            )
        return images.flatten(1)

    @torch.no_grad()
    def nearest(self, images: Images) -> Int64[Tensor, "batch class"]:
        """The index of each class's best prototype, by computed loss the first smallest.

        Found by float32 matrix products (‖p‖² + w − 2⟨x, p⟩), a few prototypes at a time. Such a score is off
        by up to E (:func:`absynth.rounding.score_error`), so where several lie within 2E of a class's
        smallest, their losses decide.
        """
        flat = self._flatten(images)
        classes, count, _ = self.prototype_images.shape
        chosen = torch.empty(len(flat), classes, dtype=torch.int64, device=flat.device)
        for rows in torch.arange(len(flat), device=flat.device).split(max(1, SCORES_AT_ONCE // count)):
            for label in range(classes):
                scores = torch.addmm(
                    self._energies[label], flat[rows], self.prototype_images[label].T, alpha=-2
                )
                lowest = scores.min(dim=1)
                chosen[rows, label] = lowest.indices
                close = scores <= (lowest.values + 2 * self._errors[label])[:, None]
                several = (close.count_nonzero(dim=1) > 1) & lowest.values.isfinite()
                for row in several.nonzero()[:, 0]:
                    candidates = close[row].nonzero()[:, 0]
                    losses = self._losses(flat[rows[row]], label, candidates)
                    chosen[rows[row], label] = candidates[losses.argmin()]
        return chosen

    def _losses(
        self, flat: Float[Tensor, "*batch pixel"], labels: int | Tensor, chosen: Tensor
    ) -> Float[Tensor, "*some"]:
        """‖x − p‖² + w of chosen prototypes, added up in short runs (:func:`loss_roundings`)."""
        squares = (flat - self.prototype_images[labels, chosen]).square()
        runs: Tensor = squares.unflatten(-1, (-1, run_length(squares.shape[-1])))
        return runs.sum(-1).sum(-1) + self.prototype_offsets[labels, chosen]

    def losses(self, images: Images) -> Losses:
        """The score of every class, differentiable in the images.

        Raises:
            AbsynthError: If the images have another number of pixels than the prototypes.
        """
        flat = self._flatten(images)
        chosen = self.nearest(images.detach())
        labels = torch.arange(chosen.shape[1], device=flat.device)
        return self._losses(flat[:, None], labels, chosen)

    def forward(self, images: Images) -> Logits:
        """The logits, −α/pixels times the scores."""
        return losses_to_logits(self.losses(images), self.prototype_images.shape[-1], self.alpha)


@register
class NearestNeighbour(PrototypeClassifier):
    """1-nearest-neighbour in L2 over labelled images.

    Args:
        images: The training images, in [0, 1].
        labels: Their classes.
        classes: Number of classes; by default the largest label plus one.
    """

    type_name = "nearest-neighbour"

    def __init__(self, images: Images, labels: Labels, classes: int | None = None) -> None:
        super().__init__()
        classes = int(labels.max()) + 1 if classes is None else classes
        members = [images[labels == label].flatten(1) for label in range(classes)]
        padded = nn.utils.rnn.pad_sequence(members, batch_first=True)
        offsets = padded.new_full(padded.shape[:2], torch.inf)
        for label, own in enumerate(members):
            offsets[label, : len(own)] = 0
        self.register_buffer("prototype_images", padded)
        self.register_buffer("prototype_offsets", offsets)
        self.index()

    def config(self) -> dict[str, Any]:
        """The shape of the table of prototypes."""
        return {"shape": list(self.prototype_images.shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NearestNeighbour:
        """A model over a named data set (``dataset``, ``split``), or an empty one of the stored ``shape``."""
        if "dataset" in config:
            from absynth.data import load_dataset

            model = cls(*load_dataset(config["dataset"], config["split"]))
        else:
            classes, count, pixels = config["shape"]
            model = cls(torch.zeros(classes * count, 1, 1, pixels), torch.arange(classes).repeat(count))
        return model

    def prepare(self) -> None:
        """Indexes the loaded prototypes."""
        self.index()
