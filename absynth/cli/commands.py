"""All commands together, and what becomes of an error."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from absynth import __version__
from absynth.cli.attack import attack
from absynth.cli.audit import audit
from absynth.cli.bench import bench
from absynth.cli.certify import certify
from absynth.cli.check_proof import check_proof
from absynth.cli.classify import classify
from absynth.cli.data import data_app
from absynth.cli.demo import demo
from absynth.cli.distal import distal
from absynth.cli.export import export
from absynth.cli.report import report
from absynth.cli.speed import speed
from absynth.cli.streams import close_output, make_streams_forgiving
from absynth.cli.train import train
from absynth.errors import AbsynthError, FailedTasksError

app = typer.Typer(
    name="absynth",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
for command in (
    *(train, classify, certify, check_proof, attack, audit),
    *(speed, bench, report, distal, export, demo),
):
    app.command()(command)


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"absynth {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Robust, provably robust image classification by analysis by synthesis."""


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What goes wrong where standard output is a file on a full disk."""


INTERRUPTED = 130
"""The exit status after Ctrl-C."""


def _tell(message: str) -> None:
    Console(stderr=True).print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True, highlight=False)


def _tell_interruption() -> None:
    print("Interrupted; run the same command again, what it finished and wrote is kept.", file=sys.stderr)


def main() -> None:
    """Runs the command line; a mistake of the user's ends with one line and status 2, failed tasks with 1."""
    make_streams_forgiving()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except AbsynthError as error:
        _tell(str(error))
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        close_output()
        _tell(f"The output cannot be written ({error.strerror}); send it where there is room.")
        raise SystemExit(2) from None
    except FailedTasksError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _tell_interruption()
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what typer makes of Ctrl-C in a command
            _tell_interruption()
        raise
