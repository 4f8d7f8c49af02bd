"""The classifier: analysis by synthesis with one generative model a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.inference.codebook import CodebookABS
from absynth.inference.latent import (
    PAPER,
    SearchSettings,
    descend,
    gauss_newton_hessian,
    reconstruction_loss,
)
from absynth.inputs import check_type, take_images
from absynth.memory import at_once, in_pieces
from absynth.models.confidence import logits_to_probabilities, losses_to_logits
from absynth.models.pretrained import PretrainedModel, register
from absynth.models.vae import Decoder, check_image_size
from absynth.shapes import Images, Logits, Losses
from absynth.surroundings import standard

IMAGES_AT_ONCE = 512
"""Images of MNIST's size and ten classes refined together; more would be no faster."""

BYTES_A_VALUE = 64
"""Of memory that explaining an image takes, by the number of its pixels times the number of classes."""

CURVATURE_SAMPLE = 64
"""Latents of a class whose mean Hessian starts the quasi-Newton search."""


@dataclass(frozen=True)
class Synthesis:
    """How every class explains every image.

    Attributes:
        logits: −(α/pixels) times the losses, α being the codebook's; their order decides.
        losses: ‖x − G_c(z)‖² + ½‖z‖² at the latent found, times the class's factor.
        probabilities: Confidence in each class; near-uniform where no class explains the image.
        latents: The latent found for each class.
        reconstructions: Its image, shape (batch, class, 1, height, width).
        refined: Where stage 2 was run; elsewhere the loss is that of the codebook.
    """

    logits: Logits
    losses: Losses
    probabilities: Logits
    latents: Float[Tensor, "batch class latent"]
    reconstructions: Float[Tensor, "batch class 1 height width"]
    refined: Bool[Tensor, "batch class"]


