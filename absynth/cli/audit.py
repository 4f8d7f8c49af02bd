"""``absynth audit``: tries to refute certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from absynth.cli.options import Data, Model, Quiet, Seed


def audit(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="Several with commas.")] = "l2,l1,linf,l0",
    suite: Annotated[str, typer.Option(help="Of attacks: quick, broad, strong, paper or extra.")] = "quick",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 100,
    points: Annotated[int, typer.Option(min=0, help="Random points of certified balls, a norm.")] = 10_000,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of the results; a run goes on from what is there.")
    ] = Path("results/audit"),
    quiet: Quiet = False,
) -> None:
    """Try to refute certificates with every attack and with points of their balls; fails if one is."""
    from absynth.cli.steps import parse_norms
    from absynth.evaluate.audit import audit as run
    from absynth.evaluate.data import choose_data
    from absynth.progress import progress_display
    from absynth.report.certificates import audit_table

    norms = parse_norms(norm)
    with progress_display(not quiet) as progress:
        audits = run(
            model,
            norms=norms,
            suite=suite,
            count=count,
            points=points,
            out=out,
            progress=progress,
            dataset=choose_data([model], data),
            seed=seed,
        )
    Console().print(audit_table(audits, f"{model}, suite '{suite}', seed {seed}"))
    if any(entry.violations for entry in audits):
        raise SystemExit(1)
