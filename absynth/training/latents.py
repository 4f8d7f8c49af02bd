"""Latents that explain training images: what the codebooks of trained models are made from.

Prototypes of such latents lie closer to images of their class than those of latents drawn from the prior,
and close own prototypes are what certificates need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.models.vae import VAE, Posterior
from absynth.shapes import Images, Labels
from absynth.training.augmentation import BENT_AT_ONCE, bend


@torch.no_grad()
def posteriors(vae: VAE, images: Images) -> Posterior:
    """What the encoder of a class says of images of that class, a bounded number at a time.

    Args:
        vae: In evaluation mode.
        images: At least one.
    """
    parts = [vae.encoder(some) for some in images.split(1000)]
    return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def encode(
    vaes: Sequence[VAE],
    images: Images,
    labels: Labels,
    copies: int,
    generator: torch.Generator,
) -> Posterior:
    """The posterior of each image by the encoder of its own class, and then of bent copies of all images.

    Args:
        vaes: One a class, in evaluation mode.
        images: Any number.
        labels: Their classes.
        copies: How many of every image.
        generator: Source of their bends.
    """
    count = vaes[0].decoder.latents
    mean = images.new_empty(1 + copies, len(images), count)
    log_variance = torch.empty_like(mean)
    for number in range(1 + copies):
        for rows in torch.arange(len(images)).split(BENT_AT_ONCE):
            some = bend(images[rows], generator) if number else images[rows]
            for label in labels[rows].unique().tolist():
                members = labels[rows] == label
                found = posteriors(vaes[label], some[members])
                mean[number, rows[members]], log_variance[number, rows[members]] = found
    return Posterior(mean.flatten(0, 1), log_variance.flatten(0, 1))


@torch.no_grad()
def posterior_latents(
    vae: VAE, images: Images, count: int, generator: torch.Generator
) -> Float[Tensor, "prototype latent"]:
    """Latents that explain training images: the posterior means, then draws from the posteriors.

    Args:
        vae: Of one class.
        images: Training images of that class.
        count: How many latents.
        generator: Source of the order of the images and of the draws.

    Raises:
        AbsynthError: If there are no images.
    """
    everyone = torch.ones(len(images), dtype=torch.bool)
    return codebook_latents(posteriors(vae, images), everyone, count, generator)


def codebook_latents(
    posterior: Posterior, members: Bool[Tensor, "batch"], count: int, generator: torch.Generator
) -> Float[Tensor, "prototype latent"]:
    """Latents that explain the images of a class: the posterior means, then draws from the posteriors.

    The means of the images themselves come first, in a random order, then those of their copies.

    Args:
        posterior: Of every image, and perhaps of copies of all of them in the same order.
        members: Which images are of the class.
        count: How many latents.
        generator: Source of the order and of the draws.

    Raises:
        AbsynthError: If the class has no images.
    """
    own = members.nonzero()[:, 0]
    if len(own) == 0:
        raise AbsynthError("A class has no training images to take latents from; every class needs some.")
    copies = len(posterior.mean) // len(members)
    order = torch.cat(
        [own[torch.randperm(len(own), generator=generator)] + len(members) * copy for copy in range(copies)]
    )
    noise = torch.randn(count, posterior.mean.shape[1], generator=generator)
    noise[: len(order)] = 0
    rows = order[torch.arange(count) % len(order)]
    return Posterior(posterior.mean[rows], posterior.log_variance[rows]).at(noise)


def draw_codebook(
    posterior: Posterior,
    labels: Labels,
    left_out: Int64[Tensor, "some"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "class prototype latent"]:
    """Draws from the posteriors of random training images of each class.

    Args:
        posterior: Of every training image.
        labels: Their classes.
        left_out: Images that are not drawn from, unless their class has no other.
        count: How many draws a class.
        generator: Source of the draws.
    """
    allowed = torch.ones(len(labels), dtype=torch.bool)
    allowed[left_out] = False
    latents = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        others = members[allowed[members]]
        sources = others if len(others) else members
        rows = sources[torch.randint(len(sources), (count,), generator=generator)]
        noise = torch.randn(count, posterior.mean.shape[1], generator=generator)
        latents.append(Posterior(posterior.mean[rows], posterior.log_variance[rows]).at(noise))
    return torch.stack(latents)