@register
class ABS(PretrainedModel):
    """Analysis by synthesis (Schott et al. 2019, section 4): argmin_c min_z ‖x − G_c(z)‖² + ½‖z‖².

    Args:
        codebook: Decoders and start latents.
        settings: Of the search.
        class_factors: Multiply each class's loss (the paper's Binary ABS has them); by default 1.
    """

    type_name = "abs"

    def __init__(
        self,
        codebook: CodebookABS,
        settings: SearchSettings = PAPER,
        class_factors: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.codebook = codebook
        self.register_buffer("_inverse_hessians", None, persistent=False)
        self.settings = settings
        classes = len(codebook.decoders)
        self.class_factors = tuple(class_factors) if class_factors is not None else (1.0,) * classes
        if len(self.class_factors) != classes:
            raise AbsynthError(f"There are {classes} classes but {len(self.class_factors)} class factors.")
        if codebook.prior_weight != 1:
            raise AbsynthError(
                f"The codebook weighs the prior by {codebook.prior_weight:g}; that of ABS is 1."
            )

    _inverse_hessians: Tensor | None

    def config(self) -> dict[str, Any]:
        """The codebook's config, the settings and the class factors."""
        return {
            "codebook": self.codebook.config(),
            "settings": self.settings.to_json(),
            "class_factors": list(self.class_factors),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ABS:
        """An untrained model."""
        return cls(
            CodebookABS.from_config(config["codebook"]),
            SearchSettings.from_json(config["settings"]),
            [float(factor) for factor in config["class_factors"]],
        )

    def prepare(self, cached: bool = False) -> None:
        """Folds batch norm if the settings say so, estimates the curvature and decodes the codebook."""
        if self.settings.fold_batch_norm:
            self.codebook.decoders = nn.ModuleList(
                decoder.folded() for decoder in self.codebook.decoders if isinstance(decoder, Decoder)
            )
        # before decoding, after which a thread writes to the cache beside whatever comes next
        if self.settings.method == "quasi-newton":
            latents = self.codebook.latents.expand(len(self.codebook.decoders), -1, -1)
            hessians = [
                gauss_newton_hessian(decoder, own[:CURVATURE_SAMPLE]).mean(0)
                for decoder, own in zip(self.codebook.decoders, latents, strict=True)
                if isinstance(decoder, Decoder)
            ]
            inverse = torch.linalg.inv(torch.stack(hessians))
            self.register_buffer("_inverse_hessians", inverse, persistent=False)
        self.codebook.prepare(cached)

    def forward(self, images: Images) -> Logits:
        """The logits, differentiable in the images (see ``SearchSettings.gradient``)."""
        check_type(images, self.codebook.prototype_images.dtype)
        check_image_size(images, self.codebook.image_size)
        # In pieces here already, so that the reconstructions are dropped along the way.
        return in_pieces(lambda some: self._explain(some).logits, images, *self._piece())

    def infer(self, images: Any) -> Synthesis:
        """Explains every image by every class.

        Args:
            images: Shape (batch, 1, height, width), in [0, 1], in any form that :mod:`absynth.inputs` names;
                what comes of tensors that require gradients is differentiable in them. An empty batch gives
                an empty synthesis.

        Raises:
            AbsynthError: If the images are none, a pixel is outside [0, 1], or they have another size than
                the decoders make.
        """
        dtype = self.codebook.prototype_images.dtype
        if isinstance(images, Tensor) and images.ndim == 4 and len(images) == 0:
            check_image_size(images, self.codebook.image_size)
            return self._explain(images.to(dtype))
        with standard(dtype):
            given = take_images(images, dtype, self.codebook.prototype_images.device)
            seen = given.seen
            if isinstance(images, Tensor) and images.requires_grad and torch.is_grad_enabled():
                # the values of what was taken, with the derivative of what was given
                own = images.to(seen)
                seen = own + (seen - own).detach()
            check_image_size(seen, self.codebook.image_size)
            return self._explain(seen)

    def _explain(self, images: Images) -> Synthesis:
        """The same for images of the right size, type and device."""
        parts = [self._infer(piece) for piece in images.split(at_once(*self._piece()))]
        losses, latents, reconstructions, refined = (torch.cat(part) for part in zip(*parts, strict=True))
        logits = losses_to_logits(losses, images.shape[1:].numel(), self.codebook.alpha)
        return Synthesis(logits, losses, logits_to_probabilities(logits), latents, reconstructions, refined)

    def _piece(self) -> tuple[int, int]:
        """The bytes that an image takes, and the most images to explain together."""
        # One class at a time is refined, but the best prototypes of all classes are looked up together.
        values = math.prod(self.codebook.image_size) * max(10, len(self.codebook.decoders))
        return BYTES_A_VALUE * values, IMAGES_AT_ONCE * 7840 // values

    def _infer(self, images: Images) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        codebook, settings = self.codebook, self.settings
        chosen = codebook.nearest(images.detach())
        factors = torch.tensor(self.class_factors, dtype=images.dtype, device=images.device)
        refined = self._worth_refining(images.detach(), chosen, factors)
        losses, latents, reconstructions = [], [], []
        for label, decoder in enumerate(codebook.decoders):
            assert isinstance(decoder, Decoder)
            starts = codebook.latents.expand(len(codebook.decoders), -1, -1)[label][chosen[:, label]]
            rows = refined[:, label].nonzero().squeeze(1)
            if len(rows):
                inverse = None if self._inverse_hessians is None else self._inverse_hessians[label][None]
                found = descend(decoder, images[rows], starts[rows], settings, inverse)
                starts = starts.index_copy(0, rows, found)
            if starts.requires_grad:
                decoded = decoder(starts)
            else:
                with torch.no_grad():
                    decoded = codebook.prototype_images[label, chosen[:, label]].view_as(images)
                    if len(rows):
                        decoded = decoded.index_copy(0, rows, decoder(starts[rows]))
            losses.append(reconstruction_loss(images, decoded, starts) * factors[label])
            latents.append(starts)
            reconstructions.append(decoded)
        return (
            torch.stack(losses, dim=1),
            torch.stack(latents, dim=1),
            torch.stack(reconstructions, dim=1),
            refined,
        )

    def _worth_refining(self, images: Images, chosen: Tensor, factors: Tensor) -> Bool[Tensor, "batch class"]:
        codebook = self.codebook
        labels = torch.arange(chosen.shape[1], device=images.device)
        decoded = codebook.prototype_images[labels, chosen].unflatten(-1, images.shape[1:])
        latents = codebook.latents.expand(len(labels), -1, -1)[labels, chosen]
        pairs = images[:, None].expand_as(decoded).flatten(0, 1)
        scores = reconstruction_loss(pairs, decoded.flatten(0, 1), latents.flatten(0, 1))
        scores = scores.view(chosen.shape) * factors
        second = scores.topk(min(2, scores.shape[1]), dim=1, largest=False).values[:, -1:]
        return scores <= second + self.settings.margin
