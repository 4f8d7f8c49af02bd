"""Serves the page at an address."""

from __future__ import annotations

from absynth.demo.loading import load_examiner
from absynth.demo.page import APPEARANCE, Page, build_page
from absynth.errors import AbsynthError

LARGEST_UPLOAD = "20mb"
"""More than a phone's photograph has."""


def serve(host: str, port: int, model: str | None = None, data: str | None = None) -> Page:
    """Starts the page in the background; ``block_thread`` of what is returned waits until it is stopped.

    Args:
        host: Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 for all that reach it.
        port: Port to listen at.
        model: As for :func:`absynth.demo.loading.load_examiner`.
        data: As for :func:`absynth.demo.loading.load_examiner`.

    Raises:
        AbsynthError: As for :func:`absynth.demo.loading.load_examiner`, or if the port is taken or there is
            no such address.
    """
    page = build_page(load_examiner(model, data))
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            ssr_mode=False,
            prevent_thread_lock=True,
            max_file_size=LARGEST_UPLOAD,
            **APPEARANCE,
        )
    except OSError:
        raise AbsynthError(
            f"The page cannot be served at {host}:{port}; free that port, or choose with --host and --port."
        ) from None
    return page
