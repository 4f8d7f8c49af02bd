"""``absynth distal``: changes noise until a model is sure of a class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import Quiet, Seed


def distal(
    model: Annotated[
        list[str] | None, typer.Option(help="By default cnn, madry and abs; repeatable.")
    ] = None,
    target: Annotated[int, typer.Option(help="The class to see in noise.")] = 1,
    count: Annotated[int, typer.Option("-n", min=1, help="How many images a model.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Of the ascent, at most.")] = 100,
    gradient: Annotated[str, typer.Option(help="exact or estimated.")] = "exact",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Result folder, from which the report draws them.")] = Path(
        "results/quick"
    ),
    quiet: Quiet = False,
) -> None:
    """Change noise until a model is sure that it shows a class, and ask the other models about it."""
    from absynth.evaluate.distal import find_distal, write_distal
    from absynth.files import check_folder
    from absynth.progress import progress_display
    from absynth.report.tables import distal_table
    from absynth.report.terminal import show_table
    from absynth.zoo import load

    check_folder(out)
    models = {name: load(name) for name in model or ("cnn", "madry", "abs")}
    with progress_display(not quiet) as progress:
        found = find_distal(
            models, target=target, count=count, steps=steps, gradient=gradient, seed=seed, progress=progress
        )
    write_distal(found, out)
    show_table(distal_table(found))
