"""The slacks that turn a computed bound into a proven one; notation in :mod:`absynth.rounding`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.rounding import gamma


def round_down(values: Float[Tensor, "*rows"], terms: int) -> Float[Tensor, "*rows"]:
    """A little less than ``values``, non-negative and perhaps too large by ``terms`` roundings."""
    return values * (1 - 2 * gamma(terms + 2, values.dtype))


def forward_slack(
    own_score: Float[Tensor, "batch"], lowest_offset: float, roundings: int
) -> Float[Tensor, "batch"]:
    """The margin that guarantees the decision of ``PrototypeClassifier.forward``, which computes in float32.

    Let s_c be the true score of class c at some x', y the own class, and γ = γ_roundings. The search compares
    the computed losses of all prototypes that can be a class's best, the best one among them, so the own loss
    is at most the computed loss of the best own prototype; a rival's pick can only be worse than its best,
    which does no harm. A computed loss (a difference, a square, a sum, an offset and the factor of the
    logits) takes ``roundings`` of ‖x' − p‖² + w, so with W = max(0, −w) over all prototypes

        computed loss of y ≤ (1 + γ) s_y + 2γW,    computed loss of c ≥ (1 − γ) s_c − 2γW.

    The first is below the second when s_c − s_y > (2γ s_y + 4γW) / (1 − γ), and as γ ≤ ⅓ when
    s_c − s_y > 3γ s_y + 6γW, which is the slack.

    Args:
        own_score: An upper bound on s_y(x') over all x' in question.
        lowest_offset: The smallest w of all prototypes.
        roundings: The most roundings that a term of a loss goes through.
    """
    relative = gamma(roundings, torch.float32)
    return 3 * relative * (own_score.clamp(min=0) + 2 * max(0.0, -lowest_offset))


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
