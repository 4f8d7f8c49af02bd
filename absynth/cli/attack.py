"""``absynth attack``: looks for the smallest changes that flip the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from absynth.cli.options import Data, Model, Quiet, Seed, Strict


def attack(
    model: Model = "abs",
    norm: Annotated[str, typer.Option(help="l2, l1, linf or l0.")] = "l2",
    suite: Annotated[str, typer.Option(help="quick, broad, strong, paper or extra.")] = "quick",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 20,
    strict: Strict = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Adversarials, distances, labels and indices as .npz.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look for the smallest changes that flip the decision: upper bounds on robustness."""
    from absynth.attacks import attack as run
    from absynth.cli.steps import draw_sample, read_data
    from absynth.evaluate.data import choose_data
    from absynth.norms import parse_norm
    from absynth.progress import progress_display
    from absynth.report.tables import attack_table, check_adversarials, write_adversarials
    from absynth.zoo import load

    chosen_norm = parse_norm(norm)
    if out is not None:
        check_adversarials(out)
    data = choose_data([model], data)
    dataset = read_data(model, data, "test", strict=strict)
    sample = draw_sample(dataset, count, seed)
    with progress_display(not quiet) as progress:
        result = run(
            load(model), sample.images, sample.labels, chosen_norm, suite, seed=seed, progress=progress
        )
    Console().print(attack_table(result, chosen_norm, f"{model}, suite '{suite}', seed {seed}", data))
    if out is not None:
        write_adversarials(out, result, sample.labels, sample.rows, dataset.class_names)
