"""Training for randomised smoothing, which :mod:`absynth.certify.provers.smoothing` certifies.

Randomised smoothing (Cohen et al. 2019, arXiv 1902.02918) answers with the class that a base network most
often gives for the image with Gaussian noise. The base network is therefore trained on noise, and, so that it
gives the same answer to most of it, with the consistency loss of Jeong and Shin 2020 (arXiv 2006.04062).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.shapes import Images, Labels


@dataclass(frozen=True)
class ConsistencyLoss:
    """Cross-entropy on noisy copies, and how far their answers are from each other.

    With probabilities p_1 … p_m of m copies of an image and their mean q, the loss is the mean of −log p_i(y)
    plus λ · mean KL(q ‖ p_i) plus η · H(q) (Jeong and Shin 2020). The noise N(0, σ²) is not
    clipped to the pixels' range.

    Attributes:
        sigma: σ, in units of the pixels.
        copies: m.
        weight: λ.
        entropy: η.
    """

    sigma: float = 0.5
    copies: int = 2
    weight: float = 10.0
    entropy: float = 0.5

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if not (0 < self.sigma < math.inf and self.copies >= 1 and self.weight >= 0 and self.entropy >= 0):
            raise AbsynthError(
                "Training for smoothing needs a sigma above 0, at least 1 copy and weights of at least 0."
            )

    def __call__(
        self, model: nn.Module, images: Images, labels: Labels, generator: torch.Generator, _: float = 1.0
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            model: The base network.
            images: Shape (batch, channel, height, width), within [0, 1].
            labels: Their classes.
            generator: Source of the noise.
        """
        logits = model(add_noise(images.repeat(self.copies, 1, 1, 1), self.sigma, generator))
        logarithms = functional.log_softmax(logits, 1).view(self.copies, len(images), -1)
        truth = functional.nll_loss(logarithms.flatten(0, 1), labels.repeat(self.copies))
        mean = logarithms.logsumexp(0) - math.log(self.copies)
        spread = (mean.exp() * (mean - logarithms)).sum(-1).mean()
        entropy = -(mean.exp() * mean).sum(-1).mean()
        result: Tensor = truth + self.weight * spread + self.entropy * entropy
        return result


def add_noise(images: Images, sigma: float, generator: torch.Generator) -> Images:
    """The images with Gaussian noise on every pixel, not clipped.

    Args:
        images: Shape (batch, channel, height, width).
        sigma: Standard deviation of the noise, in units of the pixels.
        generator: Source of the noise.
    """
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images + sigma * noise
