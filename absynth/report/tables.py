"""The benchmark's result on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from absynth.attacks import AttackResult
from absynth.certify.summary import certified_accuracy
from absynth.errors import AbsynthError
from absynth.evaluate.certification import radii
from absynth.evaluate.distal import ENOUGH, Distal
from absynth.evaluate.own import find_function
from absynth.evaluate.paper import IMAGES, PAPER, PaperFigure, is_paper_data, paper_threshold
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.schedule import START_SECONDS, Schedule
from absynth.evaluate.status import ModelStatus
from absynth.evaluate.summaries import ALL, AttackSummary, attack_rows, summaries, summarize, thresholds
from absynth.evaluate.tasks import Preset
from absynth.files import atomic_path, check_writable
from absynth.norms import Norm
from absynth.shapes import Labels

NAMES: dict[Norm, str] = {"l2": "L2", "l1": "L1", "linf": "Linf", "l0": "L0"}


def format_distance(value: float, norm: Norm) -> str:
    """A distance: pixels as they are, Linf with three decimals, everything else with two."""
    if math.isinf(value):
        return "∞"
    return f"{value:g}" if norm == "l0" else f"{value:.{3 if norm == 'linf' else 2}f}"


def format_seconds(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> [format_seconds(seconds) for seconds in (0.5, 90, 9000)]
    ['0.50 s', '1.5 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def paper_figure(preset: Preset, model: str, norm: Norm) -> PaperFigure | None:
    """What the paper has to set beside a model's figures; None where it has nothing, as on other data."""
    return PAPER.get(model, {}).get(norm) if is_paper_data(preset.dataset) else None


def has_paper_figures(preset: Preset) -> bool:
    """Whether the paper has something to set beside any of the benchmark's figures."""
    return any(paper_figure(preset, model, norm) for model in preset.models for norm in preset.norms)


def describe_samples(preset: Preset) -> str:
    """On which images and with which attacks a benchmark was run, in one sentence without a full stop."""
    samples = f"clean accuracy on {preset.clean_images} test images of {preset.dataset}"
    if preset.norms:
        names = [name for every in preset.attacks.values() for name in every]
        own = all(find_function(name, "attack") for name in names)
        samples += f", {preset.images} of them attacked"
        samples += f" with {', '.join(dict.fromkeys(names))}" if own else f" with the suite '{preset.suite}'"
        counts = {name: preset.images_for(name) for name in preset.fewer_images}
        fewer = [f"{count} by {name}" for name, count in counts.items() if count < preset.images]
        samples += f" (only {', '.join(fewer)})" if fewer else ""
    if has_paper_figures(preset):
        samples += f"; the paper attacked {IMAGES}"
    return f"{samples}; seed {preset.seed}"


def format_figures(summary: AttackSummary, norm: Norm, figure: PaperFigure | None) -> list[str]:
    """Median and accuracies as cells, the paper's figures in brackets where it has them."""
    cells = [format_distance(summary.median, norm)]
    if figure is not None:
        cells[0] += f" ({format_distance(figure.median, norm)})"
    for size, accuracy in summary.accuracies.items():
        cell = f"{accuracy:.0%}"
        if figure is not None and size in figure.accuracies:
            cell += f" ({figure.accuracies[size]:.0%})"
        cells.append(cell)
    return cells


