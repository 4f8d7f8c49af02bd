"""Checks of what is handed to the front door."""

from __future__ import annotations

import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.norms import check_box


def check_images(images: Tensor, labels: Tensor) -> None:
    """Sees that there are images that can be certified, and a label for each.

    Raises:
        AbsynthError: If not.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise AbsynthError(
            f"The images have shape {tuple(images.shape)}; "
            "give at least one, as (batch, channel, height, width)."
        )
    if images.dtype != torch.float32:
        raise AbsynthError(f"The images are {images.dtype}; certificates are for float32 images.")
    check_box(images)
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise AbsynthError(
            f"The labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"give one int64 label for each of the {len(images)} images."
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Sees that every label is a class of the model.

    Raises:
        AbsynthError: If not.
    """
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise AbsynthError(
            f"The labels go from {int(labels.min())} to {int(labels.max())}; "
            f"this model's classes are 0 to {classes - 1}."
        )
