"""``absynth audit``: tries to refute certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import Data, Model, Quiet, Seed


def audit(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="Several with commas.")] = "l2,l1,linf,l0",
    suite: Annotated[
        str, typer.Option(help="Of attacks: quick, broad, strong, paper, extra or every.")
    ] = "quick",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 100,
    points: Annotated[int, typer.Option(min=0, help="Random points of certified balls, a norm.")] = 10_000,
    seed: Seed = 0,
    method: Annotated[
        str | None, typer.Option(help="Of certifying, as crown or smoothing; by default the best.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, as sigma=0.5; repeatable.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the results; a run goes on from what is there.")
    ] = Path("results/audit"),
    quiet: Quiet = False,
) -> None:
    """Try to refute certificates with every attack and with points of their balls; fails if one is."""
    from absynth.cli.steps import parse_method, parse_norms
    from absynth.evaluate.audit import audit as run
    from absynth.evaluate.data import choose_data
    from absynth.evaluate.models import load_classifier
    from absynth.files import check_folder
    from absynth.progress import progress_display
    from absynth.report.certificates import audit_table
    from absynth.report.terminal import show_table

    check_folder(out)
    norms, chosen = parse_norms(norm), parse_method(method, settings or [])
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
            load_model=load_classifier,
            method=chosen,
        )
    show_table(audit_table(audits, f"{model}, suite '{suite}', seed {seed}"))
    if any(entry.refuted for entry in audits):
        raise SystemExit(1)
