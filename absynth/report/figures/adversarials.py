"""Figures 3 and 5: the smallest adversarials found, of random images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from absynth.data import Dataset
from absynth.errors import AbsynthError
from absynth.evaluate.data import read_for
from absynth.norms import Norm
from absynth.report.drawing import (
    Panel,
    Section,
    draw_image,
    draw_perturbation,
    finish_sheet,
    image_sheet,
    shorten,
)
from absynth.report.results import Finding, Results
from absynth.report.tables import NAMES, format_distance

MOST_CLASSES = 20
A_ROW = 5
"""Classes beside each other."""

QUANTILES = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
A_QUARTER = 3
"""Images of each quarter."""


@dataclass(frozen=True)
class Choice:
    """The images that a figure shows: for each class one, or none if there is none.

    Attributes:
        indices: In the test split, by class.
    """

    indices: dict[int, int | None]


def one_of_each_class(labels: dict[int, int], seed: int, classes: int = 10) -> Choice:
    """For each class one image, every one equally likely.

    Args:
        labels: Class of each image, by its index.
        seed: Of the draw.
        classes: How many there are.

    >>> one_of_each_class({7: 0, 3: 1}, seed=0).indices[1]
    3
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[int, int | None] = {}
    for label in range(classes):
        own = sorted(index for index, other in labels.items() if other == label)
        # a draw for every class, so that one class without images changes no other
        place = torch.rand((), generator=generator, dtype=torch.float64)
        chosen[label] = own[int(place * len(own))] if own else None
    return Choice(chosen)


def originals(results: Results) -> Dataset:
    """The test split that the records are about, as the models take it.

    Raises:
        AbsynthError: If the data set cannot be read, or it is another one than that of the records.
    """
    dataset = read_for(results.models, results.dataset, "test")
    labels = dataset.labels
    for finding in results.findings:
        record = finding.record
        if record.index >= len(labels) or int(labels[record.index]) != record.label:
            raise AbsynthError(f"The data set '{results.dataset}' is not the one that was attacked.")
    return dataset


def smallest_section(key: str, title: str, results: Results, seed: int) -> Section:
    """Figure 3: for each class and model, the smallest L2 adversarial of a random image.

    Args:
        key: Anchor.
        title: Heading.
        results: Of the attacks.
        seed: Of the choice.

    Raises:
        AbsynthError: If no model was attacked in L2, or an image cannot be had.
    """
    found, remarks = _attacked(results, "l2")
    dataset = originals(results)
    choice = _shared_choice(list(found.values()), seed, min(len(dataset.class_names), MOST_CLASSES))
    panels = [
        _classes_panel(f"{key}-{number}", model, results, findings, dataset, choice)
        for number, (model, findings) in enumerate(found.items(), start=1)
    ]
    caption = (
        f"For each class one image, drawn at random (seed {seed}) from those that all models were attacked "
        "on in L2, the same for every model. Above the original; beneath it the smallest adversarial that "
        "any attack found, and its perturbation (orange brightens, purple darkens, scaled to its own largest "
        "change); at the bottom its L2 distance, an upper bound on that of the nearest adversarial."
    )
    if len(dataset.class_names) > MOST_CLASSES:
        caption += f" The first {MOST_CLASSES} of {len(dataset.class_names)} classes are shown."
    return Section(key, title, caption, tuple(panels), tuple(remarks))


def pixels_section(key: str, title: str, results: Results, seed: int) -> Section:
    """Figure 5: L0 adversarials of each quarter of the distances found.

    Args:
        key: Anchor.
        title: Heading.
        results: Of the attacks.
        seed: Of the choice.

    Raises:
        AbsynthError: If no model was attacked in L0, or an image cannot be had.
    """
    found, remarks = _attacked(results, "l0")
    images = originals(results).images[:, 0]
    panels = []
    for number, (model, findings) in enumerate(found.items(), start=1):
        chosen = quarters(findings, seed)
        if any(chosen):
            panels.append(_quarters_panel(f"{key}-{number}", model, results, chosen, images))
        else:
            remarks.append(f"{model} is left out: no image was fooled.")
    caption = (
        "For each model the images that an attack fooled, in the order of their L0 distance (pixels "
        f"changed), are cut into quarters, and {A_QUARTER} of each are drawn at random (seed {seed}). Above "
        "the original, beneath it the smallest adversarial found and its distance, an upper bound."
    )
    return Section(key, title, caption, tuple(panels), tuple(remarks))


