"""What networks are trained for: functions of a model and a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from absynth.models.vae import VAE, elbo_losses
from absynth.shapes import Images, Labels

Targets = Shaped[Tensor, "batch"]
"""What a loss holds against each image: its class or, for a VAE, its weight."""

Loss = Callable[[nn.Module, Images, Targets, torch.Generator, float], Float[Tensor, ""]]
"""A function of a model, images, their targets, a generator and how much of the training is done, 0 to 1."""


def cross_entropy(
    model: nn.Module, images: Images, labels: Labels, _: torch.Generator, __: float = 1.0
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the logits."""
    return functional.cross_entropy(model(images), labels)


def variational(
    model: nn.Module,
    images: Images,
    importance: Float[Tensor, "batch"],
    generator: torch.Generator,
    _: float = 1.0,
    *,
    emphasis: float = 0.0,
) -> Float[Tensor, ""]:
    """The loss of one class's VAE, β = 1 (:func:`absynth.models.vae.elbo_losses`).

    Args:
        model: The VAE.
        images: A batch.
        importance: Factor on the weight of each image's loss.
        generator: Source of the posterior samples.
        emphasis: Power e of the weight that an image's loss has, its own size (loss_i / mean loss)^e: 0 is
            the paper's plain mean; above it the rare styles that a class explains badly, and that are
            therefore lost to other classes, count more.
    """
    assert isinstance(model, VAE)
    losses = elbo_losses(model, images, generator=generator)
    weights = losses.detach() ** emphasis * importance
    return (weights / weights.mean() * losses).mean()
