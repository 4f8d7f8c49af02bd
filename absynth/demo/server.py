"""Serves the page at an address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import getproxies

from absynth.demo.loading import load_examiner
from absynth.demo.page import APPEARANCE, Page, build_page
from absynth.errors import AbsynthError, first_line

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
        with _past_any_proxy(host):
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
    except Exception as error:  # gradio asks its own page, and raises what comes of that
        if not getproxies():
            raise
        raise AbsynthError(
            f"The page at {host}:{port} cannot be reached from here ({first_line(error)}); leave this "
            "machine out of the proxy: set no_proxy=localhost,127.0.0.1."
        ) from None
    return page


@contextmanager
def _past_any_proxy(host: str) -> Iterator[None]:
    """While gradio asks for its own page at this machine, which no proxy can fetch for it."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    direct = ",".join(dict.fromkeys([*filter(None, before.values()), "localhost", "127.0.0.1", host]))
    os.environ.update(no_proxy=direct, NO_PROXY=direct)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
