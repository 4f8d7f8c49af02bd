"""The four norms, and the box [0, 1] that every image lives in."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.shapes import Images

Norm = Literal["l2", "l1", "linf", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)


def parse_norm(name: str) -> Norm:
    """The norm called ``name``, in any case.

    Raises:
        AbsynthError: If there is no such norm.

    >>> parse_norm("Linf")
    'linf'
    """
    for norm in NORMS:
        if norm == name.strip().lower():
            return norm
    raise AbsynthError(f"There is no norm '{name}'; choose one of {', '.join(NORMS)}.")


def check_box(images: Images) -> None:
    """Sees that every pixel lies in the box.

    Raises:
        AbsynthError: If one is NaN or outside [0, 1].
    """
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise AbsynthError("The images have values that are NaN or outside [0, 1]; scale them to [0, 1].")


def distance(first: Images, second: Images, norm: Norm) -> Float[Tensor, "batch"]:
    """How far two batches of images are apart, image by image, in float64.

    L0 counts pixels: a pixel that differs in several channels counts once.

    Args:
        first: Images of shape (batch, channel, height, width).
        second: Images of the same shape.
        norm: Which norm.

    >>> distance(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5), "l2")
    tensor([1.], dtype=torch.float64)
    """
    difference = (first.double() - second.double()).abs()
    if norm == "l0":
        return (difference.amax(dim=1) > 0).flatten(1).sum(dim=1).double()
    order = {"l2": 2.0, "l1": 1.0, "linf": torch.inf}[norm]
    result: Tensor = torch.linalg.vector_norm(difference.flatten(1), ord=order, dim=1)
    return result
