"""How near attacks had come after how many passes: medians, beside the exact smallest where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import torch
from torch import Tensor

from absynth.attacks.course import Course
from absynth.errors import AbsynthError
from absynth.evaluate.courses import FOLDER, course_from, file_of
from absynth.evaluate.standings import GEOMETRIC, ROUNDING, exact_radii, upper_median
from absynth.norms import Norm
from absynth.report.curves import Certificates
from absynth.report.drawing import MUTED, STYLES, Panel, Section, new_figure
from absynth.report.results import Finding, Results
from absynth.report.tables import NAMES

POINTS = 120
"""Of a line, evenly spaced in the logarithm of the passes."""

HEIGHT, LINE_HEIGHT, COLUMNS = 2.8, 0.15, 2
"""Inches of a panel without its legend, inches of a line of that, and its columns."""

RATIOS = (1, 1.5, 2, 3, 5, 10, 20, 50, 100)
"""Of distance over exact radius, where the axis has a mark."""

SMALL_RATIOS = (1, 1.1, 1.2, 1.5, 2, 3)
"""The same where none is larger than the last."""

NEARLY = 1.02
"""How far below 1 the axis begins."""

DASHES = ("-", "--", ":", "-.")
"""Of the lines, where there are more attacks than colours."""


def has_courses(results: Results) -> bool:
    """Whether the benchmark kept any; it does so only when asked to."""
    return any((results.folder / FOLDER).glob("*.parquet"))


def courses_section(key: str, title: str, results: Results, certificates: Certificates) -> Section:
    """One panel a model and norm.

    Args:
        key: Anchor.
        title: Heading.
        results: Of a benchmark.
        certificates: Exact radii where they are known, by model.

    Raises:
        AbsynthError: If the benchmark kept no courses, or a file is damaged.
    """
    panels: list[Panel] = []
    remarks: list[str] = []
    for model in results.models:
        every = exact_radii(certificates.get(model, ()))
        for norm in results.norms:
            truth = {at: radius for at, radius in every.items() if at[0] == norm}
            if any(
                one.record.distance < (1 - ROUNDING) * truth.get((norm, one.record.index), 0.0)
                for one in results.smallest(model, norm)
            ):
                truth = {}
                remarks.append(
                    f"{model}, {NAMES[norm]}: distances are given as they are, as some are below what was "
                    "given as the exact radius."
                )
            lines = _lines(results, model, norm, truth)
            if lines:
                panels.append(_panel(f"{key}-{len(panels) + 1}", model, norm, lines, known=bool(truth)))
    if not panels:
        raise AbsynthError("the benchmark kept none; run it with 'absynth bench --courses'.")
    caption = (
        "The median over the images of the distance to the closest adversarial so far, by the forward and "
        "backward passes that an image had taken; a line begins where half of the images were fooled. What "
        "is wrong from the start is left out. Where exact radii are known, distances are multiples of "
        "these, for the images that have one: 1 is the smallest adversarial that there is. An attack that "
        "searches in other ways than by asking for logits shows at its end alone. In brackets: the number "
        "of images."
    )
    return Section(key, title, caption, tuple(panels), tuple(remarks))


def _lines(
    results: Results, model: str, norm: Norm, truth: Mapping[tuple[Norm, int], float]
) -> dict[str, tuple[Course, Tensor]]:
    """By attack, its course and what the distance of each image is divided by.

    Images that are wrong from the start, or lack an exact radius where others have one, are left out.
    """
    lines = {}
    for attack in results.attacks(norm):
        chosen = [
            one
            for one in results.smallest(model, norm, attack)
            if attack != GEOMETRIC and one.record.distance > 0
            if not truth or (norm, one.record.index) in truth
        ]
        units = [truth.get((norm, one.record.index), 1.0) for one in chosen]
        course = _read(results, chosen)
        if course is not None:
            lines[attack] = course, torch.tensor(units, dtype=torch.float64)
    return lines


def _read(results: Results, findings: Sequence[Finding]) -> Course | None:
    """The course of some findings; None if it was not kept for all of them.

    Raises:
        AbsynthError: If a file is damaged.
    """
    parts = []
    for key in sorted({finding.file.partition("-")[0] for finding in findings}):
        path = results.folder / FOLDER / file_of(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        parts.append(course_from(content, str(path)))
    if not parts:
        return None
    whole = Course(
        torch.cat([part.rows for part in parts]),
        torch.cat([part.passes for part in parts]),
        torch.cat([part.distances for part in parts]),
    )
    return whole.of([finding.record.index for finding in findings])


def _panel(
    name: str,
    model: str,
    norm: Norm,
    lines: Mapping[str, tuple[Course, Tensor]],
    *,
    known: bool,
) -> Panel:
    figure = new_figure(3.5, HEIGHT)
    axes = figure.subplots()
    colours = [colour for colour, _ in STYLES.values()]
    styles = cycle((colour, dash) for dash in DASHES for colour in colours)
    most = max(int(course.passes.max()) if len(course.passes) else 1 for course, _ in lines.values())
    for (attack, (course, units)), (colour, dash) in zip(lines.items(), styles, strict=False):
        last = int(course.passes.max()) if len(course.passes) else 1
        looks = torch.logspace(0, torch.tensor(float(last)).log10().item(), POINTS).ceil().unique()
        medians = [_median(course.after(int(look), len(units)) / units) for look in looks.tolist()]
        label = f"{attack} ({len(units)})"
        axes.step(looks.tolist(), medians, dash, where="post", color=colour, linewidth=1.0, label=label)
    unit = f"{NAMES[norm]} distance" + (" / exact radius" if known else "")
    axes.set(xlabel="forward and backward passes", ylabel=f"median {unit}", title=f"{model}, {NAMES[norm]}")
    axes.set(xscale="log", xlim=(1, max(2, most)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if known:
        axes.axhline(1, color=MUTED, linewidth=0.8)
        axes.set_yscale("log")
        top = max(axes.get_ylim()[1], SMALL_RATIOS[1])
        marks = SMALL_RATIOS if top <= SMALL_RATIOS[-1] else RATIOS
        axes.set_ylim(1 / NEARLY, top)
        axes.set_yticks([ratio for ratio in marks if ratio <= top], minor=False)
        axes.set_yticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.2, linewidth=0.5)
    figure.set_figheight(HEIGHT + LINE_HEIGHT * -(-len(lines) // COLUMNS))
    figure.legend(loc="outside lower center", ncols=COLUMNS, frameon=False)
    words = (
        f"Median {unit} against forward and backward passes on {model}, for the attacks {', '.join(lines)}."
    )
    return Panel(name, figure, words)


def _median(values: Tensor) -> float:
    """The median; no number where it is infinite, which is not drawn."""
    median = upper_median(values)
    return median if median < torch.inf else float("nan")
