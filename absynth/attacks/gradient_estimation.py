"""Gradients estimated from forward passes alone, and gradient attacks that use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.attacks.base import Attack
from absynth.attacks.batch import Counts, Mask
from absynth.attacks.target import Target
from absynth.errors import AbsynthError
from absynth.norms import Norm
from absynth.shapes import Images, Logits

Method = Literal["coordinates", "antithetic"]
METHODS: tuple[Method, ...] = ("coordinates", "antithetic")
POINTS_AT_ONCE = 2000
"""Points around the images of a batch that go through the model together."""

Ask = Callable[[Images, int], Tensor]
"""The logits of points, given image after image and that as a whole so many times over."""

Directions = Float[Tensor, "direction pixel"]


@dataclass(frozen=True)
class Estimator:
    """How a vector-Jacobian product is estimated from differences of logits.

    With directions u of E[uuᵀ] = I and D values an image,
    Jᵀv ≈ mean_u u ⟨v, (f(x + σu) − f(x − σu)) / 2σ⟩, which for a linear model is unbiased. ``coordinates``
    takes the D unit vectors times √D, stepping by σ along each, and is exact for a linear model.
    ``antithetic`` (evolution strategies; Ilyas et al. 2018, arXiv 1804.08598, section 3) takes a few random
    ones. These are drawn orthogonal to one another, which lowers the variance and makes the estimate exact
    with D of them (Choromanski et al. 2018, arXiv 1804.02395). The differences do not depend on v:
    one set serves all backward passes at the same images.

    Attributes:
        samples: Random directions; without meaning for ``coordinates``.
        sigma: σ, in units of the pixel range: the length of a step along a coordinate, or the root mean
            square over the values of a random step.
        method: ``coordinates`` or ``antithetic``.
    """

    samples: int = 100
    sigma: float = 0.01
    method: Method = "antithetic"

    def __post_init__(self) -> None:
        """Sees that the settings make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if self.method not in METHODS:
            raise AbsynthError(f"There is no method '{self.method}'; choose one of {', '.join(METHODS)}.")
        if self.samples < 1 or not self.sigma > 0:
            raise AbsynthError(
                f"A gradient cannot be estimated from {self.samples} samples with sigma {self.sigma:g}; "
                "take at least 1 and a sigma above 0."
            )

    def directions(self, values: int, generator: torch.Generator) -> Directions:
        """The directions u for images of so many values; all images of a batch share them."""
        if self.method == "coordinates":
            return torch.eye(values, dtype=torch.float64, device=generator.device).mul(values**0.5)
        frames = []
        for first in range(0, self.samples, values):
            count = min(values, self.samples - first)
            drawn = torch.randn(
                values, count, generator=generator, dtype=torch.float64, device=generator.device
            )
            frame, triangle = torch.linalg.qr(drawn)
            # the signs make the frame uniformly distributed
            frames.append((frame * triangle.diagonal().sign()).T.mul(values**0.5))
        return torch.cat(frames)

    def step(self, values: int) -> float:
        """How far the points are along a direction u, in units of it."""
        return self.sigma / values**0.5 if self.method == "coordinates" else self.sigma


