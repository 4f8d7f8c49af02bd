"""The page and its server, without a browser."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

from absynth.demo import server
from absynth.demo.examiner import Examiner
from absynth.demo.page import answering, build_page, proving
from absynth.errors import AbsynthError

ROOT = Path(__file__).parents[2]


def test_an_answer_fills_the_parts_of_the_page_in_their_order(examiner: Examiner) -> None:
    message, verdict, copies, subject = answering(examiner.choose)(0)
    assert message == ""
    assert "labelled 7" in verdict
    assert copies.count("<img") == 10
    assert subject.image.shape == (1, 1, 28, 28)
    message, *rest = answering(examiner.choose)(-1)
    assert "0 to 9999" in message
    assert rest == ["", "", None]


def test_the_slider_is_seen_once_there_is_an_adversarial(examiner: Examiner) -> None:
    *earlier, last = proving(examiner)(examiner.choose(0).subject)
    assert len(earlier) == 4
    assert all(change is None and not slider.visible for _, _, change, slider, _ in earlier)
    proofs, sentence, change, slider, pictures = last
    assert slider.visible and slider.value == 0
    assert "What is proven" in proofs
    assert "The smallest change" in sentence
    assert pictures == examiner.step(change, 0)
    ((*texts, slider, pictures),) = proving(examiner)(None)
    assert (*texts, pictures) == ("", "", None, "")
    assert slider.visible is False


def test_the_page_tells_nobody_and_loads_no_fonts(examiner: Examiner) -> None:
    async def build() -> gr.Blocks:
        return build_page(examiner)

    # Without a running event loop gradio opens one of its own and leaves it open.
    page = asyncio.run(build())
    assert page.analytics_enabled is False
    assert all(function.api_visibility != "public" for function in page.fns.values())


def test_a_taken_port_is_told_in_a_sentence(examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "load_examiner", lambda *_: examiner)

    def launch(*_: object, **options: object) -> None:
        assert (options["server_name"], options["server_port"]) == ("127.0.0.1", 7860)
        raise OSError("Cannot find empty port")

    monkeypatch.setattr(gr.Blocks, "launch", launch)

    async def serve() -> None:
        server.serve("127.0.0.1", 7860)

    with pytest.raises(AbsynthError, match=r"at 127\.0\.0\.1:7860; .*--port"):
        asyncio.run(serve())


def test_without_gradio_all_but_the_page_is_there_and_one_sentence_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None; sys.argv = ['absynth', 'demo']\n"
        "from absynth.demo.loading import load_examiner\n"
        "from absynth.cli import main\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'absynth[demo]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_space_installs_what_the_demo_needs() -> None:
    tomllib = pytest.importorskip("tomllib", reason="reading TOML takes Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    expected = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    assert [line for line in lines if not line.startswith("#")] == expected
