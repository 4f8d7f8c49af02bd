"""``absynth data``: gets data sets."""

from __future__ import annotations

from typing import Annotated

import typer

data_app = typer.Typer(help="Get data sets.", no_args_is_help=True)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="mnist, fashion-mnist or kmnist.")],
) -> None:
    """Download a data set, verified by its hashes, into the cache."""
    from absynth.data import fetch

    print(fetch(name))