def benchmark_table(result: BenchmarkResult) -> Table:
    """Clean accuracy, median adversarial distance and accuracy at the thresholds, by model.

    Beside each accuracy under attack stands what is proven of the same images, if anything was certified. The
    paper's figures stand in brackets where it has the model.
    """
    preset = result.preset
    title = "Robustness to attacks (upper bounds)" if preset.norms else "Clean accuracy"
    if result.certificates:
        title = "Robustness to attacks (upper bounds) and proven (lower bounds)"
    if has_paper_figures(preset):
        title += "; the paper's figures in brackets"
    table = Table(title=title, caption=describe_samples(preset), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # where the window is narrow, brackets go into a second line before any name or figure is cut
    table.add_column("model", no_wrap=True)
    table.add_column("clean", justify="right", min_width=6)
    for norm in preset.norms:
        table.add_column(f"{NAMES[norm]} median", justify="right", min_width=7)
        for size in thresholds(preset, norm):
            table.add_column(f"at {size:g}", justify="right", min_width=5)
            if result.certificates:
                table.add_column("proven", justify="right", min_width=6)
    for model, by_norm in summaries(result).items():
        cells = [f"{result.clean_accuracy[model]:.2%}"]
        for norm in preset.norms:
            sizes = thresholds(preset, norm)
            known = norm in by_norm
            figures = (
                format_figures(by_norm[norm], norm, paper_figure(preset, model, norm))
                if known
                else ["-"] * (1 + len(sizes))
            )
            cells.append(figures[0])
            for size, figure in zip(sizes, figures[1:], strict=True):
                cells.append(figure)
                if result.certificates:
                    cells.append(_proven(result, model, norm, size))
        table.add_row(model, *cells)
    return table


def _proven(result: BenchmarkResult, model: str, norm: Norm, size: float) -> str:
    """The share of a model's images that are proven to withstand every change of a size, or a dash.

    Where not all of the attacked images are certified, it says how many are.
    """
    radius = radii(result.certificates.get(model, ()), norm)
    if not len(radius):
        return "-"
    share = f"{certified_accuracy(radius, size):.0%}"
    return share if len(radius) == result.preset.images else f"{share} of {len(radius)}"


def lone_headers(result: BenchmarkResult) -> dict[int, str]:
    """What the columns of :func:`benchmark_table`, by number, are called away from their norm's median."""
    preset = result.preset
    headers, number = {}, 2
    for norm in preset.norms:
        number += 1
        for size in thresholds(preset, norm):
            headers[number] = f"{NAMES[norm]} at {size:g}"
            number += 1
            if result.certificates:
                headers[number] = f"proven at {NAMES[norm]} {size:g}"
                number += 1
    return headers


def detail_tables(result: BenchmarkResult) -> list[Table]:
    """One table a model and norm: a row each attack, and the smallest adversarials of all of them."""
    tables = []
    for model in result.preset.models:
        for norm in result.preset.norms:
            rows = attack_rows(result, model, norm)
            if not rows:
                continue
            table = Table(
                title=f"{model}: {NAMES[norm]} distances of the adversarials found (upper bounds)",
                caption=f"seed {result.preset.seed}",
            )
            table.add_column("attack", no_wrap=True)
            for name in ("images", "median", *(f"at {size:g}" for size in rows[0].summary.accuracies)):
                table.add_column(name, justify="right")
            table.add_column("queries an image", justify="right")
            table.add_column("time an image", justify="right")
            for row in rows:
                cells = [row.attack, str(row.summary.images), format_distance(row.summary.median, norm)]
                cells += [f"{accuracy:.0%}" for accuracy in row.summary.accuracies.values()]
                cells += [f"{row.queries:.0f}", "-" if row.seconds is None else format_seconds(row.seconds)]
                if row.attack == ALL:
                    table.add_section()
                table.add_row(*cells)
            tables.append(table)
    return tables


def status_table(statuses: Sequence[ModelStatus], title: str) -> Table:
    """Tasks done and left, time spent and the estimate of the time left, by model."""
    untimed = any(status.untimed for status in statuses)
    table = Table(
        title=f"{title}: progress",
        caption="'at least' leaves out attacks that have no finished task to go by" if untimed else None,
    )
    table.add_column("model", no_wrap=True)
    for name in ("done", "left", "time spent", "time left, estimated"):
        table.add_column(name, justify="right")
    for status in statuses:
        table.add_row(*_status_cells(status))
    if len(statuses) > 1:
        table.add_section()
        table.add_row(
            *_status_cells(
                ModelStatus(
                    "all",
                    sum(status.done for status in statuses),
                    sum(status.total for status in statuses),
                    sum(status.spent for status in statuses),
                    sum(status.left for status in statuses),
                    tuple(attack for status in statuses for attack in status.untimed),
                )
            )
        )
    return table


def _status_cells(status: ModelStatus) -> list[str]:
    left = format_seconds(status.left)
    if status.untimed:
        left = f"at least {left}" if status.left else "not known"
    return [
        status.model,
        str(status.done),
        str(status.total - status.done),
        format_seconds(status.spent),
        left,
    ]


def schedule_table(schedule: Schedule, title: str) -> Table:
    """Time by number of cores, how busy they are, and where more of them stop helping."""
    caption = (
        f"{schedule.tasks} tasks, longest first, each {START_SECONDS:g} s to start; the longest takes "
        f"{format_seconds(schedule.longest)}, which {schedule.enough} cores reach and more do not shorten"
    )
    if schedule.untimed:
        caption += f"; {schedule.untimed} tasks of attacks without a measured time left out"
    table = Table(title=f"{title}: time of all tasks by number of cores", caption=caption)
    for name in ("cores", "time", "cores busy"):
        table.add_column(name, justify="right")
    for cores, seconds in schedule.seconds.items():
        table.add_row(str(cores), format_seconds(seconds), f"{schedule.work / (seconds * cores):.0%}")
    return table


def attack_table(result: AttackResult, norm: Norm, title: str, dataset: str) -> Table:
    """The distances that one run of attacks found: the quartiles, and the paper's threshold on its data."""
    threshold = paper_threshold(dataset, norm)
    distances = result.distances.cpu().sort().values
    table = Table(title=f"{title}: distances of the adversarials found (upper bounds)")
    cells = {"images": str(len(distances)), "fooled": f"{float(result.success.double().mean()):.0%}"}
    for name, fraction in (("quarter", 0.25), ("median", 0.5), ("three quarters", 0.75)):
        value = float(distances[min(len(distances) - 1, int(fraction * len(distances)))])
        cells[f"{NAMES[norm]} {name}"] = format_distance(value, norm)
    if threshold is not None:
        cells[f"accuracy at {threshold:g}"] = f"{summarize(distances, [threshold]).accuracies[threshold]:.0%}"
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    return table


def check_adversarials(path: Path) -> None:
    """Sees that adversarials can be written to ``path``.

    Raises:
        AbsynthError: If it does not end in .npz, or nothing can be written there.
    """
    if path.suffix != ".npz":
        raise AbsynthError(f"'{path.name}' names no format for adversarials; end it in .npz.")
    check_writable(path)


def write_adversarials(
    path: Path, result: AttackResult, labels: Labels, indices: Sequence[int], class_names: Sequence[str]
) -> None:
    """Writes adversarials, distances, labels, the images' indices and the classes' names as an archive."""
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            adversarials=result.adversarials.cpu().numpy(),
            distances=result.distances.cpu().numpy(),
            labels=labels.numpy(),
            indices=np.array(indices),
            class_names=np.array(class_names),
        )


