"""``absynth demo``: serves a page to draw on."""

from __future__ import annotations

from typing import Annotated

import typer

from absynth.cli.options import Data


def demo(
    host: Annotated[
        str, typer.Option(envvar="GRADIO_SERVER_NAME", help="Address to listen at; 0.0.0.0: all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="GRADIO_SERVER_PORT", min=1, max=65535, help="Port to listen at.")
    ] = 7860,
    model: Annotated[
        str | None,
        typer.Option(
            help="An ABS or codebook ABS, in place of the shipped models; or any other classifier of digits, "
            "such as my_file.py:make, beside them."
        ),
    ] = None,
    data: Data = None,
) -> None:
    """Serve a page: draw something, and see what ABS makes of it and what is proven about it."""
    from absynth.demo.server import serve

    print("Loading the models, which takes about half a minute ...", flush=True)
    page = serve(host, port, model, data)
    print(f"Open {page.local_url} (stop with Ctrl+C)", flush=True)
    page.block_thread()
