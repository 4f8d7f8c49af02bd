"""How far floating point can be off: the constants that the search of a codebook and the certificates share.

Notation (Higham, *Accuracy and Stability of Numerical Algorithms*, chapter 3): u is half the spacing of 1,
and a sum of n products, in whatever order and with or without fused multiply-adds, is off by at most
γ_n Σ abs(a_i b_i) with γ_n = n u / (1 − n u). Everything here assumes IEEE arithmetic, so a matrix product in
TF32 or bfloat16 is not covered: certificates keep PyTorch from it (:mod:`absynth.surroundings`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.errors import AbsynthError

TINY = 1e-30
"""Above all that underflow can lose: 10⁵ products of at most 2⁻¹²⁶ each make 10⁻³³."""


def gamma(terms: int, dtype: torch.dtype) -> float:
    """γ_n = n u / (1 − n u), the relative error of n successive roundings.

    Args:
        terms: Number of roundings n.
        dtype: The floating point format.

    Raises:
        AbsynthError: If n u > ¼, where the bounds below are no longer valid (γ ≤ ⅓).

    >>> gamma(784, torch.float32) < 4.7e-5
    True
    """
    product = terms * torch.finfo(dtype).eps / 2
    if product > 0.25:
        raise AbsynthError(f"Images of {terms} pixels are too large to certify in {dtype}.")
    return product / (1 - product)


def score_error(
    energies: Float[Tensor, "entry"], sums: Float[Tensor, "entry"], roundings: int
) -> Float[Tensor, "entry"]:
    """Bounds the error of the float32 score fl(e − 2⟨x, p⟩), e = fl(‖p‖² + w), for every x in the box.

    Added up in any order, the energy takes at most pixels + 1 roundings of non-negative products and an
    offset, the product with x takes ``pixels``, adding the two one more. So every term of
    ‖p‖² + abs(w) + 2⟨x, p⟩ ≤ ‖p‖² + abs(w) + 2 Σ p goes through at most pixels + 3 roundings.

    Args:
        energies: ‖p‖² + abs(w) of each prototype.
        sums: Σ p of each prototype, which bounds ⟨x, p⟩ as x ≤ 1.
        roundings: The most roundings that a term goes through.
    """
    return gamma(roundings, torch.float32) * (energies + 2 * sums) + TINY
