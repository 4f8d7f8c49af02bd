"""Classification by the best prototype: a power diagram, and nearest neighbour as its plainest case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.inputs import check_layout, check_type, is_channel_last
from absynth.memory import at_once
from absynth.models.confidence import ALPHA, losses_to_logits
from absynth.models.pretrained import PretrainedModel, register
from absynth.models.projection import Projection
from absynth.rounding import score_error
from absynth.shapes import Images, Labels, Logits, Losses

ROUNDED_UP = 1 + 2.0**-10
"""More than the rounding of the bounds on the search's own errors can lose."""

SCORES_AT_ONCE = 2**22
"""Scores held in memory at a time by the search (16 MiB, which a processor's cache may hold)."""

BYTES_A_SCORE = 64
"""Of memory that the search takes for each score, where it lists every prototype as a candidate."""

LOSSES_AT_ONCE = 20_000
"""Candidates of MNIST's size whose losses are computed together; more would be no faster."""

BYTES_A_LOSS_PIXEL = 16
"""Of memory for a loss: image, prototype, difference and square."""

SMALL_CODEBOOK = 1000
"""Prototypes a class up to which no bounds are used."""

MOST_CANDIDATES = 32
"""Of an image and a class: with more, one of many images takes less time for all scores than for losses."""

SHARE_READ = 8
"""What all scores of a class cost if only for one image, as losses: one eighth of its prototypes."""

