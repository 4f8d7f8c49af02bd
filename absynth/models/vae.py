"""The variational autoencoder of one class (Schott et al. 2019, section 4 and appendix A.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.data.domain import DIGITS, Size, check_size
from absynth.errors import AbsynthError
from absynth.models.transposed import FastConvTranspose2d
from absynth.shapes import Images

Latents = Float[Tensor, "batch latent"]

ENCODER_STRIDES = DECODER_STRIDES = (1, 2, 2, 1)
ENCODER_MAPS = (32, 32, 64)
DECODER_MAPS = (32, 16, 16)


class Posterior(NamedTuple):
    """The encoder's answer: a diagonal Gaussian over latents for each image."""

    mean: Latents
    log_variance: Latents

    def at(self, noise: Latents) -> Latents:
        """The latents that standard normal noise stands for (Kingma and Welling 2014, arXiv 1312.6114)."""
        return self.mean + noise * (0.5 * self.log_variance).exp()


def encoder_kernels(size: Size) -> tuple[Size, ...]:
    """The kernels of convolutions with strides 1, 2, 2, 1 that bring an image of a size down to one pixel.

    The paper's are 5, 4, 3, 5 for 28 pixels. The strided ones are one pixel larger where they would leave out
    the last row or column, and the last one is as large as what is left.

    Args:
        size: Rows and columns of the image.

    Raises:
        AbsynthError: If a side is shorter than 16 or longer than 64 pixels.

    >>> encoder_kernels((28, 16))
    ((5, 5), (4, 4), (3, 3), (5, 2))
    """
    check_size(size)
    sides = []
    for side in size:
        first = side - 4
        second = 4 + first % 2
        left = (first - second) // 2 + 1
        third = 3 + (left - 3) % 2
        sides.append((5, second, third, (left - third) // 2 + 1))
    return tuple(zip(*sides, strict=True))


def decoder_kernels(size: Size) -> tuple[Size, ...]:
    """The kernels of transposed convolutions with strides 1, 2, 2, 1 that make an image of one pixel.

    The paper's are 4, 5, 5, 4 for 28 pixels. The first one is larger or smaller by one for every four pixels
    of the image, and the last one makes up for the rest.

    Args:
        size: Rows and columns of the image.

    Raises:
        AbsynthError: If a side is shorter than 16 or longer than 64 pixels.

    >>> decoder_kernels((28, 18))
    ((4, 1), (5, 5), (5, 5), (4, 6))
    """
    check_size(size)
    sides = [((side - 12) // 4, 5, 5, 4 + side % 4) for side in size]
    return tuple(zip(*sides, strict=True))


def size_entry(size: Size) -> dict[str, Any]:
    """The entry of a config for the size of the images; none for 28×28, which is the default."""
    return {} if size == DIGITS.size else {"image_size": list(size)}


def check_image_size(images: Tensor, size: Size) -> None:
    """Sees that ``images`` are a batch of grey images of a size.

    Raises:
        AbsynthError: If they are not.
    """
    if images.ndim != 4 or images.shape[1:] != (1, *size):
        raise AbsynthError(
            f"The images have shape {tuple(images.shape)}; this model takes (batch, 1, {size[0]}, {size[1]})."
        )


@torch.no_grad()
def initialize(layers: nn.Module) -> None:
    """Random weights that keep the size of what passes through fully connected layers (LeCun et al. 1998).

    PyTorch's own scale a transposed convolution by its outputs: between 8 latents and 384 units they are
    twelve times smaller, and a VAE that starts from them may leave latents unused for good.

    Args:
        layers: Linear ones and transposed convolutions of one pixel; others stay as they are, and so do those
            on the ``meta`` device, where torch would import its compiler for a second to draw nothing.
    """
    for layer in layers.modules():
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d) and not layer.weight.is_meta:
            inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            nn.init.normal_(layer.weight, std=inputs**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Encoder(nn.Module):
    """Convolutions from an image to the mean and log variance of its latent.

    Args:
        latents: Number of latent coordinates.
        image_size: Rows and columns of an image.
        hidden: Widths of fully connected layers, which then take the place of the convolutions.
    """

    def __init__(self, latents: int = 8, image_size: Size = DIGITS.size, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.image_size = image_size
        layers: list[nn.Module] = []
        if hidden:
            widths = (math.prod(image_size), *hidden)
            for inputs, outputs in pairwise(widths):
                layers += [nn.Linear(inputs, outputs), nn.ELU()]
            self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 2 * latents))
            initialize(self.layers)
            return
        kernels = encoder_kernels(image_size)
        maps = (1, *ENCODER_MAPS)
        for inputs, outputs, kernel, stride in zip(
            maps[:-1], maps[1:], kernels[:-1], ENCODER_STRIDES[:-1], strict=True
        ):
            layers += [nn.Conv2d(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.ELU()]
        layers.append(nn.Conv2d(maps[-1], 2 * latents, kernels[-1], ENCODER_STRIDES[-1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Images) -> Posterior:
        """The posterior of each image.

        Raises:
            AbsynthError: If the images have another size.
        """
        check_image_size(images, self.image_size)
        mean, log_variance = self.layers(images).flatten(1).chunk(2, dim=1)
        return Posterior(mean, log_variance)


class Decoder(nn.Module):
    """Transposed convolutions from a latent to an image in [0, 1].

    Args:
        latents: Number of latent coordinates.
        batch_norm: With batch norm after each hidden layer, as trained; without, as :meth:`folded` makes it.
        image_size: Rows and columns of an image.
        hidden: Widths of fully connected layers, which then take the place of the paper's: transposed
            convolutions of one pixel, the last of which makes the whole image. They have no batch norm.
    """

    def __init__(
        self,
        latents: int = 8,
        batch_norm: bool = True,
        image_size: Sequence[int] = DIGITS.size,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.latents = latents
        self.hidden = tuple(hidden)
        self.batch_norm = batch_norm = batch_norm and not self.hidden
        height, width = image_size
        self.image_size: Size = (height, width)
        maps = (latents, *(self.hidden or DECODER_MAPS), 1)
        convolution = nn.ConvTranspose2d if batch_norm else FastConvTranspose2d
        if self.hidden:
            kernels = (*((1, 1) for _ in self.hidden), self.image_size)
            strides = (1,) * len(kernels)
        else:
            kernels, strides = decoder_kernels(self.image_size), DECODER_STRIDES
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in zip(maps[:-1], maps[1:], kernels, strides, strict=True):
            layers.append(convolution(inputs, outputs, kernel, stride))
            if outputs != 1:
                layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
                layers.append(nn.ELU(inplace=not (batch_norm or self.hidden)))
        self.layers = nn.Sequential(*layers, nn.Sigmoid())
        if self.hidden:
            initialize(self.layers)

    def config(self) -> dict[str, Any]:
        """The arguments that made this decoder, as JSON values."""
        return {
            "latents": self.latents,
            "batch_norm": self.batch_norm,
            **size_entry(self.image_size),
            **({"hidden": list(self.hidden)} if self.hidden else {}),
        }

    def forward(self, latents: Latents) -> Images:
        """The image of each latent."""
        images: Tensor = self.layers(latents[:, :, None, None])
        return images

    def jacobian(self, latents: Latents) -> tuple[Images, Float[Tensor, "batch latent channel height width"]]:
        """The images of latents and their derivatives, for a decoder without batch norm.

        Forward mode: one tangent a latent coordinate passes through the layers beside the image, which costs
        as much as that many forward passes, fewer than one backward pass a pixel.
        """
        if self.batch_norm:
            raise AbsynthError("The Jacobian is for decoders without batch norm; call folded() first.")
        batch, count = latents.shape
        images: Tensor = latents[:, :, None, None]
        identity = torch.eye(count, dtype=latents.dtype, device=latents.device)
        tangents = identity.repeat(batch, 1)[:, :, None, None]
        for layer in self.layers:
            images = layer(images)
            if isinstance(layer, FastConvTranspose2d):
                tangents = layer.linear(tangents)
            else:
                slope = _slope(layer, images)
                tangents = (tangents.unflatten(0, (batch, count)) * slope[:, None]).flatten(0, 1)
        return images, tangents.unflatten(0, (batch, count))

    @torch.no_grad()
    def vjp(self, latents: Latents) -> tuple[Images, Callable[[Images], Latents]]:
        """The images of latents and the product of a cotangent with the Jacobian, without batch norm.

        Reverse mode by hand: half the time of autograd's, which builds a graph for weights that stay.

        Returns:
            The images, and a function from derivatives by them to derivatives by the latents.
        """
        if self.batch_norm:
            raise AbsynthError("The product is for decoders without batch norm; call folded() first.")
        outputs: list[Tensor] = []
        images: Tensor = latents[:, :, None, None]
        for layer in self.layers:
            images = layer(images)
            outputs.append(images)

        @torch.no_grad()
        def pull_back(cotangents: Images) -> Latents:
            for layer, output in zip(reversed(self.layers), reversed(outputs), strict=True):
                if isinstance(layer, FastConvTranspose2d):
                    cotangents = layer.transpose(cotangents)
                elif isinstance(layer, nn.ELU):
                    cotangents = torch.addcmul(cotangents, cotangents, output.clamp(max=0))
                else:
                    cotangents = cotangents * _slope(layer, output)
            return cotangents.flatten(1)

        return images, pull_back

    def folded(self) -> Decoder:
        """The same function in evaluation mode, with batch norm folded into the convolutions.

        Batch norm maps the output u of a convolution to γ(u−μ)/σ + β, which is a convolution with the
        weights scaled by γ/σ and the bias β + (b−μ)γ/σ.
        """
        if not self.batch_norm:
            return self
        result = Decoder(self.latents, False, self.image_size).to(next(self.parameters()))
        convolutions = (layer for layer in result.layers if isinstance(layer, nn.ConvTranspose2d))
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                if not isinstance(layer, nn.ConvTranspose2d):
                    continue
                target = next(convolutions)
                following = self.layers[index + 1]
                weight, bias = layer.weight, layer.bias
                assert bias is not None
                assert target.bias is not None
                if isinstance(following, nn.BatchNorm2d):
                    assert following.running_var is not None
                    assert following.running_mean is not None
                    scale = following.weight / (following.running_var + following.eps).sqrt()
                    weight = weight * scale[None, :, None, None]
                    bias = following.bias + (bias - following.running_mean) * scale
                target.weight.copy_(weight)
                target.bias.copy_(bias)
        # Channels last halves the time of a pass on a CPU.
        result.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return result.eval().requires_grad_(False)


def _slope(layer: nn.Module, outputs: Tensor) -> Tensor:
    """The derivative of an activation in terms of its output: ELU' = 1 + min(ELU, 0), σ' = σ(1 − σ)."""
    return 1 + outputs.clamp(max=0) if isinstance(layer, nn.ELU) else outputs * (1 - outputs)


class VAE(nn.Module):
    """Encoder and decoder of one class.

    Args:
        latents: Number of latent coordinates.
        image_size: Rows and columns of an image.
        hidden: Widths of fully connected layers of the encoder, and backwards of the decoder, in place of
            the paper's convolutions.
    """

    def __init__(self, latents: int = 8, image_size: Size = DIGITS.size, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.encoder = Encoder(latents, image_size, hidden)
        self.decoder = Decoder(latents, image_size=image_size, hidden=tuple(reversed(hidden)))


def elbo_losses(
    vae: VAE, images: Images, beta: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, "batch"]:
    """‖x − G(z)‖² + β KL(q(z|x) ‖ N(0, I)) of each image, summed over pixels and latents.

    Args:
        vae: The model to train.
        images: Shape (batch, 1, height, width), in [0, 1].
        beta: Weight of the divergence.
        generator: Source of the posterior samples.
    """
    posterior = vae.encoder(images)
    mean, log_variance = posterior
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    reconstructions = vae.decoder(posterior.at(noise))
    squared_error = (images - reconstructions).square().flatten(1).sum(1)
    divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1)
    losses: Tensor = squared_error + beta * divergence
    return losses
