"""Stage 1 of the inference: the best of a fixed set of decoded latents; alone, it is codebook ABS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.cores import one_core_each
from absynth.data.domain import Size, check_classes
from absynth.errors import AbsynthError
from absynth.inference.cache import fingerprint, remembered
from absynth.models.confidence import ALPHA
from absynth.models.pretrained import register
from absynth.models.projection import DIMENSIONS, SAMPLE
from absynth.models.prototypes import PrototypeClassifier
from absynth.models.vae import Decoder

CODEBOOK_SIZE = 8000
CODEBOOK_VALUES = 8000 * 10 * 784
"""Pixels of all prototypes of a codebook, 250 MB: with more classes or larger images it has fewer of them."""

FEWEST_PROTOTYPES = 500
"""A class has so many, whatever memory that takes."""

LEAST_LIKELY_DROPPED = 0.1
DECODED_AT_ONCE = 125
"""Prototypes decoded together: few enough that the outputs of layers find their memory again."""

DECODED_BY_ONE = 2000
"""Prototypes that a core decodes before it takes others."""

DECODE_RECIPE = f"decode 5, {DECODED_AT_ONCE} at once, index 4, {DIMENSIONS} axes of {SAMPLE}"
"""Names the arithmetic of :meth:`CodebookABS.decode` and of the index in the cache; a change in either needs
another number."""


def codebook_size(classes: int, pixels: int) -> int:
    """Prototypes a class: ``CODEBOOK_SIZE``, or as many as ``CODEBOOK_VALUES`` allow.

    >>> codebook_size(10, 784), codebook_size(40, 32 * 32), codebook_size(100, 64 * 64)
    (8000, 1531, 500)
    """
    return min(CODEBOOK_SIZE, max(FEWEST_PROTOTYPES, CODEBOOK_VALUES // (classes * pixels)))


def draw_latents(count: int, latents: int = 8, seed: int = 0) -> Float[Tensor, "1 prototype latent"]:
    """``count`` draws from N(0, I), after the least likely 10 % of a larger draw are dropped.

    The same latents serve every class (Schott et al. 2019, appendix A.2).

    Args:
        count: How many to keep.
        latents: Number of latent coordinates.
        seed: Of the draw; the global generator is left alone.

    >>> draw_latents(100).shape
    torch.Size([1, 100, 8])
    """
    if count < 1:
        raise AbsynthError(f"A codebook of {count} prototypes a class is empty; ask for at least 1.")
    drawn = torch.randn(
        round(count / (1 - LEAST_LIKELY_DROPPED)), latents, generator=torch.Generator().manual_seed(seed)
    )
    likeliest = drawn.square().sum(1).argsort(stable=True)[:count].sort().values
    return drawn[likeliest][None]


@register
class CodebookABS(PrototypeClassifier):
    """Decides for the class whose decoder has, among fixed latents, the one that explains an image best.

    The score of class c is min_k ‖x − G_c(z_k)‖² + ½κ‖z_k‖² + b_c: a power diagram, for which the
    certificates of :mod:`absynth.certify` are exact.

    Args:
        decoders: One a class.
        latents: Shape (class, prototype, latent), or (1, prototype, latent) to share them.
        biases: b_c of each class, by default 0.
        alpha: Sharpness of the confidence.
        prior_weight: κ, by default the 1 of the paper's loss.
    """

    type_name = "codebook-abs"

    def __init__(
        self,
        decoders: Sequence[Decoder],
        latents: Float[Tensor, "#class prototype latent"],
        biases: Sequence[float] | None = None,
        alpha: float = ALPHA,
        prior_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(decoders)
        self.register_buffer("latents", latents)
        self.alpha = alpha
        self.prior_weight = prior_weight
        self.biases = tuple(biases) if biases is not None else (0.0,) * len(decoders)
        if len(self.biases) != len(decoders):
            raise AbsynthError(f"There are {len(decoders)} classes but {len(self.biases)} biases.")

    latents: Tensor

    def config(self) -> dict[str, Any]:
        """Sizes of the decoders and of the codebook."""
        decoder = self.decoders[0]
        assert isinstance(decoder, Decoder)
        return {
            "classes": len(self.decoders),
            "decoder": decoder.config(),
            "codebook": list(self.latents.shape),
            "biases": list(self.biases),
            **({} if self.alpha == ALPHA else {"alpha": self.alpha}),
            **({} if self.prior_weight == 1 else {"prior_weight": self.prior_weight}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CodebookABS:
        """An untrained model of the configured sizes."""
        classes, shape = config["classes"], tuple(config["codebook"])
        check_classes(classes)
        decoders = [Decoder(**config["decoder"]) for _ in range(classes)]
        if len(shape) != 3 or shape[0] not in (1, classes) or shape[1] < 1 or shape[2] != decoders[0].latents:
            raise AbsynthError(
                f"The config asks for a codebook of shape {shape}; (1 or {classes}, prototypes, "
                f"{decoders[0].latents}) is right."
            )
        biases = [float(bias) for bias in config.get("biases") or (0.0,) * classes]
        alpha, prior_weight = float(config.get("alpha", ALPHA)), float(config.get("prior_weight", 1.0))
        return cls(decoders, torch.zeros(shape), biases, alpha, prior_weight)

    @property
    def image_size(self) -> Size:
        """Rows and columns of the images that the decoders make."""
        decoder = self.decoders[0]
        assert isinstance(decoder, Decoder)
        return decoder.image_size

    def prepare(self, cached: bool = False) -> None:
        """Decodes the codebook (100 MB of prototypes for each 32,000), or reads it from the cache."""
        self.eval()
        shared = self.latents.expand(len(self.decoders), -1, -1)
        biases = torch.tensor(self.biases, dtype=shared.dtype, device=shared.device)
        offsets = 0.5 * self.prior_weight * shared.square().sum(-1) + biases[:, None]
        self.register_buffer("prototype_offsets", offsets, persistent=False)
        if cached and self.latents.device.type == "cpu":
            size = shared[..., 0].numel() * math.prod(self.image_size) * self.latents.element_size()
            folded = [decoder.folded() for decoder in self.decoders if isinstance(decoder, Decoder)]
            weights = [weight for decoder in folded for weight in decoder.state_dict().values()]
            kept = remembered(fingerprint([*weights, self.latents, offsets], DECODE_RECIPE), size, self._fill)
            self.register_buffer("prototype_images", kept["images"], persistent=False)
            self.restore_index(kept)
        else:
            self._fill()

    def _fill(self) -> dict[str, Tensor]:
        """Decodes and indexes the prototypes, and names what it takes to have them again."""
        self.register_buffer("prototype_images", self._decode_all(), persistent=False)
        self.index()
        return {"images": self.prototype_images, **self.indexed()}

    def _decode_all(self) -> Float[Tensor, "class prototype pixel"]:
        shared = self.latents.expand(len(self.decoders), -1, -1)
        images = self.latents.new_empty(*shared.shape[:2], math.prod(self.image_size))
        pieces = list(product(range(len(shared)), torch.arange(shared.shape[1]).split(DECODED_BY_ONE)))

        def fill(piece: tuple[int, Tensor]) -> None:
            label, rows = piece
            images[label, rows] = self.decode(label, shared[label, rows]).flatten(1)

        one_core_each(fill, pieces, images.device)
        return images

    @torch.no_grad()
    def decode(
        self, label: int, latents: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The images of latents under one class's decoder, a bounded number at a time."""
        decoder = self.decoders[label]
        assert isinstance(decoder, Decoder)
        folded = decoder.folded()
        return torch.cat([folded(piece) for piece in latents.split(DECODED_AT_ONCE)])
