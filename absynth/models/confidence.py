"""From the loss of each class to logits and probabilities (Schott et al. 2019, section 4, equation 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from absynth.shapes import Logits, Losses

ALPHA = 440.0
"""Sharpness of the softmax over the losses per pixel."""

ETA = 3.9e-5
"""What is added to every class's likelihood: an image that no class explains comes out near-uniform."""


def losses_to_logits(losses: Losses, pixels: int) -> Logits:
    """α ℓ with ℓ = −loss / pixels: the logits before η enters.

    They keep the order of the losses however large these are; with η inside they would all become equal,
    and a gradient attack would find nothing to follow.

    Args:
        losses: Loss of each class, summed over pixels.
        pixels: Number of pixels of an image.
    """
    return losses * (-ALPHA / pixels)


def logits_to_probabilities(logits: Logits) -> Logits:
    """p_c = (exp(αℓ_c) + η) / Σ_k (exp(αℓ_k) + η).

    Computed from log(exp(αℓ_c) + η), so that nothing underflows.

    >>> logits_to_probabilities(torch.tensor([[-1e9, -1e9]]))
    tensor([[0.5000, 0.5000]])
    """
    floor = torch.tensor(math.log(ETA), dtype=logits.dtype, device=logits.device)
    result: Tensor = torch.logaddexp(logits, floor).softmax(dim=-1)
    return result
