"""Stage 1 of the inference: the best of a fixed set of decoded latents; alone, it is codebook ABS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.data.domain import Size
from absynth.errors import AbsynthError
from absynth.models.confidence import ALPHA
from absynth.models.pretrained import register
from absynth.models.prototypes import PrototypeClassifier
from absynth.models.vae import Decoder

LEAST_LIKELY_DROPPED = 0.1
DECODED_AT_ONCE = 500


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

    The score of class c is min_k ‖x − G_c(z_k)‖² + ½‖z_k‖² + b_c: a power diagram, for which the
    certificates of :mod:`absynth.certify` are exact.

    Args:
        decoders: One a class.
        latents: Shape (class, prototype, latent), or (1, prototype, latent) to share them.
        biases: b_c of each class, by default 0.
        alpha: Sharpness of the confidence.
    """

    type_name = "codebook-abs"

    def __init__(
        self,
        decoders: Sequence[Decoder],
        latents: Float[Tensor, "#class prototype latent"],
        biases: Sequence[float] | None = None,
        alpha: float = ALPHA,
    ) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(decoders)
        self.register_buffer("latents", latents)
        self.alpha = alpha
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
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CodebookABS:
        """An untrained model of the configured sizes."""
        decoders = [Decoder(**config["decoder"]) for _ in range(config["classes"])]
        latents = torch.zeros(config["codebook"])
        return cls(decoders, latents, config.get("biases"), config.get("alpha", ALPHA))

    @property
    def image_size(self) -> Size:
        """Rows and columns of the images that the decoders make."""
        decoder = self.decoders[0]
        assert isinstance(decoder, Decoder)
        return decoder.image_size

    def prepare(self) -> None:
        """Decodes the codebook (100 MB of prototypes for each 32,000)."""
        self.eval()
        shared = self.latents.expand(len(self.decoders), -1, -1)
        images = torch.stack([self.decode(label, latents).flatten(1) for label, latents in enumerate(shared)])
        biases = torch.tensor(self.biases, dtype=images.dtype, device=images.device)
        offsets = 0.5 * shared.square().sum(-1) + biases[:, None]
        self.register_buffer("prototype_images", images, persistent=False)
        self.register_buffer("prototype_offsets", offsets, persistent=False)
        self.index()

    @torch.no_grad()
    def decode(
        self, label: int, latents: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The images of latents under one class's decoder, a bounded number at a time."""
        decoder = self.decoders[label]
        assert isinstance(decoder, Decoder)
        folded = decoder.folded()
        return torch.cat([folded(piece) for piece in latents.split(DECODED_AT_ONCE)])
