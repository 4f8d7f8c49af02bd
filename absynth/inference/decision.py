"""A decision that a person can act on: a class with its confidence, or an abstention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.models.cnn import Binarized
from absynth.models.confidence import logits_to_probabilities
from absynth.shapes import Images, Logits

LEAST_CONFIDENCE = 0.105
"""Below this confidence of the best class an image counts as no digit; uniform over ten classes is 0.1."""


@dataclass(frozen=True)
class Decision:
    """What a model says about one image.

    Attributes:
        label: The most likely class.
        confidence: Its probability.
        runner_up: The second most likely class.
        runner_up_confidence: Its probability.
        abstained: Whether the confidence is too low to decide.
    """

    label: int
    confidence: float
    runner_up: int
    runner_up_confidence: float
    abstained: bool


@torch.no_grad()
def probabilities(model: nn.Module, images: Images) -> Logits:
    """The confidence in each class.

    Models that explain an image say near-uniform where no class can; others have their softmax.
    """
    logits: Tensor = model(images)
    inner = model.model if isinstance(model, Binarized) else model
    if isinstance(inner, ABS | CodebookABS):
        return logits_to_probabilities(logits)
    return logits.softmax(dim=1)


def decide(model: nn.Module, images: Images, least_confidence: float = LEAST_CONFIDENCE) -> list[Decision]:
    """One decision an image.

    Args:
        model: Any classifier.
        images: Shape (batch, channel, height, width), in [0, 1].
        least_confidence: Abstain below it.
    """
    values, order = probabilities(model, images).topk(2, dim=1)
    return [
        Decision(labels[0], likely[0], labels[1], likely[1], likely[0] < least_confidence)
        for labels, likely in zip(order.tolist(), values.tolist(), strict=True)
    ]