def _attacked(results: Results, norm: Norm) -> tuple[dict[str, tuple[Finding, ...]], list[str]]:
    """The smallest adversarials of each model attacked in a norm, and a remark on each that was not."""
    every = {model: results.smallest(model, norm) for model in results.models}
    found = {model: findings for model, findings in every.items() if findings}
    if not found:
        raise AbsynthError(f"no attack in {NAMES[norm]} is recorded.")
    missing = (model for model in every if model not in found)
    return found, [f"{model} is left out: no attack in {NAMES[norm]} is recorded." for model in missing]


def _shared_choice(found: Sequence[Sequence[Finding]], seed: int, classes: int) -> Choice:
    shared = set.intersection(*({finding.record.index for finding in findings} for findings in found))
    labels = {f.record.index: f.record.label for f in found[0] if f.record.index in shared}
    return one_of_each_class(labels, seed, classes)


def _classes_panel(
    name: str, model: str, results: Results, findings: Sequence[Finding], dataset: Dataset, choice: Choice
) -> Panel:
    images, titles = dataset.images[:, 0], dataset.class_names
    known = {finding.record.index: finding for finding in findings}
    columns, block = 2.2 * A_ROW, 2.6
    rows = 0.5 + block * math.ceil(len(choice.indices) / A_ROW)
    figure, axes = image_sheet(columns, rows)
    axes.text(0.03, 0.1, model, va="center", weight="bold")
    words = []
    for label, index in choice.indices.items():
        left, top = 2.2 * (label % A_ROW), 0.5 + block * (label // A_ROW)
        if index is None:
            empty = f"no image of\nclass {shorten(titles[label])}"
            axes.text(left + 1, top + 1, empty, ha="center", va="center")
            continue
        finding = known[index]
        draw_image(axes, images[index], left, top)
        text = _distance_text(finding)
        if 0 < finding.record.distance < torch.inf:
            adversarial = results.adversarial(finding)
            draw_image(axes, adversarial, left, top + 1)
            draw_perturbation(axes, adversarial - images[index], left + 1, top + 1)
        axes.text(left + 1, top + 2.22, text, ha="center", va="center")
        words.append(f"class {titles[label]}: {text}")
    finish_sheet(axes, columns, rows)
    return Panel(name, figure, f"Smallest L2 adversarials found of {model}; {'; '.join(words)}.")


def _distance_text(finding: Finding) -> str:
    distance = finding.record.distance
    if distance == 0:
        return "misclassified"
    if distance == torch.inf:
        return "none found"
    return format_distance(distance, finding.record.norm)


def quarters(findings: Sequence[Finding], seed: int) -> list[list[Finding]]:
    """A few random findings of each quarter of the distances, smallest first.

    Args:
        findings: Of one model; those with nothing found or nothing to find are passed over.
        seed: Of the draw.
    """
    fooled = [finding for finding in findings if 0 < finding.record.distance < torch.inf]
    fooled.sort(key=lambda finding: (finding.record.distance, finding.record.index))
    generator = torch.Generator().manual_seed(seed)
    ends = [round(len(fooled) * quarter / 4) for quarter in range(5)]
    chosen = []
    for start, end in pairwise(ends):
        order = torch.randperm(end - start, generator=generator)[:A_QUARTER]
        chosen.append([fooled[start + place] for place in sorted(order.tolist())])
    return chosen


def _quarters_panel(
    name: str, model: str, results: Results, chosen: Sequence[Sequence[Finding]], images: Tensor
) -> Panel:
    step = A_QUARTER + 0.3
    columns, rows = 4 * step, 3.4
    figure, axes = image_sheet(columns, rows)
    axes.text(0.03, 0.1, model, va="center", weight="bold")
    words = []
    for quarter, part in enumerate(chosen):
        axes.text(step * quarter + A_QUARTER / 2, 0.45, QUANTILES[quarter], ha="center", va="center")
        for place, finding in enumerate(part):
            left = step * quarter + place
            draw_image(axes, images[finding.record.index], left, 0.7)
            draw_image(axes, results.adversarial(finding), left, 1.7)
            text = _distance_text(finding)
            axes.text(left + 0.5, 2.95, text, ha="center", va="center")
            words.append(f"{QUANTILES[quarter]}: {text}")
    finish_sheet(axes, columns, rows)
    return Panel(name, figure, f"L0 adversarials of {model}, pixels changed; {'; '.join(words)}.")
