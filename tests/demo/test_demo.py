"""What the page answers, without a browser."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

import absynth
from absynth import demo
from absynth.data.sketch import PREFIX
from absynth.demo import Examiner, build_page
from absynth.errors import AbsynthError
from absynth.norms import NORMS

ROOT = Path(__file__).parents[2]


def data_url(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return PREFIX + base64.b64encode(buffer.getvalue()).decode()


def refusal(answer: tuple) -> str:
    """The sentence that stands on the page instead of an answer."""
    message, verdict, reconstructions, subject = answer
    assert (verdict, reconstructions, subject) == ("", "", None)
    assert 'class="notice error"' in message
    return message


def test_a_test_image_is_answered_at_once(examiner: Examiner) -> None:
    message, verdict, reconstructions, subject = examiner.choose(0)
    assert message == ""
    assert "labelled 7" in verdict
    assert '<p class="digit">7</p>' in verdict.split('class="cnn"')[1]
    assert reconstructions.count("<img") == 10
    assert torch.equal(subject.image, examiner.images[:1])


@pytest.mark.parametrize("number", [None, -1, 10_000, 1.5, math.nan, math.inf])
def test_a_number_without_an_image_is_refused(examiner: Examiner, number: float | None) -> None:
    assert "0 to 9999" in refusal(examiner.choose(number))


def test_a_random_test_image_exists(examiner: Examiner) -> None:
    assert examiner.draw_lot() in range(10_000)


def test_a_drawing_is_answered(examiner: Examiner) -> None:
    digit = np.kron(255 - (255 * examiner.images[0, 0].numpy()).astype(np.uint8), np.ones((10, 10), np.uint8))
    message, verdict, _, subject = examiner.draw(data_url(digit))
    assert message == ""
    assert '<p class="digit">7</p>' in verdict.split('class="cnn"')[1]
    assert subject.image.shape == (1, 1, 28, 28)


@pytest.mark.parametrize("sketch", [None, ""])
def test_an_empty_sheet_is_invited_to_be_drawn_on(examiner: Examiner, sketch: str | None) -> None:
    message, verdict, reconstructions, subject = examiner.draw(sketch)
    assert "Draw a digit" in message
    assert (verdict, reconstructions, subject) == ("", "", None)


def test_a_drawing_without_ink_or_sense_is_refused(examiner: Examiner) -> None:
    assert "shows no ink" in refusal(examiner.draw(data_url(np.full((280, 280), 255, np.uint8))))
    assert "shows no ink" in refusal(examiner.draw(data_url(np.full((1, 1), 255, np.uint8))))
    assert "reload the page" in refusal(examiner.draw("<svg onload=alert(1)>"))


def test_a_picture_is_answered_whatever_its_size(examiner: Examiner, tmp_path: Path) -> None:
    digit = (255 * examiner.images[0, 0].numpy()).astype(np.uint8)
    Image.fromarray(digit).resize((640, 480)).save(tmp_path / "digit.jpg")
    message, verdict, _, _ = examiner.upload(str(tmp_path / "digit.jpg"))
    assert message == ""
    assert '<p class="digit">7</p>' in verdict.split('class="cnn"')[1]


def test_what_is_no_picture_is_refused_by_its_name_alone(examiner: Examiner, tmp_path: Path) -> None:
    (tmp_path / "<b>.png").write_text("no picture")
    np.save(tmp_path / "nan.npy", np.full((28, 28), np.nan, dtype=np.float32))
    np.save(tmp_path / "inf.npy", np.full((28, 28), np.inf, dtype=np.float32))
    Image.new("1", (8001, 8000)).save(tmp_path / "huge.png")
    np.save(tmp_path / "shape.npy", np.zeros((3, 4, 5), dtype=np.float32))
    np.save(tmp_path / "empty.npy", np.zeros((0, 28), dtype=np.float32))
    for name, words in (
        ("<b>.png", "&lt;b&gt;.png cannot be read as a picture"),
        ("nan.npy", "not finite"),
        ("inf.npy", "not finite"),
        ("huge.png", "is too large (8001x8000 pixels)"),
        ("shape.npy", "has the shape"),
        ("empty.npy", "is empty"),
        ("absent.png", "no file absent.png"),
    ):
        message = refusal(examiner.upload(str(tmp_path / name)))
        assert words in message
        assert str(tmp_path) not in message


def test_nothing_is_proven_of_nothing(examiner: Examiner) -> None:
    ((proofs, sentence, change, slider, pictures),) = examiner.prove(None)
    assert (proofs, sentence, change, pictures) == ("", "", None, "")
    assert slider.visible is False
    assert examiner.step(None, 50) == ""


def test_the_proofs_are_those_of_the_library_and_come_one_by_one(examiner: Examiner) -> None:
    *_, subject = examiner.choose(0)
    proofs = list(examiner.prove(subject))
    assert [page[0].count("being proven") for page in proofs] == [4, 3, 2, 1, 0]
    assert all(page[2] is None for page in proofs[:-1])
    shown = re.findall(r'class="radius">([\d.]+)', proofs[-1][0])
    for norm, figure in zip(("l0", "linf", "l1", "l2"), shown, strict=True):
        question = (examiner.codebook, subject.image, subject.codebook_label, norm)
        radius = absynth.certify(*question, exact=norm == "l2").radius
        assert 0 <= float(radius) - float(figure) < {"linf": 0.001, "l0": 1}.get(norm, 0.01)
    assert set(NORMS) == {"l0", "linf", "l1", "l2"}


def test_the_slider_goes_from_the_image_to_one_that_flips_the_codebook(examiner: Examiner) -> None:
    *_, subject = examiner.choose(0)
    *_, (_, sentence, change, slider, pictures) = examiner.prove(subject)
    assert slider.visible and slider.value == 0
    label = int(subject.codebook_label)
    assert f"from {label} to" in sentence
    assert pictures == examiner.step(change, 0)
    assert f"codebook: <b>{label}, as before" in pictures
    assert f"flipped from {label}" in examiner.step(change, 100)
    radius = absynth.certify(examiner.codebook, subject.image, subject.codebook_label, "l2").radius
    assert float(radius) <= float((change.adversarial - subject.image).double().norm())


@pytest.mark.parametrize("percent", [None, -1, 101, math.nan])
def test_the_slider_has_two_ends(examiner: Examiner, percent: float | None) -> None:
    *_, subject = examiner.choose(0)
    *_, (_, _, change, _, _) = examiner.prove(subject)
    assert examiner.step(change, percent) == ""


def test_the_page_tells_nobody_and_loads_no_fonts(examiner: Examiner) -> None:
    async def build() -> gr.Blocks:
        return build_page(examiner)

    # Without a running event loop gradio opens one of its own and leaves it open.
    page = asyncio.run(build())
    assert page.analytics_enabled is False
    assert all(function.api_visibility != "public" for function in page.fns.values())


def test_a_taken_port_is_told_in_a_sentence(examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "load_examiner", lambda *_: examiner)

    def launch(*_: object, **options: object) -> None:
        assert (options["server_name"], options["server_port"]) == ("127.0.0.1", 7860)
        raise OSError("Cannot find empty port")

    monkeypatch.setattr(gr.Blocks, "launch", launch)

    async def serve() -> None:
        demo.serve("127.0.0.1", 7860)

    with pytest.raises(AbsynthError, match=r"at 127\.0\.0\.1:7860; .*--port"):
        asyncio.run(serve())


def test_without_gradio_one_sentence_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None; sys.argv = ['absynth', 'demo']\n"
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
