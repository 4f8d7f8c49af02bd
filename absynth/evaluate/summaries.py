"""The figures of a benchmark: medians and accuracies under attack, all of them upper bounds."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from absynth.evaluate.paper import THRESHOLDS
from absynth.evaluate.runner import BenchmarkResult, smallest_distances
from absynth.norms import Norm


@dataclass(frozen=True)
class AttackSummary:
    """A model under all attacks of one norm.

    Attributes:
        median: Median adversarial distance; images misclassified without an attack count as 0, images that
            no attack fooled as infinite.
        accuracy: Fraction of images with no adversarial found at or below the threshold.
        threshold: Of the accuracy.
        images: Sample size.
    """

    median: float
    accuracy: float
    threshold: float
    images: int


def summarize(distances: Float[Tensor, "images"], threshold: float) -> AttackSummary:
    """Median and accuracy of adversarial distances.

    An even number of images has the mean of the middle two as median.

    >>> import torch
    >>> summarize(torch.tensor([0.0, 1.0, 2.0, torch.inf]), 1.5).median
    1.5
    """
    ordered = distances.double().sort().values
    middle = (len(ordered) - 1) // 2
    median = float((ordered[middle] + ordered[len(ordered) // 2]) / 2)
    return AttackSummary(median, float((ordered > threshold).double().mean()), threshold, len(ordered))


def summaries(result: BenchmarkResult) -> dict[str, dict[Norm, AttackSummary]]:
    """By model and norm, at the thresholds of the paper's Table 1."""
    return {
        model: {
            norm: summarize(smallest_distances(result.records, model, norm), THRESHOLDS[norm])
            for norm in result.preset.norms
        }
        for model in result.preset.models
    }
