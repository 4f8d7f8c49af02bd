"""Projections onto the ball of each norm, and the direction of steepest ascent in it, batched."""

from __future__ import annotations

import torch

from absynth.attacks.batch import Scalars, per_image, size
from absynth.norms import Norm
from absynth.shapes import Images

TINY = 1e-30
"""Keeps a quotient of two zeros 0; far below the square of any gradient worth following."""


def project(perturbations: Images, epsilon: Scalars, norm: Norm) -> Images:
    """The nearest perturbation (in L2) of size at most epsilon, image by image.

    L1 is the projection onto the simplex by sorting (Duchi et al. 2008); L0 keeps the largest pixels.

    Args:
        perturbations: Shape (batch, channel, height, width).
        epsilon: The largest size of each; for L0 it is rounded down.
        norm: Which norm.

    >>> project(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([1.0]), "l2")
    tensor([[[[0.6000, 0.8000]]]])
    >>> project(torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([2.0]), "l1")
    tensor([[[[ 0.5000, -1.5000]]]])
    """
    limit = per_image(epsilon)
    if norm == "linf":
        return torch.minimum(torch.maximum(perturbations, -limit), limit)
    if norm == "l2":
        return perturbations * (limit / per_image(size(perturbations, "l2")).clamp(min=TINY)).clamp(max=1)
    if norm == "l0":
        strength = perturbations.square().sum(dim=1).flatten(1)
        rank = strength.argsort(dim=1, descending=True).argsort(dim=1)
        kept = rank < epsilon.floor()[:, None]
        return perturbations * kept.view(len(perturbations), 1, *perturbations.shape[2:])
    flat = perturbations.flatten(1).abs()
    ordered = flat.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - epsilon[:, None]
    counts = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    support = (ordered * counts > excess).sum(dim=1, keepdim=True).clamp(min=1)
    threshold = (excess.gather(1, support - 1) / support).clamp(min=0)
    return ((flat - threshold).clamp(min=0) * perturbations.flatten(1).sign()).view_as(perturbations)


def steepest(gradients: Images, images: Images, norm: Norm, sparsity: float = 0.01) -> Images:
    """The direction of size 1 that raises a loss with these gradients fastest.

    In L1 that would be a single value; as in Tramèr and Boneh 2019 (arXiv 1904.13000, "SLIDE") the step is
    spread evenly over a part of the values, those of the steepest slope with room left in [0, 1].

    Args:
        gradients: Of the loss in the images.
        images: Where they were taken.
        norm: L2, L1 or Linf.
        sparsity: The part of all values that an L1 step moves.
    """
    if norm == "linf":
        return gradients.sign()
    if norm == "l2":
        return gradients / per_image(size(gradients, "l2")).clamp(min=TINY)
    room = torch.where(gradients > 0, images < 1, images > 0)
    strength = (gradients.abs() * room).flatten(1)
    count = max(1, round(sparsity * strength.shape[1]))
    least = strength.topk(count, dim=1).values[:, -1:].clamp(min=TINY)
    return gradients.sign() * (strength >= least).view_as(gradients) / count
