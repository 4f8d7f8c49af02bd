"""The figures of a benchmark: medians and accuracies under attack, all of them upper bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.evaluate.paper import paper_threshold
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.smallest import smallest_distances
from absynth.evaluate.tasks import Preset
from absynth.norms import Norm

ALL = "all"
"""What the row of the smallest adversarials over all attacks is called."""


@dataclass(frozen=True)
class AttackSummary:
    """A model under one attack, or under all attacks of one norm.

    Attributes:
        median: Median adversarial distance; images misclassified without an attack count as 0, images that
            no attack fooled as infinite.
        accuracies: By threshold, the fraction of images with no adversarial found at or below it.
        images: Sample size.
    """

    median: float
    accuracies: dict[float, float]
    images: int


@dataclass(frozen=True)
class AttackRow:
    """One attack in the details of a benchmark.

    Attributes:
        attack: Its name, or ``ALL``.
        summary: What it found.
        queries: Mean number of forward passes an image.
        seconds: Wall-clock time an image; None if not known.
    """

    attack: str
    summary: AttackSummary
    queries: float
    seconds: float | None


def summarize(distances: Float[Tensor, "images"], thresholds: Sequence[float]) -> AttackSummary:
    """Median and accuracies of adversarial distances, of at least one image.

    An even number of images has the mean of the middle two as median.

    >>> summarize(torch.tensor([0.0, 1.0, 2.0, torch.inf]), [1.5])
    AttackSummary(median=1.5, accuracies={1.5: 0.5}, images=4)
    """
    ordered = distances.double().sort().values
    middle = (len(ordered) - 1) // 2
    median = float((ordered[middle] + ordered[len(ordered) // 2]) / 2)
    accuracies = {size: float((ordered > size).double().mean()) for size in thresholds}
    return AttackSummary(median, accuracies, len(ordered))


def thresholds(preset: Preset, norm: Norm) -> tuple[float, ...]:
    """At which distances to give accuracy: the preset's own, else the paper's on its data, but none in L1."""
    own = preset.thresholds.get(norm)
    if own is not None:
        return own
    size = paper_threshold(preset.dataset, norm)
    return () if size is None else (size,)


def summaries(
    result: BenchmarkResult, sizes: dict[Norm, tuple[float, ...]] | None = None
) -> dict[str, dict[Norm, AttackSummary]]:
    """By model and norm, over all attacks; a norm in which no attack applies to a model is missing there.

    Args:
        result: Of a benchmark.
        sizes: At which distances to give accuracy, by norm; by default see :func:`thresholds`.
    """
    found: dict[str, dict[Norm, AttackSummary]] = {}
    for model in result.preset.models:
        found[model] = {}
        for norm in result.preset.norms:
            distances = smallest_distances(result.records, model, norm)
            if len(distances):
                chosen = thresholds(result.preset, norm) if sizes is None else sizes[norm]
                found[model][norm] = summarize(distances, chosen)
    return found


def attack_rows(result: BenchmarkResult, model: str, norm: Norm) -> list[AttackRow]:
    """What each attack found on a model, in the order of the preset, then all of them together.

    Args:
        result: Of a benchmark.
        model: One of its models.
        norm: One of its norms.

    Returns:
        No rows if no attack applies to the model.
    """
    sizes = thresholds(result.preset, norm)
    tasks = [task for task in result.tasks if task.model == model and task.norm == norm]
    records = [record for record in result.records if record.model == model and record.norm == norm]
    rows = []
    for attack in dict.fromkeys(task.attack for task in tasks):
        own = [record for record in records if record.attack == attack]
        times = [result.seconds.get(task.key) for task in tasks if task.attack == attack]
        known = [seconds for seconds in times if seconds is not None]
        rows.append(
            AttackRow(
                attack,
                summarize(torch.tensor([record.distance for record in own], dtype=torch.float64), sizes),
                sum(record.queries for record in own) / len(own),
                sum(known) / len(own) if len(known) == len(times) else None,
            )
        )
    if rows:
        summary = summarize(smallest_distances(records, model, norm), sizes)
        spent = [result.seconds[task.key] for task in tasks if task.key in result.seconds]
        rows.append(
            AttackRow(
                ALL,
                summary,
                sum(record.queries for record in records) / summary.images,
                sum(spent) / summary.images if len(spent) == len(tasks) else None,
            )
        )
    return rows