def write_pictures(folder: Path, result: AttackResult, labels: Labels, indices: Sequence[int]) -> None:
    """Writes each adversarial that was found as a PNG of 8 bits, called by its image's index and true class.

    Args:
        folder: Made if needed.
        result: Of images whose pixels are multiples of 1/255.
        labels: Their true classes.
        indices: Of the images in their data set.
    """
    from PIL import Image

    found = zip(result.adversarials.cpu(), result.success.tolist(), labels.tolist(), indices, strict=True)
    for image, success, label, index in found:
        if success:
            pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
            with atomic_path(folder / f"{index}-was-{label}.png") as temporary:
                Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(temporary, "PNG")


def distal_table(found: Sequence[Distal]) -> Table:
    """How sure each model is of what was made for it and for the others."""
    table = Table(title=f"Confidence in class {found[0].target}, mean over {len(found[0].images)} images")
    table.add_column("ascended on", no_wrap=True)
    table.add_column(f"over {ENOUGH:.0%}", justify="right")
    for name in found[0].confidences:
        table.add_column(name, justify="right")
    for entry in found:
        sure = int((entry.confidences[entry.model] > ENOUGH).sum())
        means = [f"{float(values.mean()):.1%}" for values in entry.confidences.values()]
        table.add_row(entry.model, f"{sure} of {len(entry.images)}", *means)
    return table
