"""From the loss of each class to logits and probabilities (Schott et al. 2019, section 4, equation 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from absynth.shapes import Logits, Losses

ALPHA = 440.0
"""Sharpness of the softmax over the losses per pixel, for MNIST."""

USUAL_LOSS = 0.0165
"""Of the class that explains an image of MNIST best, a pixel, as the shipped ABS searches: the mean over the
classes of 2,000 test images (seed 0)."""

ETA = 3.9e-5
"""What is added to every class's likelihood: an image that no class explains comes out near-uniform."""

ROUNDED_SUM = 1e-3
"""How far from 1 rounding may bring the sum of probabilities."""


def fit_alpha(losses: Losses, pixels: int) -> float:
    """α for other data than MNIST, where models may explain images better or worse than there.

    440 · 0.0165 / (mean of min_c loss_c / pixels): scaled by it, the losses of images that are explained as
    well as such data can be are those of MNIST, for which the paper chose α and η. Every class that wins has
    the same weight in the mean, however few images it wins.

    Args:
        losses: Of each class, of images like those to be classified.
        pixels: Number of pixels of an image.

    >>> fit_alpha(torch.tensor([[3.84, 20.0], [3.84, 20.0], [30.0, 11.52]]), pixels=256)
    242.0
    """
    best = losses.min(dim=1)
    means = [float(best.values[best.indices == label].mean()) for label in best.indices.unique()]
    usual = max(sum(means) / len(means) / pixels, 1e-6)
    return round(ALPHA * USUAL_LOSS / usual, 1)


def losses_to_logits(losses: Losses, pixels: int, alpha: float = ALPHA) -> Logits:
    """α ℓ with ℓ = −loss / pixels: the logits before η enters.

    They keep the order of the losses however large these are; with η inside they would all become equal,
    and a gradient attack would find nothing to follow.

    Args:
        losses: Loss of each class, summed over pixels.
        pixels: Number of pixels of an image.
        alpha: Sharpness.
    """
    return losses * (-alpha / pixels)


def are_probabilities(answers: Logits) -> bool:
    """Whether every row is non-negative and sums to 1, up to rounding: what a softmax makes of logits.

    >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[1.0, 2.0]]))
    (True, False)
    """
    sums = answers.double().sum(dim=1)
    return bool((answers >= 0).all() and ((sums - 1).abs() < ROUNDED_SUM).all())


def logits_to_probabilities(logits: Logits) -> Logits:
    """p_c = (exp(αℓ_c) + η) / Σ_k (exp(αℓ_k) + η).

    Computed from log(exp(αℓ_c) + η), so that nothing underflows.

    >>> logits_to_probabilities(torch.tensor([[-1e9, -1e9]]))
    tensor([[0.5000, 0.5000]])
    """
    floor = torch.tensor(math.log(ETA), dtype=logits.dtype, device=logits.device)
    result: Tensor = torch.logaddexp(logits, floor).softmax(dim=-1)
    return result