@dataclass
class _Differences:
    """Directional derivatives of the logits at some images, kept for the next backward pass at the same."""

    estimator: Estimator
    generator: torch.Generator
    images: Tensor | None = None
    directions: Tensor = field(default_factory=lambda: torch.empty(0))
    derivatives: Tensor = field(default_factory=lambda: torch.empty(0))

    @torch.no_grad()
    def product(self, ask: Ask, images: Images, vectors: Logits) -> Images:
        """The estimate of Jᵀv for the v of each image."""
        if self.images is None or not torch.equal(self.images, images):
            self.measure(ask, images)
        slopes = torch.einsum("sbc,bc->bs", self.derivatives, vectors)
        return (slopes @ self.directions / len(self.directions)).view_as(images)

    def measure(self, ask: Ask, images: Images) -> None:
        """Asks the model around the images, along new directions."""
        values = images.shape[1:].numel()
        step = self.estimator.step(values)
        directions = self.estimator.directions(values, self.generator).to(images)
        pieces = []
        for some in directions.split(max(1, POINTS_AT_ONCE // (2 * len(images)))):
            moves = step * some.view(-1, 1, *images.shape[1:])
            points = torch.cat([images + moves, images - moves]).flatten(0, 1)
            above, below = ask(points, 2 * len(some)).unflatten(0, (2, len(some), len(images)))
            pieces.append((above - below) / (2 * step))
        derivatives = torch.nan_to_num(torch.cat(pieces), nan=0.0, posinf=0.0, neginf=0.0)
        self.images, self.directions, self.derivatives = images.clone(), directions, derivatives


class _Estimated(torch.autograd.Function):
    """The given logits going forward, the estimated product going backward."""

    @staticmethod
    def forward(context: Any, images: Tensor, logits: Tensor, ask: Ask, differences: _Differences) -> Tensor:
        context.save_for_backward(images)
        context.ask, context.differences = ask, differences
        return logits.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (images,) = context.saved_tensors
        return context.differences.product(context.ask, images, gradients[0]), None, None, None


def _estimated(ask: Ask, images: Images, differences: _Differences) -> Tensor:
    with torch.no_grad():
        logits = ask(images, 1)
    if not (torch.is_grad_enabled() and images.requires_grad):
        return logits
    result: Tensor = _Estimated.apply(images, logits, ask, differences)  # type: ignore[no-untyped-call]
    return result


class EstimatedGradient(nn.Module):
    """A classifier whose gradient in the images is estimated from its logits, see :class:`Estimator`.

    The gradient of the loss of one image never depends on another image of the batch.

    Args:
        model: Any classifier; it is never differentiated.
        samples: Random directions; without meaning for ``coordinates``.
        sigma: Length of the steps, in units of the pixel range.
        method: ``coordinates`` (exact for linear models) or ``antithetic`` (fewer queries).
        seed: Of the directions' own generator.

    Attributes:
        queries: How many forward passes each image of the latest batch took, those of backward included.

    Raises:
        AbsynthError: If a setting makes no sense.

    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images = torch.rand(1, 1, 2, 2, requires_grad=True)
    >>> estimated = EstimatedGradient(linear, method="coordinates")
    >>> (gradient,) = torch.autograd.grad(estimated(images)[:, 0].sum(), images)
    >>> torch.allclose(gradient.flatten(), linear[1].weight[0], atol=1e-4), estimated.queries
    (True, tensor([9]))
    """

    queries: Counts

    def __init__(
        self,
        model: nn.Module,
        samples: int = 100,
        sigma: float = 0.01,
        method: Method = "antithetic",
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.estimator = Estimator(samples, sigma, method)
        self.queries = torch.zeros(0, dtype=torch.int64, device="cpu")
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def forward(self, images: Images) -> Tensor:
        """The model's logits."""
        queries = self.queries = torch.zeros(len(images), dtype=torch.int64, device="cpu")

        def ask(points: Images, times: int) -> Tensor:
            queries.add_(times)
            logits: Tensor = self.model(points)
            return logits

        return _estimated(ask, images, _Differences(self.estimator, self._generator))


class _EstimatedTarget(Target):
    """A target whose gradients are estimated, with every query on the account of the target it is for."""

    def __init__(self, target: Target, estimator: Estimator, generator: torch.Generator) -> None:
        super().__init__(target.model, target.labels)
        self.queries, self.remarks = target.queries, target.remarks
        self._target, self._estimator, self._generator = target, estimator, generator
        self._differences = _Differences(estimator, generator)

    def select(self, rows: Counts | Mask) -> Target:
        """The target for some of the images, which estimates too."""
        return _EstimatedTarget(self._target.select(rows), self._estimator, self._generator)

    def count(self, queries: int = 1) -> None:
        """Adds queries of every image."""
        self._target.count(queries)

    def forward(self, images: Images) -> Tensor:
        """The model's logits, with estimated gradients."""
        return _estimated(self._ask, images, self._differences)

    def _ask(self, points: Images, times: int) -> Tensor:
        rows = torch.arange(len(self.labels), device=self.labels.device).repeat(times)
        logits: Tensor = self._target.select(rows)(points)
        return logits


@dataclass(frozen=True)
class WithEstimatedGradient(Attack):
    """An attack that sees estimated gradients in place of the model's own; all queries are counted.

    Attributes:
        attack: Any attack that uses gradients.
        samples: Random directions of each gradient; without meaning for ``coordinates``.
        sigma: Length of the steps, in units of the pixel range.
        method: ``coordinates`` or ``antithetic``, see :class:`Estimator`.

    >>> from absynth.attacks.gradient_descent import FastGradient
    >>> WithEstimatedGradient(FastGradient("fgm", "l2")).name
    'fgm-estimated'
    """

    attack: Attack
    samples: int = 100
    sigma: float = 0.01
    method: Method = "antithetic"

    def __post_init__(self) -> None:
        """Sees that the estimator's settings make sense."""
        self._estimator()

    def _estimator(self) -> Estimator:
        return Estimator(self.samples, self.sigma, self.method)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The attack's name with "-estimated"."""
        return f"{self.attack.name}-estimated"

    @property
    def norm(self) -> Norm:  # type: ignore[override]
        """The attack's norm."""
        return self.attack.norm

    @property
    def settings(self) -> dict[str, Any]:
        """The attack's settings and the estimator's."""
        estimator = {"samples": self.samples, "sigma": self.sigma, "method": self.method}
        return {**self.attack.settings, "estimator": estimator}

    def applies_to(self, model: nn.Module) -> bool:
        """Whether the attack itself applies."""
        return self.attack.applies_to(model)

    def fits(self, shape: torch.Size, classes: int) -> bool:
        """Whether the attack itself does."""
        return self.attack.fits(shape, classes)

    def run(self, target: Target, images: Images) -> Images:
        """Runs the attack on a target that estimates its gradients."""
        seed = int(torch.randint(2**62, (), device="cpu"))
        generator = torch.Generator("cpu").manual_seed(seed)
        return self.attack.run(_EstimatedTarget(target, self._estimator(), generator), images)
