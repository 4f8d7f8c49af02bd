"""What a certificate needs of a model: its prototypes in one table, and how far its forward may be off."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.certify.front import Front, split_front
from absynth.certify.rounding import forward_slack
from absynth.errors import AbsynthError
from absynth.models.prototypes import PrototypeClassifier, loss_roundings
from absynth.rounding import score_error

ROWS_AT_ONCE = 512
"""Prototypes converted to float64 at a time: few enough to stay in a processor's cache."""


@dataclass(frozen=True)
class Codebook:
    """The prototypes of all classes, class after class, without the absent ones.

    Attributes:
        images: The prototypes p in [0, 1], float32.
        offsets: Their offsets w, float32.
        bounds: The rows of each class are ``bounds[c]`` to ``bounds[c + 1]``.
        squares: ‖p‖², float32.
        errors: How far a float32 score of each prototype may be off
            (:func:`absynth.rounding.score_error`), added up in any order.
        energies: ‖p‖² + w, float32.
        front: What stands between an image and the prototypes.
    """

    images: Float[Tensor, "entry pixel"]
    offsets: Float[Tensor, "entry"]
    bounds: tuple[int, ...]
    squares: Float[Tensor, "entry"]
    errors: Float[Tensor, "entry"]
    energies: Float[Tensor, "entry"]
    front: Front

    @property
    def pixels(self) -> int:
        """Number of pixels of an image."""
        return self.images.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.bounds) - 1

    @property
    def lowest_offset(self) -> float:
        """The smallest offset."""
        return float(self.offsets.min())

    def own(self, label: int) -> slice:
        """The rows of one class."""
        return slice(self.bounds[label], self.bounds[label + 1])

    def slack(self, own_score: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """The margin that guarantees the model's own decision (:func:`rounding.forward_slack`).

        Args:
            own_score: An upper bound on the own class's score over the perturbations in question.
        """
        return forward_slack(own_score, self.lowest_offset, loss_roundings(self.pixels))


ROUNDED_UP = 1 + 2.0**-20
"""More than a float64 sum and its rounding to float32 can lose."""


def find_prototypes(model: nn.Module) -> tuple[PrototypeClassifier, Front] | None:
    """The prototype classifier in ``model`` and what stands in front of it; None if there is none."""
    behind, front = split_front(model)
    return (behind, front) if isinstance(behind, PrototypeClassifier) else None


def read_codebook(model: PrototypeClassifier, front: Front) -> Codebook:
    """The codebook of a model.

    Args:
        model: The classifier by prototypes.
        front: What stands in front of it.

    Raises:
        AbsynthError: If the prototypes are not float32 images in [0, 1], or there are none.
    """
    stored = model.prototypes()
    for name, tensor in (("prototypes", stored.images), ("offsets of the prototypes", stored.offsets)):
        if tensor.dtype != torch.float32:
            raise AbsynthError(
                f"The {name} are {tensor.dtype}; certificates need float32, call model.float()."
            )
    present = ~stored.offsets.isposinf()
    images = stored.images.flatten(0, 1) if present.all() else stored.images[present]
    offsets = stored.offsets[present]
    if len(images) == 0:
        raise AbsynthError("The model has no prototypes; train it or load its weights first.")
    darkest, lightest = images.aminmax()
    if not (bool(offsets.isfinite().all()) and bool(darkest >= 0) and bool(lightest <= 1)):
        raise AbsynthError(
            "The model has prototypes outside [0, 1] or offsets that are not finite; certify another."
        )
    parts = []
    for rows in images.split(ROWS_AT_ONCE):
        exact = rows.double()
        parts.append(torch.stack([exact.square().sum(1), exact.sum(1)]))
    squares, sums = torch.cat(parts, dim=1)
    pixels = images.shape[1]
    magnitudes = squares + offsets.double().abs()
    return Codebook(
        images,
        offsets,
        tuple(accumulate(present.sum(1).tolist(), initial=0)),
        squares.float(),
        (score_error(magnitudes, sums, pixels + 3) * ROUNDED_UP).float(),
        (squares + offsets.double()).float(),
        front,
    )
