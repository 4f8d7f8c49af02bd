"""``absynth bench``: attacks models and shows how robust each is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import AllowRandom, Budget, Draws, EngineOptions, Quiet, spell_out
from absynth.errors import AbsynthError


@spell_out
def bench(
    action: Annotated[
        str | None,
        typer.Argument(
            metavar="[status|plan]",
            help="status: say how far it is; plan: how long it takes on more cores. Neither runs anything.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="quick (the default), standard, paper, attacks to rank attacks, or clean for clean accuracy."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file, in place of a preset.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A name, a saved folder or my_file.py:make_model, in place of all; repeatable."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="A named data set, or a path to one.")] = None,
    count: Annotated[int | None, typer.Option("-n", min=1, help="How many test images to attack.")] = None,
    certify: Annotated[
        int | None,
        typer.Option(min=0, help="How many of them to certify, of every model that has proofs; 0: none."),
    ] = None,
    thresholds: Annotated[
        list[str] | None, typer.Option(help="Where to give accuracy, as l2=0.5,1,1.5; repeatable.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the results, or a URL; by default results/PRESET. A run goes on from there."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own, besides the preset's: my_file.py:my_attack, or l2=my_file.py:my_attack for one "
            "norm; repeatable."
        ),
    ] = None,
    budget: Budget = None,
    certificates: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=FILE, exact radii that absynth certify --exact wrote as .parquet: show how near to "
            "these each attack comes; repeatable."
        ),
    ] = None,
    courses: Annotated[
        bool,
        typer.Option(
            "--courses", help="Keep how near each attack has come after how many passes, for the report."
        ),
    ] = False,
    details: Annotated[bool, typer.Option("--details", help="Show every attack by itself too.")] = False,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the figures as Markdown, on MNIST beside the paper's.")
    ] = None,
    allow_random: AllowRandom = False,
    draws: Draws = None,
    engine: EngineOptions = EngineOptions(),
    quiet: Quiet = False,
) -> None:
    """Attack models and show how robust each is; on MNIST beside the paper's figures."""
    from absynth.cli.steps import open_engine_and_progress, show_remarks
    from absynth.evaluate.config import adapt_preset, choose_preset
    from absynth.evaluate.runner import run_benchmark
    from absynth.evaluate.schedule import benchmark_schedule
    from absynth.evaluate.standings import standings
    from absynth.evaluate.status import benchmark_status
    from absynth.evaluate.store import ResultStore
    from absynth.progress import progress_display
    from absynth.report.markdown import check_markdown, write_markdown
    from absynth.report.results import check_certificates, read_certificates
    from absynth.report.standings import standing_tables
    from absynth.report.tables import (
        benchmark_table,
        detail_tables,
        lone_headers,
        schedule_table,
        status_table,
    )
    from absynth.report.terminal import show_table

    if action not in (None, "status", "plan"):
        raise AbsynthError(
            f"There is no 'bench {action}'; leave '{action}' out to run, or say 'status' or 'plan'."
        )
    chosen, name = choose_preset(preset, config)
    if markdown is not None:
        check_markdown(markdown)
    truth = read_certificates(certificates or ())
    folder = f"results/{name}" if out is None else out
    store = ResultStore(folder)
    chosen = adapt_preset(
        chosen,
        models=model or (),
        dataset=data,
        images=count,
        thresholds=thresholds or (),
        allow_random=allow_random,
        draws=draws,
        attacks=attack or (),
        budget=budget,
        certify_images=certify,
        courses=courses,
    )
    if action == "status":
        with progress_display(not quiet) as progress:
            statuses = benchmark_status(chosen, store, progress)
        show_table(status_table(statuses, folder))
        show_remarks(remark for status in statuses for remark in status.remarks)
        return
    if action == "plan":
        with progress_display(not quiet) as progress:
            schedule = benchmark_schedule(chosen, store, progress)
        show_table(schedule_table(schedule, folder))
        show_remarks(schedule.remarks)
        return
    with open_engine_and_progress(engine, quiet=quiet) as (opened, progress):
        result = run_benchmark(chosen, store, progress, engine=opened)
    check_certificates(certificates or (), result.weights, result.tasks[0].data if result.tasks else None)
    show_table(benchmark_table(result), lone_headers(result))
    for table in detail_tables(result) if details else ():
        show_table(table)
    for table in standing_tables(standings(result, truth)) if truth else ():
        show_table(table)
    if markdown is not None:
        write_markdown(markdown, result)
    show_remarks(result.remarks)
    print(f"Records and adversarial images: {store.location}")
    if result.refused or result.broken:
        raise AbsynthError(" ".join((*result.refused.values(), *result.broken)))