SQUARES_AT_ONCE = 1024
"""Prototypes squared at a time: few enough to stay in a processor's cache."""


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
    projection: Projection | None
    _energies: Tensor
    _errors: Tensor

    def index(self) -> None:
        """Precomputes what the search needs: ‖p‖² + w, bounds, and how far its scores may be off."""
        rows = self.prototype_images.flatten(0, 1).split(SQUARES_AT_ONCE)
        squares = torch.cat([piece.square().sum(-1) for piece in rows]).view_as(self.prototype_offsets)
        large = self.prototype_images.shape[1] > SMALL_CODEBOOK
        energies = squares + self.prototype_offsets
        self.register_buffer("_energies", energies, persistent=False)
        self.projection = Projection.of(self.prototype_images, squares, energies) if large else None
        magnitudes = squares + self.prototype_offsets.abs()
        roundings = self.prototype_images.shape[-1] + 3
        error = score_error(magnitudes.flatten(), self.prototype_images.sum(-1).flatten(), roundings)
        largest = error.view_as(squares).nan_to_num(posinf=0.0).amax(1) * ROUNDED_UP
        self.register_buffer("_errors", largest, persistent=False)

    def indexed(self) -> dict[str, Tensor]:
        """What :meth:`index` computed, by name."""
        projected = {} if self.projection is None else dict(self.projection.named_buffers())
        return {"energies": self._energies, "errors": self._errors, **projected}

    def restore_index(self, kept: dict[str, Tensor]) -> None:
        """Takes what :meth:`indexed` gave for the same prototypes in place of computing it.

        Args:
            kept: By name; other names are left alone.
        """
        self.register_buffer("_energies", kept["energies"], persistent=False)
        self.register_buffer("_errors", kept["errors"], persistent=False)
        known = "factors" in kept
        self.projection = Projection(kept["basis"], kept["factors"], kept["norms"]) if known else None

    def prototypes(self) -> Prototypes:
        """The codebook that decides."""
        return Prototypes(self.prototype_images, self.prototype_offsets)

    def _flatten(self, images: Tensor) -> Float[Tensor, "batch pixel"]:
        check_type(images, self.prototype_images.dtype)
        pixels = self.prototype_images.shape[-1]
        if images.ndim == 4 and is_channel_last(tuple(images.shape)):
            check_layout(tuple(images.shape))
        if images.ndim != 4 or images.shape[1:].numel() != pixels:
            raise AbsynthError(
                f"The images have shape {tuple(images.shape)}; this model takes {pixels} pixels each."
            )
        return images.flatten(1)

    @torch.no_grad()
    def nearest(self, images: Images) -> Int64[Tensor, "batch class"]:
        """The index of each class's best prototype, by computed loss the first smallest.

        In a large codebook, lower bounds of the scores (:class:`Projection`) leave a few candidates, whose
        losses decide. Where they leave many, and in a small one, all scores are computed (:meth:`_scan`).
        """
        flat = self._flatten(images)
        count = self.prototype_images.shape[1]
        look = self._scan_all if self.projection is None else self._sieve_all
        pieces = flat.split(at_once(BYTES_A_SCORE * count, SCORES_AT_ONCE // count))
        return torch.cat([look(some) for some in pieces])

    def _scan_all(self, flat: Float[Tensor, "batch pixel"]) -> Int64[Tensor, "batch class"]:
        return torch.stack([self._scan(flat, label) for label in range(len(self.prototype_images))], dim=1)

    def _sieve_all(self, flat: Float[Tensor, "batch pixel"]) -> Int64[Tensor, "batch class"]:
        """The more images there are, the fewer classes at a time: reading these once serves all images."""
        assert self.projection is not None
        classes, count, _ = self.prototype_images.shape
        query, scores = self.projection(flat), count * max(1, len(flat))
        step = at_once(BYTES_A_SCORE * scores, SCORES_AT_ONCE // scores)
        pieces = [slice(first, min(first + step, classes)) for first in range(0, classes, step)]
        return torch.cat([self._sieve(flat, query, labels) for labels in pieces], dim=1)

    def _sieve(
        self, flat: Float[Tensor, "batch pixel"], query: Float[Tensor, "batch coordinate"], of: slice
    ) -> Int64[Tensor, "batch class"]:
        """The best prototypes of some classes, by bounds and then losses."""
        assert self.projection is not None
        labels, count = torch.arange(of.start, of.stop, device=flat.device), self.prototype_images.shape[1]
        bounds = self.projection.bounds(query, of)
        chosen = bounds.argmin(dim=2)
        reached = self._losses(flat[:, None], labels, chosen)
        slack = self.projection.slack(query, of) + 2 * self._errors[of]
        limit = reached - flat.square().sum(1)[:, None] + slack
        # A class without prototypes has the limit ∞, which all its bounds reach and none should.
        possible = bounds <= limit.nan_to_num(posinf=-torch.inf)[:, :, None]
        counts = possible.count_nonzero(dim=2)
        many = counts > MOST_CANDIDATES
        many &= (counts * many).sum(0) * SHARE_READ > count
        rows, places, candidates = possible.nonzero(as_tuple=True)
        few = ~many[rows, places]
        rows, places, candidates = rows[few], places[few], candidates[few]
        size = self._losses_at_once()
        pieces = zip(rows.split(size), labels[places].split(size), candidates.split(size), strict=True)
        losses = torch.cat([self._losses(flat[row], label, some) for row, label, some in pieces])
        places = rows * len(labels) + places
        lowest = losses.new_full((chosen.numel(),), torch.inf).scatter_reduce(0, places, losses, "amin")
        best = losses == lowest[places]
        first = chosen.new_full((chosen.numel(),), count)
        first = first.scatter_reduce(0, places[best], candidates[best], "amin").view_as(chosen)
        chosen = torch.where(first < count, first, chosen)
        for place in many.any(dim=0).nonzero()[:, 0].tolist():
            chosen[many[:, place], place] = self._scan(flat[many[:, place]], of.start + place)
        return chosen

    def _scan(self, flat: Float[Tensor, "batch pixel"], label: int) -> Int64[Tensor, "batch"]:
        """The best of all prototypes of a class, by float32 matrix products (‖p‖² + w − 2⟨x, p⟩).

        Such a score is off by up to E (:func:`absynth.rounding.score_error`), so where several lie within 2E
        of the smallest, their losses decide.
        """
        scores = torch.addmm(self._energies[label], flat, self.prototype_images[label].T, alpha=-2)
        lowest = scores.min(dim=1)
        chosen = lowest.indices
        close = scores <= (lowest.values + 2 * self._errors[label])[:, None]
        several = (close.count_nonzero(dim=1) > 1) & lowest.values.isfinite()
        for row in several.nonzero()[:, 0]:
            candidates = close[row].nonzero()[:, 0]
            chosen[row] = candidates[self._losses(flat[row], label, candidates).argmin()]
        return chosen

    def _losses(
        self, flat: Float[Tensor, "*batch pixel"], labels: int | Tensor, chosen: Tensor
    ) -> Float[Tensor, "*some"]:
        """‖x − p‖² + w of chosen prototypes, added up in short runs (:func:`loss_roundings`)."""
        squares = (flat - self.prototype_images[labels, chosen]).square()
        runs: Tensor = squares.unflatten(-1, (-1, run_length(squares.shape[-1])))
        return runs.sum(-1).sum(-1) + self.prototype_offsets[labels, chosen]

    def _losses_at_once(self) -> int:
        pixels = self.prototype_images.shape[-1]
        return at_once(BYTES_A_LOSS_PIXEL * pixels, LOSSES_AT_ONCE * 784 // pixels)

    def losses(self, images: Images, chosen: Int64[Tensor, "batch class"] | None = None) -> Losses:
        """The score of every class, differentiable in the images.

        Args:
            images: Any number.
            chosen: What :meth:`nearest` says of them, where that is known.

        Raises:
            AbsynthError: If the images have another number of pixels than the prototypes.
        """
        flat = self._flatten(images)
        chosen = self.nearest(images.detach()) if chosen is None else chosen
        labels = torch.arange(chosen.shape[1], device=flat.device)
        size = max(1, self._losses_at_once() // len(labels))
        pieces = zip(flat.split(size), chosen.split(size), strict=True)
        return torch.cat([self._losses(some[:, None], labels, best) for some, best in pieces])

    def forward(self, images: Images, chosen: Int64[Tensor, "batch class"] | None = None) -> Logits:
        """The logits, −α/pixels times the scores; the arguments are those of :meth:`losses`."""
        losses = self.losses(images, chosen)
        return losses_to_logits(losses, self.prototype_images.shape[-1], self.alpha)


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
            shape = tuple(config["shape"])
            with torch.device("cpu"):
                model = cls(torch.zeros(1, 1, 1, shape[2]), torch.zeros(1, dtype=torch.int64))
            model.prototype_images, model.prototype_offsets = torch.zeros(shape), torch.zeros(shape[:2])
        return model

    def prepare(self, cached: bool = False) -> None:
        """Indexes the loaded prototypes."""
        self.index()
