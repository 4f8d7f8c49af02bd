"""One value an image: the annotations, and the little helpers that combine such values with images."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from absynth.norms import Norm
from absynth.shapes import Images

Mask = Bool[Tensor, "batch"]
Scalars = Float[Tensor, "batch"]
Counts = Int64[Tensor, "batch"]


def per_image(values: Tensor) -> Tensor:
    """Values of shape (batch,) as (batch, 1, 1, 1), ready to be combined with images."""
    return values[:, None, None, None]


def choose(mask: Mask, new: Images, old: Images) -> Images:
    """The images of ``new`` where the mask is set, those of ``old`` elsewhere."""
    return torch.where(per_image(mask), new, old)


def keep_closer(
    best: Images, best_size: Scalars, points: Images, sizes: Scalars, found: Mask
) -> tuple[Images, Scalars]:
    """The closest adversarial of each image so far, with its size.

    Args:
        best: What was closest before.
        best_size: Its size; infinite where there is none yet.
        points: What was found now.
        sizes: Its size.
        found: Where it counts.
    """
    better = found & (sizes < best_size)
    return choose(better, points, best), torch.where(better, sizes, best_size)


def size(perturbations: Images, norm: Norm) -> Scalars:
    """The norm of each perturbation in its own precision, for use inside attacks.

    What is recorded is measured in float64 by :func:`absynth.norms.distance`.
    """
    if norm == "l0":
        return (perturbations.abs().amax(dim=1) > 0).flatten(1).sum(dim=1).to(perturbations.dtype)
    order = {"l2": 2.0, "l1": 1.0, "linf": torch.inf}[norm]
    sizes: Tensor = torch.linalg.vector_norm(perturbations.flatten(1), ord=order, dim=1)
    return sizes


def largest_size(images: Images, norm: Norm) -> Scalars:
    """The size of the largest perturbation that keeps each image in [0, 1]."""
    return size(torch.maximum(images, 1 - images), norm)
