"""``absynth attack``: looks for the smallest changes that flip the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import AllowRandom, Budget, Data, Draws, Quiet, Seed, Strict
from absynth.errors import AbsynthError


def attack(
    model: Annotated[
        str, typer.Option(help="A model's name, a saved folder, user/name on the Hub, or my_file.py:make.")
    ] = "abs",
    norm: Annotated[str, typer.Option(help="l2, l1, linf or l0.")] = "l2",
    suite: Annotated[
        str | None,
        typer.Option(
            help="quick, broad, strong, paper, extra or every; by default quick, or none with --attack."
        ),
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option("--attack", help="Your own, as my_file.py:my_attack; repeatable."),
    ] = None,
    budget: Budget = None,
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 20,
    strict: Strict = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Adversarials, distances, labels and indices as .npz.")
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(min=1, help="Adversarials of pixels that are multiples of 1/GRID, as 255 for 8 bits."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Folder for the adversarials as pictures of 8 bits; implies --grid 255."),
    ] = None,
    allow_random: AllowRandom = False,
    draws: Draws = None,
    quiet: Quiet = False,
) -> None:
    """Look for the smallest changes that flip the decision: upper bounds on robustness."""
    from absynth.attacks import attack as run
    from absynth.attacks.averaged import DRAWS
    from absynth.attacks.grid import EIGHT_BITS
    from absynth.cli.steps import draw_sample, read_data, show_remarks
    from absynth.evaluate.attacks import attacks_for
    from absynth.evaluate.data import choose_data
    from absynth.evaluate.models import load_classifier
    from absynth.files import check_folder
    from absynth.norms import parse_norm
    from absynth.progress import progress_display
    from absynth.report.tables import (
        attack_table,
        check_adversarials,
        write_adversarials,
        write_pictures,
    )
    from absynth.report.terminal import show_table

    chosen_norm = parse_norm(norm)
    if out is not None:
        check_adversarials(out)
    if png is not None:
        check_folder(png)
    if png is not None and EIGHT_BITS % (grid or EIGHT_BITS):
        raise AbsynthError(
            f"A picture has 8 bits; with --png, give a --grid that divides 255 in place of {grid}."
        )
    if suite is None and not own:
        suite = "quick"
    attacks = attacks_for(own, chosen_norm, budget) if own else None
    data = choose_data([model], data)
    dataset = read_data(model, data, "test", strict=strict)
    sample = draw_sample(dataset, count, seed)
    with progress_display(not quiet) as progress:
        result = run(
            load_classifier(model, dataset.domain.size),
            sample.images,
            sample.labels,
            chosen_norm,
            suite,
            attacks=attacks,
            budget=None if own else budget,
            seed=seed,
            progress=progress,
            allow_random=allow_random,
            draws=DRAWS if draws is None else draws,
            grid=EIGHT_BITS if png is not None and grid is None else grid,
        )
    parts = (*((f"suite '{suite}'",) if suite else ()), *(one.name for one in attacks or ()))
    show_table(attack_table(result, chosen_norm, f"{model}, {', '.join(parts)}, seed {seed}", data))
    show_remarks(result.remarks)
    if png is not None:
        write_pictures(png, result, sample.labels, sample.rows)
    if out is not None:
        write_adversarials(out, result, sample.labels, sample.rows, dataset.class_names)
