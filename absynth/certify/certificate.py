"""What is proven of a model's decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from absynth.norms import Norm
from absynth.shapes import Images

GAP = 1e-3
"""A gap of at most this, or of this share of a radius above 1, counts as closed; in L0 one pixel does."""


@dataclass(frozen=True)
class Certificate:
    """What is proven of a model's decisions: lower bounds on their robustness.

    For every image i and every x' in [0, 1] with ‖x' − image_i‖ ≤ ``radius[i]``, the closed ball, the
    decision of the model's own float32 forward pass is ``prediction[i]``, which is the label. For L0 the
    radius is a number of pixels: no change of that many or fewer changes the decision. Nothing is claimed
    beyond the radius, and nothing at all where it is 0: there the prediction is not the label, or the margin
    is too small to be told from a tie. No radius exceeds the diameter of the box, as no two images are
    further apart.

    That is so for prototypes. Other methods say in ``rule`` which decision they speak of: of the network in
    real arithmetic, or of a classifier that is made from the model, whose decision ``prediction`` then is.

    The model sees float32. Where image_i consists of float32 numbers, in whatever type they are given, so
    does x'. Around others, x' is any image, which is rounded to float32 as image_i is, and the radius is
    smaller by what both can change. L0 needs no less: an unchanged pixel is rounded alike.

    Attributes:
        norm: Which norm the radius is measured in.
        radius: The proven radius of each image, rounded down.
        prediction: The model's decision for each image.
        method: What proved it, as ``"pairwise"``, ``"polytope"`` (exact) or ``"paper"`` (an estimate, see
            ``warning``).
        exact: Whether the radius was matched with adversarials, up to ``gap``.
        rule: The decision rule that the certificate is for.
        warning: What to know before trusting it, if anything.
        gap: Distance of the nearest adversarial found minus the radius, where exact; infinite if none was
            found though one is not excluded, 0 where none exists and where the image is misclassified. Where
            the time of an image ended before its search did, the radius is what was proven by then, and the
            gap is what remained.
        adversarials: These adversarials, float32, where exact; the image itself where it is misclassified,
            NaN where none was found.
        closed: Whether each gap is at most 1e-3, or 1e-3 of a radius above 1, where exact; in L0 whether it
            is at most the one pixel that the smallest adversarial has more than the radius.
        confidence: The probability that the radius of an image, each by itself, holds; None if it is certain.
            An image may then have a radius of 0 because the method abstained.
    """

    norm: Norm
    radius: Float[Tensor, "batch"]
    prediction: Int64[Tensor, "batch"]
    method: str
    exact: bool
    rule: str
    warning: str | None = None
    gap: Float[Tensor, "batch"] | None = None
    adversarials: Images | None = None
    closed: Bool[Tensor, "batch"] | None = None
    confidence: float | None = None


@overload
def is_closed(gap: Tensor, radius: Tensor, norm: Norm) -> Tensor: ...
@overload
def is_closed(gap: float, radius: float, norm: Norm) -> bool: ...
def is_closed(gap: Tensor | float, radius: Tensor | float, norm: Norm) -> Tensor | bool:
    """Whether a gap is at most 1e-3, or 1e-3 of a radius above 1; in L0 whether it is at most a pixel."""
    if norm == "l0":
        return gap <= 1
    return (gap <= GAP) | (gap <= GAP * radius)
