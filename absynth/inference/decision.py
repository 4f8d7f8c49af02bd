"""A decision that a person can act on: a class with its confidence, or an abstention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from absynth.errors import AbsynthError
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.models.asked import answer
from absynth.models.confidence import are_probabilities, logits_to_probabilities
from absynth.models.front import unwrap
from absynth.shapes import Images, Logits
from absynth.surroundings import standard

LEAST_CONFIDENCE = 1.05
"""Below this multiple of the uniform confidence, which is 1 / classes, an image counts as none of them."""

CLEAR = 1.0
"""How far apart the two largest logits of several renderings have to be, a factor of e in likelihood.

Chosen on the digits 797 to 1196 of the UCI data set."""


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


def probabilities(model: Any, images: Any) -> Logits:
    """The confidence in each class.

    Models that explain an image say near-uniform where no class can; others have their softmax, or what they
    answer where that are probabilities already. The model is in evaluation mode meanwhile.

    Args:
        model: Any classifier, a module or a function.
        images: Shape (batch, channel, height, width), in [0, 1] (:mod:`absynth.inputs`).

    Raises:
        AbsynthError: If the images are none, or the model does not answer with finite logits.
    """
    with standard(gradients=False):
        return _confidences(model, answer(model, images))


def _confidences(model: Any, logits: Logits) -> Logits:
    undecided = int((~logits.amax(dim=1).isfinite()).sum())  # the largest of a row with a NaN is NaN
    if undecided:
        raise AbsynthError(
            f"The model answers with NaN or infinite logits for {undecided} of {len(logits)} images; a "
            "decision takes numbers, of which those of unlikely classes alone may be -inf."
        )
    if isinstance(model, nn.Module) and isinstance(unwrap(model), ABS | CodebookABS):
        return logits_to_probabilities(logits)
    return logits if are_probabilities(logits) else logits.softmax(dim=1)


def decide(model: Any, images: Any, least_confidence: float | None = None) -> list[Decision]:
    """One decision an image, by the model in evaluation mode.

    Args:
        model: Any classifier, a module or a function.
        images: Shape (batch, channel, height, width), in [0, 1] (:mod:`absynth.inputs`).
        least_confidence: Abstain below it; by default 1.05 / classes.

    Raises:
        AbsynthError: If the images are none, a pixel is NaN or outside [0, 1], or the model does not answer
            with finite logits.
    """
    with standard(gradients=False):
        logits = answer(model, images)
        return decisions(logits, _confidences(model, logits), least_confidence)


def decisions(logits: Logits, confidences: Logits, least_confidence: float | None = None) -> list[Decision]:
    """One decision for each row of logits, for those who have these already.

    The logits rank the classes: where no class explains an image, the confidences are equal in float32.

    Args:
        logits: Of each class.
        confidences: In each class, as :func:`probabilities` gives them.
        least_confidence: Abstain below it; by default 1.05 / classes.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 2.0, 1.0]])
    >>> decisions(logits, logits.softmax(dim=1))[0].label
    1
    """
    least = LEAST_CONFIDENCE / logits.shape[1] if least_confidence is None else least_confidence
    order = logits.topk(2, dim=1).indices
    values = confidences.gather(1, order)
    return [
        Decision(labels[0], likely[0], labels[1], likely[1], likely[0] < least)
        for labels, likely in zip(order.tolist(), values.tolist(), strict=True)
    ]


def decide_renderings(model: Any, renderings: Sequence[Images]) -> list[Decision]:
    """One decision for each digit, of which a model sees several renderings.

    A class is as likely as the rendering that speaks most for it makes it: a digit is what explains it best,
    however it has to be slanted for that. The model abstains where two classes are nearly as likely
    (``CLEAR``), and where the confidence is too low for :func:`decide`. A single rendering is decided as
    there.

    Args:
        model: Any classifier, a module or a function.
        renderings: Of each digit, shape (renderings, channel, height, width), in [0, 1].

    Raises:
        AbsynthError: If a pixel is NaN or outside [0, 1], or the model does not answer with logits.
    """
    if not renderings:
        return []
    result = []
    with standard(gradients=False):
        for logits in answer(model, torch.cat(list(renderings))).split([len(one) for one in renderings]):
            scores = logits.log() if are_probabilities(logits) else logits
            best = scores.amax(dim=0, keepdim=True)
            (decision,) = decisions(best, _confidences(model, best))
            first, second = best.topk(2, dim=1).values[0].tolist()
            unclear = len(logits) > 1 and first - second < CLEAR
            result.append(replace(decision, abstained=decision.abstained or unclear))
    return result
