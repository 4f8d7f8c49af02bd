"""Serving the page where a proxy is set: gradio asks past it, or one sentence says what to set."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from urllib.request import proxy_bypass

import pytest

from absynth.errors import AbsynthError

gradio = pytest.importorskip("gradio", reason="needs the extra 'demo'")

from absynth.demo import server  # noqa: E402


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serves a page that only notes what is set while it is launched, or fails."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    found = SimpleNamespace(direct=None, error=None)

    def launch(**_: object) -> None:
        found.direct = bool(proxy_bypass("127.0.0.1") and proxy_bypass("localhost"))
        if found.error is not None:
            raise found.error

    monkeypatch.setattr(server, "load_examiner", lambda *_: None)
    page = gradio.Blocks.__new__(gradio.Blocks)  # one that was made would start an event loop
    page.launch = launch
    monkeypatch.setattr(server, "build_page", lambda _: page)
    return found


@pytest.mark.parametrize("before", [None, "", "example.org"])
def test_the_page_is_asked_for_past_the_proxy(
    launched: Any, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    if before is not None:
        monkeypatch.setenv("no_proxy", before)
    assert not proxy_bypass("localhost")
    server.serve("127.0.0.1", 7860)
    assert launched.direct
    assert os.environ.get("no_proxy") == before
    assert "NO_PROXY" not in os.environ


def test_what_gradio_raises_of_a_proxy_is_one_sentence(
    launched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched.error = ValueError("When localhost is not accessible, a shareable link must be created.")
    with pytest.raises(ValueError, match="shareable link"):
        server.serve("127.0.0.1", 7860)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(AbsynthError, match=r"cannot be reached from here .* no_proxy=localhost,127\.0\.0\.1"):
        server.serve("127.0.0.1", 7860)
    launched.error = OSError("taken")
    with pytest.raises(AbsynthError, match="free that port"):
        server.serve("127.0.0.1", 7860)
