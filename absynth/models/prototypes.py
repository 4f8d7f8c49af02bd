"""Classification by the best prototype: a power diagram, and nearest neighbour as its plainest case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.models.confidence import losses_to_logits
from absynth.models.pretrained import PretrainedModel, register
from absynth.shapes import Images, Labels, Logits, Losses

SCORES_AT_ONCE = 2**24
"""Scores held in memory at a time by the search (64 MiB)."""


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
    """

    prototype_images: Tensor
    prototype_offsets: Tensor
    _energies: Tensor

    def index(self) -> None:
        """Precomputes ‖p‖² + w for the search."""
        energies = self.prototype_images.square().sum(-1) + self.prototype_offsets
        self.register_buffer("_energies", energies, persistent=False)

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
        """The index of each class's best prototype.

        Found by float32 matrix products (‖p‖² + w − 2⟨x, p⟩), a few prototypes at a time.
        """
        flat = self._flatten(images)
        classes, count, _ = self.prototype_images.shape
        chosen = torch.empty(len(flat), classes, dtype=torch.int64, device=flat.device)
        for rows in torch.arange(len(flat), device=flat.device).split(max(1, SCORES_AT_ONCE // count)):
            for label in range(classes):
                scores = torch.addmm(
                    self._energies[label], flat[rows], self.prototype_images[label].T, alpha=-2
                )
                chosen[rows, label] = scores.argmin(dim=1)
        return chosen

    def losses(self, images: Images) -> Losses:
        """The score of every class, differentiable in the images.

        Raises:
            AbsynthError: If the images have another number of pixels than the prototypes.
        """
        flat = self._flatten(images)
        chosen = self.nearest(images.detach())
        labels = torch.arange(chosen.shape[1], device=flat.device)
        difference = flat[:, None] - self.prototype_images[labels, chosen]
        return difference.square().sum(-1) + self.prototype_offsets[labels, chosen]

    def forward(self, images: Images) -> Logits:
        """The logits, −α/pixels times the scores."""
        return losses_to_logits(self.losses(images), self.prototype_images.shape[-1])


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
