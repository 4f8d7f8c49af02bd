"""How far floating point can be off: the slacks that turn a computed bound into a proven one.

Notation (Higham, *Accuracy and Stability of Numerical Algorithms*, chapter 3): u is half the spacing of 1,
and a sum of n products, in whatever order and with or without fused multiply-adds, is off by at most
γ_n Σ abs(a_i b_i) with γ_n = n u / (1 − n u). Everything here assumes IEEE arithmetic, so a matrix product in
TF32 or bfloat16 (``torch.set_float32_matmul_precision`` other than "highest") is not covered.
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


def round_down(values: Float[Tensor, "*rows"], terms: int) -> Float[Tensor, "*rows"]:
    """A little less than ``values``, non-negative and perhaps too large by ``terms`` roundings."""
    return values * (1 - 2 * gamma(terms + 2, values.dtype))


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


def forward_slack(
    own_error: float, own_score: Float[Tensor, "batch"], lowest_offset: float, roundings: int
) -> Float[Tensor, "batch"]:
    """The margin that guarantees the decision of ``PrototypeClassifier.forward``, which computes in float32.

    Let s_c be the true score of class c at some x', y the own class, and γ = γ_roundings. The search picks
    each class's prototype by computed scores off by at most E = ``own_error``, so the own prototype it picks
    is at most 2E worse than the best; a rival's can only be worse than its best, which does no harm. The loss
    of the pick, a difference, a square, a sum, an offset and the factor of the logits, takes ``roundings``
    (pixels + 5 if the sum may be in any order) of ‖x' − p‖² + w, so with W = max(0, −w) over all prototypes

        computed loss of y ≤ (1 + γ)(s_y + 2E) + 2γW,    computed loss of c ≥ (1 − γ) s_c − 2γW.

    The first is below the second when s_c − s_y > (2γ s_y + 2E(1 + γ) + 4γW) / (1 − γ), and as γ ≤ ⅓ when
    s_c − s_y > 3γ s_y + 2E(1 + 3γ) + 6γW, which is the slack.

    Args:
        own_error: E, the largest :func:`score_error` of the own class.
        own_score: An upper bound on s_y(x') over all x' in question.
        lowest_offset: The smallest w of all prototypes.
        roundings: The most roundings that a term of a loss goes through.
    """
    relative = gamma(roundings, torch.float32)
    spread = 3 * relative * (own_score.clamp(min=0) + 2 * max(0.0, -lowest_offset))
    return spread + 2 * own_error * (1 + 3 * relative)


def double_slack(scores: Float[Tensor, "*rows"], lowest_offset: float, pixels: int) -> Float[Tensor, "*rows"]:
    """What the float64 evaluation of a margin and of its gradient can be off by.

    Two scores of pixels + 3 roundings each, of terms that sum to at most s + 2W (W as in
    :func:`forward_slack`), and a gradient 2(q − Σ μ_k p_k) built from numbers up to 2 in at most 30
    roundings, which a step of at most 1 a pixel turns into pixels · 60 u.

    Args:
        scores: The larger of the two scores.
        lowest_offset: The smallest w of all prototypes.
        pixels: Number of pixels.
    """
    magnitude = scores.abs() + 2 * max(0.0, -lowest_offset)
    return 2 * gamma(pixels + 3, torch.float64) * magnitude + pixels * gamma(60, torch.float64)
