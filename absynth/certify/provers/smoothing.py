"""Randomised smoothing: certificates of the majority under additive noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import ndtri
from torch import nn

from absynth.certify.growth import diameter
from absynth.certify.provers.sampled import Draws, Sampled, Shape
from absynth.errors import AbsynthError
from absynth.norms import Norm

SIGMA = 0.5
"""The standard deviation of the noise, unless the model says what it was trained for."""

DOWNWARDS = 1 - 1e-9
"""Makes up for the rounding of a quantile, a logarithm and the steps after it."""

NOISES: dict[str, tuple[Norm, ...]] = {
    "gaussian": ("l2", "l1", "linf"),
    "uniform": ("l1",),
    "laplace": ("l1",),
}
"""Distributions of the noise, and the norms that each serves."""


@dataclass(frozen=True)
class Smoothing(Sampled):
    """Randomised smoothing: g(x) = argmax_c P(f(x + z) = c) with noise z, independent in every value.

    With q an upper bound on the probability of all other classes, and for noise of standard deviation σ:

    - Gaussian: L2 radius r = −σ Φ⁻¹(q) (Cohen et al. 2019, arXiv 1902.02918, theorem 1). As ‖δ‖₂ ≤ ‖δ‖₁, r is
      an L1 radius too, and as ‖δ‖₂ ≤ √d ‖δ‖∞ for d values, r / √d is one in Linf.
    - uniform in [−λ, λ], λ = √3 σ: L1 radius 2λ (½ − q) (Yang et al. 2020, arXiv 2002.08118).
    - Laplace of scale b = σ / √2: L1 radius −b log 2q (Lecuyer et al. 2019, arXiv 1802.03471; Yang et al.).

    The noise is not clipped: f sees values outside [0, 1].

    Attributes:
        sigma: The standard deviation of the noise in a value; None for the one that the model says it was
            trained for, in ``smoothing["sigma"]`` of its config, and 0.5 if it says nothing.
        noise: "gaussian", "uniform" or "laplace".

    Raises:
        AbsynthError: If a setting is out of its range.
    """

    name: ClassVar[str] = "smoothing"

    sigma: float | None = None
    noise: str = "gaussian"

    def __post_init__(self) -> None:
        """Sees that the settings make sense."""
        super().__post_init__()
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise AbsynthError(f"The setting 'sigma' is {self.sigma}; it must be above 0.")
        if self.noise not in NOISES:
            raise AbsynthError(f"There is no noise '{self.noise}'; choose one of {', '.join(NOISES)}.")

    @property
    def norms(self) -> tuple[Norm, ...]:
        """L2, L1 and Linf for Gaussian noise, else L1."""
        return NOISES[self.noise]

    @property
    def deviation(self) -> float:
        """The standard deviation, settled."""
        return SIGMA if self.sigma is None else self.sigma

    @property
    def rule(self) -> str:
        """The smoothed classifier."""
        return (
            f"argmax over c of P(f(x + z) = c), f the model's decision, z {self.noise} noise of standard "
            f"deviation {self.deviation:g} in every value, not clipped"
        )

    def settled(self, model: nn.Module) -> Smoothing:
        """The method with the model's own standard deviation, if it asks for it."""
        return self if self.sigma is not None else replace(self, sigma=trained_sigma(model) or SIGMA)

    def draw(self, shape: Shape, count: int, generator: np.random.Generator) -> Draws:
        """Noise, float32."""
        size, sigma = (count, *shape), self.deviation
        if self.noise == "gaussian":
            noise: Any = generator.standard_normal(size, np.float32) * np.float32(sigma)
        elif self.noise == "uniform":
            noise = (generator.random(size, np.float32) * 2 - 1) * np.float32(math.sqrt(3) * sigma)
        else:
            noise = generator.laplace(0, sigma / math.sqrt(2), size).astype(np.float32)
        return Draws(torch.ones(1, 1, 1, 1, device="cpu"), torch.from_numpy(noise))

    def radius(self, others: float, norm: Norm, shape: Shape) -> float:
        """The radius, no larger than the box."""
        values = math.prod(shape)
        found = largest_shift(self.noise, self.deviation, others)
        found /= math.sqrt(values) if norm == "linf" else 1
        return min(max(0.0, found * DOWNWARDS), diameter(norm, values, shape[0]))


def largest_shift(noise: str, sigma: float, others: float) -> float:
    """How far the noise can be moved, in its own norm, before a probability of ``others`` can reach ½.

    Args:
        noise: The distribution.
        sigma: Its standard deviation.
        others: The probability of an event, above 0 and below ½.
    """
    formulas: dict[str, Callable[[], float]] = {
        "gaussian": lambda: -sigma * float(ndtri(others)),
        "uniform": lambda: 2 * math.sqrt(3) * sigma * (0.5 - others),
        "laplace": lambda: -sigma / math.sqrt(2) * math.log(2 * others),
    }
    return formulas[noise]()


def trained_sigma(model: Any) -> float | None:
    """The standard deviation of the noise that a model says it was trained for; None if it says nothing.

    Args:
        model: One whose ``config()`` may have ``{"smoothing": {"sigma": ...}}``.
    """
    config = getattr(model, "config", None)
    try:
        given = config() if callable(config) else config
    except NotImplementedError:
        return None
    smoothing = given.get("smoothing") if isinstance(given, Mapping) else None
    return float(smoothing["sigma"]) if isinstance(smoothing, Mapping) and "sigma" in smoothing else None
