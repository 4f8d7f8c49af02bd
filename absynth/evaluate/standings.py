"""Attacks beside exact radii: how near to the smallest adversarial that there is each of them comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.attacks.course import Course
from absynth.certify.certificate import is_closed
from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.store import Record
from absynth.evaluate.summaries import ALL
from absynth.evaluate.tasks import Task
from absynth.norms import Norm

LOOKS = (10, 100, 1_000, 10_000)
"""Numbers of passes, counted as in a budget, after which to say how near an attack had come."""

GEOMETRIC = "exact"
"""The search of a certificate, which is no attack to be ranked."""

ROUNDING = 1e-6
"""How far below an exact radius a distance may be by rounding, as a share of it."""


@dataclass(frozen=True)
class Standing:
    """An attack on a model, beside the exact radii of the images that the model gets right.

    Attributes:
        model: Its name.
        norm: Of the distances.
        attack: Its name, or ``ALL`` for the closest of all attacks.
        images: How many have both a record and an exact radius.
        success: The share that was fooled at all.
        ratio: Median of distance over exact radius; infinite where fewer than half were fooled.
        within_one: The share whose distance is at most 1 % above the exact radius.
        within_ten: The same for 10 %.
        queries: Mean number of forward passes an image.
        seconds: Mean wall-clock time an image; None if not known.
        course: The median of distance over exact radius after so many passes as :data:`LOOKS` says; empty
            where the benchmark did not keep that.
    """

    model: str
    norm: Norm
    attack: str
    images: int
    success: float
    ratio: float
    within_one: float
    within_ten: float
    queries: float
    seconds: float | None
    course: tuple[float, ...] = ()


def exact_radii(records: Iterable[CertificateRecord]) -> dict[tuple[Norm, int], float]:
    """The radii that an adversarial was found for, by norm and image; those of wrong answers left out.

    In L0 it is a pixel more, what the smallest adversarial changes.

    Args:
        records: Of one model.
    """
    return {
        (one.norm, one.index): one.radius + (1 if one.norm == "l0" else 0)
        for one in records
        if one.exact and one.radius > 0 and one.gap is not None and is_closed(one.gap, one.radius, one.norm)
    }


def standings(
    result: BenchmarkResult, certificates: Mapping[str, Sequence[CertificateRecord]]
) -> list[Standing]:
    """Every attack of a benchmark on the models whose exact radii are known, the nearest first.

    An attack that got fewer images than others is judged by these; ``ALL`` by those that every attack got.

    Args:
        result: Of the benchmark.
        certificates: By model.

    Raises:
        AbsynthError: If there is no record of a model, no exact radius of its images, or a distance below
            one.
    """
    every: list[Standing] = []
    for model, proven in certificates.items():
        truth = exact_radii(proven)
        own = [record for record in result.records if record.model == model]
        if not own:
            raise AbsynthError(f"The benchmark has no records of {model}; name one of its models.")
        if not any((record.norm, record.index) in truth for record in own):
            raise AbsynthError(
                f"The certificates of {model} have no exact radius of an image that was attacked; make them "
                "with absynth certify --exact."
            )
        for norm in result.preset.norms:
            every += _of_norm(result, model, norm, [one for one in own if one.norm == norm], truth)
    return every


def _of_norm(
    result: BenchmarkResult,
    model: str,
    norm: Norm,
    records: Sequence[Record],
    truth: Mapping[tuple[Norm, int], float],
) -> list[Standing]:
    by_attack: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.attack != GEOMETRIC and (radius := truth.get((norm, record.index))) is not None:
            if record.distance < (1 - ROUNDING) * radius:
                raise AbsynthError(
                    f"{record.attack} found an adversarial of image {record.index} of {model} at the {norm} "
                    f"distance {record.distance:g}, below its exact radius {radius:g}; the certificates are "
                    "of another model or other data."
                )
            by_attack.setdefault(record.attack, {})[record.index] = record
    if not by_attack:
        return []
    spent: dict[str, list[float]] = {}
    tasks = [task for task in result.tasks if (task.model, task.norm) == (model, norm)]
    for task in tasks:
        if task.key in result.seconds:
            spent.setdefault(task.attack, []).append(result.seconds[task.key] / len(task.indices))

    def standing(
        attack: str, ratios: Float[Tensor, "images"], queries: float, seconds: float | None
    ) -> Standing:
        return Standing(
            model=model,
            norm=norm,
            attack=attack,
            images=len(ratios),
            success=float(ratios.isfinite().double().mean()),
            ratio=upper_median(ratios),
            within_one=float((ratios <= 1.01).double().mean()),
            within_ten=float((ratios <= 1.1).double().mean()),
            queries=queries,
            seconds=seconds,
            course=_course([task for task in tasks if task.attack == attack], result.courses, truth),
        )

    rows, ratios = [], dict[str, dict[int, float]]()
    for attack, found in by_attack.items():
        ratios[attack] = {index: one.distance / truth[norm, index] for index, one in found.items()}
        times = spent.get(attack)
        rows.append(
            standing(
                attack,
                torch.tensor(list(ratios[attack].values()), dtype=torch.float64),
                sum(one.queries for one in found.values()) / len(found),
                None if times is None else sum(times) / len(times),
            )
        )
    rows.sort(key=lambda row: (row.ratio, -row.within_one))
    shared = sorted(set.intersection(*(set(found) for found in by_attack.values())))
    if shared and len(rows) > 1:
        best = [min(found[index] for found in ratios.values()) for index in shared]
        queries = sum(row.queries for row in rows)
        times = [row.seconds for row in rows if row.seconds is not None]
        seconds = sum(times) if len(times) == len(rows) else None
        rows.append(standing(ALL, torch.tensor(best, dtype=torch.float64), queries, seconds))
    return rows


def upper_median(ratios: Float[Tensor, "images"]) -> float:
    """The median, of an even number the upper one of the two in the middle."""
    return float(ratios.quantile(0.5, interpolation="higher"))


def _course(
    tasks: Sequence[Task], courses: Mapping[str, Course], truth: Mapping[tuple[Norm, int], float]
) -> tuple[float, ...]:
    """The medians after so many passes as are looked at; none if a course is missing."""
    if not tasks or any(task.key not in courses for task in tasks):
        return ()
    found = []
    for passes in LOOKS:
        ratios = [
            distance / truth[task.norm, index]
            for task in tasks
            for index, distance in zip(
                task.indices, courses[task.key].after(passes, len(task.indices)).tolist(), strict=True
            )
            if (task.norm, index) in truth
        ]
        found.append(upper_median(torch.tensor(ratios, dtype=torch.float64)))
    return tuple(found)
