"""Randomised ablation: certificates of the majority over a few pixels that are kept at random."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from absynth.certify.provers.sampled import Draws, Sampled, Shape
from absynth.errors import AbsynthError
from absynth.inputs import whole_number
from absynth.norms import Norm

HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Ablation(Sampled):
    """Randomised ablation in L0: g(x) = argmax_c P(f(x_T) = c), T a set of k of the d pixels.

    In x_T the pixels of T are those of x, and all others have one fixed value. With x' that differs from x in
    ρ pixels, x_T and x'_T are the same unless T has one of these, which has the probability

        Δ(ρ) = 1 − C(d − ρ, k) / C(d, k).

    So with q an upper bound on the probability of all other classes, g stays while q + Δ(ρ) < ½ (Levine &
    Feizi 2020, arXiv 1911.09272, theorem 1; theirs has networks that are told which pixels are missing). It
    is computed in fractions, without rounding. A pixel is one in all its channels.

    Attributes:
        kept: k. By default what the authors chose for MNIST.
        missing: The value of the pixels outside T.

    Raises:
        AbsynthError: If a setting is out of its range.
    """

    name: ClassVar[str] = "ablation"

    kept: int = 45
    missing: float = 0.5

    def __post_init__(self) -> None:
        """Sees that the settings make sense."""
        super().__post_init__()
        whole_number(self.kept, "setting 'kept'")
        if not 0 <= self.missing <= 1:
            raise AbsynthError(f"The setting 'missing' is {self.missing}; it must be a value in [0, 1].")

    @property
    def norms(self) -> tuple[Norm, ...]:
        """L0 alone."""
        return ("l0",)

    @property
    def rule(self) -> str:
        """The ablated classifier."""
        return (
            f"argmax over c of P(f(x_T) = c), f the model's decision, x_T the image with {self.kept} random "
            f"pixels as they are and all others at {self.missing:g}"
        )

    def check_shape(self, shape: Shape) -> None:
        """Sees that there are so many pixels.

        Raises:
            AbsynthError: If there are not.
        """
        pixels = shape[1] * shape[2]
        if self.kept > pixels:
            raise AbsynthError(
                f"The setting 'kept' is {self.kept}; the images have {pixels} pixels, so keep at most those."
            )

    def draw(self, shape: Shape, count: int, generator: np.random.Generator) -> Draws:
        """Masks with as many pixels kept, each set as likely as any other."""
        pixels = shape[1] * shape[2]
        # ties among 53 random bits, which alone favour a pixel, come up once in 10¹⁰ draws
        ranks = generator.random((count, pixels)).argpartition(self.kept - 1, axis=1)
        mask = np.zeros((count, pixels), np.float32)
        np.put_along_axis(mask, ranks[:, : self.kept], 1, axis=1)
        kept = torch.from_numpy(mask).view(count, 1, *shape[1:])
        return Draws(kept, self.missing * (1 - kept))

    def radius(self, others: float, norm: Norm, shape: Shape) -> float:
        """The number of pixels."""
        seen = chances_to_see(shape[1] * shape[2], self.kept)
        return float(bisect_left(seen, HALF - Fraction(others)) - 1)


@lru_cache
def chances_to_see(pixels: int, kept: int) -> tuple[Fraction, ...]:
    """Δ(ρ) for ρ = 0, 1, …, d: how likely a random set has one of ρ given pixels.

    Args:
        pixels: d.
        kept: k, the size of the set.

    >>> [str(chance) for chance in chances_to_see(4, 2)]
    ['0', '1/2', '5/6', '1', '1']
    """
    missed, chances = Fraction(1), [Fraction(0)]
    for changed in range(pixels):
        # none of one pixel more: C(d − ρ − 1, k) / C(d − ρ, k) = (d − ρ − k) / (d − ρ)
        missed *= Fraction(max(0, pixels - changed - kept), pixels - changed)
        chances.append(1 - missed)
    return tuple(chances)
