"""``absynth speed``: measures how many images a second are certified."""

from __future__ import annotations

from typing import Annotated

import typer

from absynth.cli.options import Data, Model, Seed
from absynth.errors import AbsynthError


def speed(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="Several with commas.")] = "l2,l1,linf,l0",
    prototypes: Annotated[str, typer.Option(help="Prototypes a class, several with commas.")] = "2000,8000",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 100,
    seed: Seed = 0,
) -> None:
    """Measure how many images a second are certified, by norm and size of the codebook."""
    from absynth.cli.steps import draw_sample, parse_norms
    from absynth.evaluate.data import choose_data, read_for
    from absynth.evaluate.speed import certificate_speed
    from absynth.report.certificates import speed_table
    from absynth.report.terminal import show_table
    from absynth.zoo import load

    norms = parse_norms(norm)
    try:
        sizes = [int(size) for size in prototypes.split(",")]
    except ValueError:
        raise AbsynthError(f"'{prototypes}' is no list of numbers; give for example 2000,8000.") from None
    dataset = read_for([model], choose_data([model], data), "test")
    sample = draw_sample(dataset, count, seed)
    speeds = certificate_speed(load(model), sample.images, sample.labels, norms=norms, sizes=sizes, seed=seed)
    show_table(speed_table(list(speeds), f"{model}, {count} test images, seed {seed}"))
