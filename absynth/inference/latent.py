"""Stage 2 of the inference: descent on the latent, from the best of the codebook."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.models.vae import Decoder
from absynth.shapes import Images

Latents = Float[Tensor, "batch latent"]
InverseHessian = Float[Tensor, "#batch latent latent"]

STEP_SHRINKAGE = 0.3
"""Of a quasi-Newton step that did not lower the loss."""

LEAST_CURVATURE = 1e-8
"""Below it a BFGS update would lose positive definiteness to rounding, and is skipped."""


@dataclass(frozen=True)
class SearchSettings:
    """How ABS looks for the best latent.

    Attributes:
        method: ``adam`` as in the paper, or ``quasi-newton`` (:func:`descend_quasi_newton`), which gets as
            low in a tenth of the steps.
        steps: At most so many from the codebook's best latent.
        learning_rate: Of Adam.
        tolerance: The quasi-Newton search leaves an image when its next step promises a smaller gain.
        max_norm: Latents are kept in the ball ‖z‖ ≤ max_norm.
        margin: Classes whose codebook score exceeds the second best by more than this (a sum over pixels)
            keep that score, as they can be neither the best nor the runner-up; infinite refines every class.
        fold_batch_norm: Fold batch norm into the convolutions: the same function, computed faster.
        gradient: With respect to the image: ``envelope`` (2(x − G(z*)), exact at a minimum) or ``unrolled``
            (through all steps of the search; slow, to check the other against gradient masking).
    """

    method: Literal["adam", "quasi-newton"] = "adam"
    steps: int = 50
    learning_rate: float = 0.05
    tolerance: float = 0.0
    max_norm: float = 5.0
    margin: float = math.inf
    fold_batch_norm: bool = False
    gradient: Literal["envelope", "unrolled"] = "envelope"

    def __post_init__(self) -> None:
        """Sees that the settings make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if self.steps < 0 or self.learning_rate <= 0 or self.max_norm <= 0 or self.margin < 0:
            raise AbsynthError(
                "The search needs steps and margin of at least 0, learning rate and norm above 0."
            )
        if self.gradient not in ("envelope", "unrolled"):
            raise AbsynthError(f"There is no gradient '{self.gradient}'; choose envelope or unrolled.")
        if self.method not in ("adam", "quasi-newton"):
            raise AbsynthError(f"There is no search '{self.method}'; choose adam or quasi-newton.")
        if self.method == "quasi-newton" and (self.gradient == "unrolled" or not self.fold_batch_norm):
            raise AbsynthError(
                "The quasi-Newton search needs folded batch norm and the envelope gradient; "
                "unroll the Adam search instead."
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; an infinite margin is written as null."""
        return vars(self) | {"margin": None if math.isinf(self.margin) else self.margin}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SearchSettings:
        """The settings that :meth:`to_json` wrote.

        Raises:
            AbsynthError: If there is no such setting.
        """
        try:
            return cls(**(values | ({"margin": math.inf} if values.get("margin", 0) is None else {})))
        except TypeError as error:
            raise AbsynthError(f"These are no settings of the search ({error}).") from None


PAPER = SearchSettings()
"""The paper's inference: 50 Adam steps for every class (Schott et al. 2019, appendix A.2)."""

FAST = SearchSettings(method="quasi-newton", steps=12, tolerance=0.02, margin=10.0, fold_batch_norm=True)
"""The default inference: as low as the paper's, in fewer steps and for the best two classes and near ones."""


def fast_settings(pixels: int) -> SearchSettings:
    """``FAST`` for images of a size: losses are sums over pixels, so those of larger ones differ more."""
    return replace(FAST, margin=FAST.margin * max(1.0, pixels / 784))


def project(latents: Latents, max_norm: float) -> Latents:
    """The nearest latents with ‖z‖ ≤ max_norm."""
    norms = torch.linalg.vector_norm(latents, dim=1, keepdim=True)
    projected: Tensor = latents * (max_norm / norms.clamp(min=max_norm))
    return projected


def reconstruction_loss(images: Images, reconstructions: Images, latents: Latents) -> Float[Tensor, "batch"]:
    """‖x − G(z)‖² + ½‖z‖², the loss of each image for its own latent."""
    return (images - reconstructions).square().flatten(1).sum(1) + 0.5 * latents.square().sum(1)


def descend(
    decoder: Decoder,
    images: Images,
    latents: Latents,
    settings: SearchSettings,
    inverse: InverseHessian | None = None,
) -> Latents:
    """The latents that the configured search finds for one class.

    Args:
        decoder: Of the class, in evaluation mode.
        images: What to explain.
        latents: Where to start, one for each image.
        settings: Method, steps and the rest.
        inverse: Of the quasi-Newton search, see there.
    """
    if images.is_inference() or latents.is_inference():
        # What torch.inference_mode() made cannot enter a graph; copies made outside it can.
        with torch.inference_mode(False):
            return descend(decoder, images.clone(), latents.clone(), settings, inverse)
    if settings.method == "adam":
        return descend_adam(decoder, images, latents, settings)
    return descend_quasi_newton(decoder, images, latents, settings, inverse)


def descend_adam(decoder: Decoder, images: Images, latents: Latents, settings: SearchSettings) -> Latents:
    """Adam on the latents of one class; for each image the best latent that was seen.

    With the unrolled gradient the result depends differentiably on the images and is the last latent.

    Args:
        decoder: Of the class, in evaluation mode.
        images: What to explain.
        latents: Where to start, one for each image.
        settings: Steps, learning rate, ball and kind of gradient.
    """
    unrolled = settings.gradient == "unrolled" and images.requires_grad
    targets = images if unrolled else images.detach()
    current = best = latents.detach()
    lowest = torch.full((len(latents),), torch.inf, device=latents.device)
    first = second = torch.zeros_like(current)
    with torch.enable_grad():
        for step in range(1, settings.steps + 1):
            current = current if unrolled and step > 1 else current.detach().requires_grad_()
            losses = reconstruction_loss(targets, decoder(current), current)
            (gradient,) = torch.autograd.grad(losses.sum(), current, create_graph=unrolled)
            values = losses.detach()
            best = torch.where((values < lowest)[:, None], current.detach(), best)
            lowest = torch.minimum(values, lowest)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            # The small constant stands inside the root too, where its derivative would be infinite at 0.
            scale = (second / (1 - 0.999**step) + 1e-16).sqrt() + 1e-8
            moved = current - settings.learning_rate * (first / (1 - 0.9**step)) / scale
            current = project(moved, settings.max_norm)
        if unrolled:
            return current
        with torch.no_grad():
            current = current.detach()
            final = reconstruction_loss(targets, decoder(current), current)
            return torch.where((final < lowest)[:, None], current, best)


@torch.no_grad()
def gauss_newton_hessian(decoder: Decoder, latents: Latents) -> Float[Tensor, "batch latent latent"]:
    """2 JᵀJ + I with the decoder's Jacobian J: the Hessian of the loss but for the decoder's curvature.

    Args:
        decoder: Without batch norm.
        latents: Where.
    """
    jacobian = decoder.jacobian(latents)[1].flatten(2)
    identity = torch.eye(latents.shape[1], dtype=latents.dtype, device=latents.device)
    return 2 * jacobian @ jacobian.mT + identity


@torch.no_grad()
def descend_quasi_newton(
    decoder: Decoder,
    images: Images,
    latents: Latents,
    settings: SearchSettings,
    inverse: InverseHessian | None = None,
) -> Latents:
    """BFGS on the latents of one class, from a Gauss-Newton start; never worse than where it started.

    BFGS updates (Nocedal and Wright 2006, equation 6.17) keep an estimate of the inverse Hessian, so that
    every step costs one gradient. A step that does not lower the loss is shortened. An image is left alone
    once its next step promises less than ``settings.tolerance``.

    Args:
        decoder: Of the class, without batch norm.
        images: What to explain.
        latents: Where to start, one for each image.
        settings: Steps, tolerance and ball.
        inverse: The first estimate for every image; by default each has that of Gauss and Newton at its
            start, which saves half a step and costs as much as five.
    """
    targets = images.detach()
    identity = torch.eye(latents.shape[1], dtype=latents.dtype, device=latents.device)
    if inverse is None:
        inverse = torch.linalg.inv(gauss_newton_hessian(decoder, latents))
    inverse = inverse.expand(len(latents), -1, -1).clone()
    best = latents.clone()
    lowest, slopes = _value_and_slope(decoder, targets, latents)
    stride = torch.ones_like(lowest)
    active = torch.arange(len(best), device=best.device)
    for _ in range(settings.steps):
        direction = -torch.einsum("bij,bj->bi", inverse[active], slopes[active])
        promise = -0.5 * stride[active] * (direction * slopes[active]).sum(1)
        going = promise > settings.tolerance
        active, direction = active[going], direction[going]
        if len(active) == 0:
            break
        trial = project(best[active] + stride[active, None] * direction, settings.max_norm)
        value, slope = _value_and_slope(decoder, targets[active], trial)
        moved, bend = trial - best[active], slope - slopes[active]
        inverse[active] = _bfgs_update(inverse[active], moved, bend, identity)
        better = value < lowest[active]
        stride[active] = torch.where(better, 1.0, STEP_SHRINKAGE * stride[active])
        winners = active[better]
        best[winners], lowest[winners], slopes[winners] = trial[better], value[better], slope[better]
    return best


def _value_and_slope(
    decoder: Decoder, images: Images, latents: Latents
) -> tuple[Float[Tensor, "batch"], Latents]:
    decoded, pull_back = decoder.vjp(latents)
    return reconstruction_loss(images, decoded, latents), latents + pull_back(2 * (decoded - images))


def _bfgs_update(
    inverse: Float[Tensor, "batch latent latent"],
    moved: Latents,
    bend: Latents,
    identity: Float[Tensor, "latent latent"],
) -> Float[Tensor, "batch latent latent"]:
    curvature = (moved * bend).sum(1)
    usable = curvature > LEAST_CURVATURE
    rho = (1 / curvature.clamp(min=LEAST_CURVATURE))[:, None, None]
    left = identity - rho * moved[:, :, None] * bend[:, None, :]
    updated = left @ inverse @ left.mT + rho * moved[:, :, None] * moved[:, None, :]
    return torch.where(usable[:, None, None], updated, inverse)
