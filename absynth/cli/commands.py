"""All commands together, and what becomes of an error."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from absynth.cli.attack import attack
from absynth.cli.audit import audit
from absynth.cli.bench import bench
from absynth.cli.certify import certify
from absynth.cli.classify import classify
from absynth.cli.data import data_app
from absynth.cli.demo import demo
from absynth.cli.distal import distal
from absynth.cli.export import export
from absynth.cli.report import report
from absynth.cli.speed import speed
from absynth.cli.streams import make_streams_forgiving
from absynth.cli.train import train
from absynth.errors import AbsynthError, FailedTasksError

app = typer.Typer(
    name="absynth",
    help="Robust, provably robust image classification by analysis by synthesis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
for command in (train, classify, certify, attack, audit, speed, bench, report, distal, export, demo):
    app.command()(command)


def main() -> None:
    """Runs the command line; a mistake of the user's ends with one line and status 2, failed tasks with 1."""
    make_streams_forgiving()
    try:
        app()
    except AbsynthError as error:
        Console(stderr=True).print(
            f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False
        )
        raise SystemExit(2) from None
    except FailedTasksError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; run the same command again to go on.")
        raise SystemExit(130) from None
