"""The benchmark's result on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from absynth.attacks import AttackResult
from absynth.errors import AbsynthError
from absynth.evaluate.paper import PAPER, THRESHOLDS
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.summaries import summaries, summarize
from absynth.files import atomic_path
from absynth.norms import Norm
from absynth.shapes import Labels

NAMES: dict[Norm, str] = {"l2": "L2", "l1": "L1", "linf": "Linf", "l0": "L0"}


def format_distance(value: float, norm: Norm) -> str:
    """A distance as the paper prints it: pixels as they are, everything else with two decimals."""
    if math.isinf(value):
        return "∞"
    return f"{value:g}" if norm == "l0" else f"{value:.2f}"


def benchmark_table(result: BenchmarkResult) -> Table:
    """Clean accuracy, median adversarial distance and accuracy at the paper's thresholds, by model.

    The paper's figures stand in brackets where it has the model.
    """
    preset = result.preset
    samples = f"clean accuracy on {preset.clean_images} test images of {preset.dataset}"
    if preset.norms:
        samples += (
            f", {preset.images} of them attacked with the suite '{preset.suite}'; the paper attacked 1000"
        )
    table = Table(
        title="Robustness to attacks (upper bounds); the paper's figures in brackets"
        if preset.norms
        else "Clean accuracy",
        caption=f"{samples}; seed {preset.seed}",
    )
    table.add_column("model", no_wrap=True)
    table.add_column("clean", justify="right")
    for norm in preset.norms:
        table.add_column(f"{NAMES[norm]} median", justify="right")
        table.add_column(f"at {THRESHOLDS[norm]:g}", justify="right")
    for model, by_norm in summaries(result).items():
        cells = [f"{result.clean_accuracy[model]:.2%}"]
        for norm, summary in by_norm.items():
            median, accuracy = format_distance(summary.median, norm), f"{summary.accuracy:.0%}"
            if model in PAPER:
                figure = PAPER[model][norm]
                median += f" ({format_distance(figure.median, norm)})"
                accuracy += f" ({figure.accuracy:.0%})"
            cells += [median, accuracy]
        table.add_row(model, *cells)
    return table


def attack_table(result: AttackResult, norm: Norm, title: str) -> Table:
    """The distances that one run of attacks found, at the paper's threshold and the quartiles."""
    threshold = THRESHOLDS.get(norm)
    distances = result.distances.cpu().sort().values
    table = Table(title=f"{title}: distances of the adversarials found (upper bounds)")
    cells = {"images": str(len(distances)), "fooled": f"{float(result.success.double().mean()):.0%}"}
    for name, fraction in (("quarter", 0.25), ("median", 0.5), ("three quarters", 0.75)):
        value = float(distances[min(len(distances) - 1, int(fraction * len(distances)))])
        cells[f"{NAMES[norm]} {name}"] = format_distance(value, norm)
    if threshold is not None:
        cells[f"accuracy at {threshold:g}"] = f"{summarize(distances, threshold).accuracy:.0%}"
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    return table


def check_adversarials(path: Path) -> None:
    """Sees that adversarials can be written to ``path``.

    Raises:
        AbsynthError: If it does not end in .npz.
    """
    if path.suffix != ".npz":
        raise AbsynthError(f"'{path.name}' names no format for adversarials; end it in .npz.")


def write_adversarials(path: Path, result: AttackResult, labels: Labels, indices: Sequence[int]) -> None:
    """Writes adversarials, distances, labels and the images' indices as a numpy archive."""
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            adversarials=result.adversarials.cpu().numpy(),
            distances=result.distances.cpu().numpy(),
            labels=labels.numpy(),
            indices=np.array(indices),
        )
