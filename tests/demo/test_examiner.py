"""What the page answers and proves, without a page."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import absynth
from absynth.data.sketch import PREFIX
from absynth.demo.examiner import Answer, Examiner
from absynth.norms import NORMS


def data_url(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return PREFIX + base64.b64encode(buffer.getvalue()).decode()


def refusal(answer: Answer) -> str:
    """The sentence that stands on the page instead of an answer."""
    assert (answer.verdict, answer.reconstructions, answer.subject) == ("", "", None)
    assert 'class="notice error"' in answer.notice
    return answer.notice


def test_a_test_image_is_answered_at_once(examiner: Examiner) -> None:
    answer = examiner.choose(0)
    assert answer.notice == ""
    assert "labelled 7" in answer.verdict
    assert '<p class="digit">7</p>' in answer.verdict.split('class="cnn"')[1]
    assert answer.reconstructions.count("<img") == 10
    assert torch.equal(answer.subject.image, examiner.images[:1])


@pytest.mark.parametrize("number", [None, -1, 10_000, 1.5, math.nan, math.inf])
def test_a_number_without_an_image_is_refused(examiner: Examiner, number: float | None) -> None:
    assert "0 to 9999" in refusal(examiner.choose(number))


def test_a_random_test_image_exists(examiner: Examiner) -> None:
    assert examiner.draw_lot() in range(10_000)


def test_a_drawing_is_answered(examiner: Examiner) -> None:
    digit = np.kron(255 - (255 * examiner.images[0, 0].numpy()).astype(np.uint8), np.ones((10, 10), np.uint8))
    answer = examiner.draw(data_url(digit))
    assert answer.notice == ""
    assert '<p class="digit">7</p>' in answer.verdict.split('class="cnn"')[1]
    assert answer.subject.image.shape == (1, 1, 28, 28)


def test_a_picture_that_is_taken_away_leaves_the_first_page(examiner: Examiner) -> None:
    answer = examiner.upload(None)
    assert (answer.notice, answer.verdict, answer.subject) == (examiner.welcome, "", None)


@pytest.mark.parametrize("sketch", [None, "", 5])
def test_an_empty_sheet_is_invited_to_be_drawn_on(examiner: Examiner, sketch: object) -> None:
    answer = examiner.draw(sketch)
    assert "Draw a digit" in answer.notice
    assert (answer.verdict, answer.reconstructions, answer.subject) == ("", "", None)


def test_a_drawing_without_ink_or_sense_is_refused(examiner: Examiner) -> None:
    assert "shows no ink" in refusal(examiner.draw(data_url(np.full((280, 280), 255, np.uint8))))
    assert "shows no ink" in refusal(examiner.draw(data_url(np.full((1, 1), 255, np.uint8))))
    assert "reload the page" in refusal(examiner.draw("<svg onload=alert(1)>"))


def test_a_picture_is_answered_whatever_its_size(examiner: Examiner, tmp_path: Path) -> None:
    digit = (255 * examiner.images[0, 0].numpy()).astype(np.uint8)
    Image.fromarray(digit).resize((640, 480)).save(tmp_path / "digit.jpg")
    answer = examiner.upload(str(tmp_path / "digit.jpg"))
    assert answer.notice == ""
    assert '<p class="digit">7</p>' in answer.verdict.split('class="cnn"')[1]


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
    (proof,) = examiner.prove(None)
    assert dataclasses.astuple(proof) == ("", "", None, "")
    assert examiner.step(None, 50) == ""


def test_the_proofs_are_those_of_the_library_and_come_one_by_one(examiner: Examiner) -> None:
    subject = examiner.choose(0).subject
    proofs = list(examiner.prove(subject))
    assert [proof.certificates.count("being proven") for proof in proofs] == [4, 3, 2, 1, 0]
    assert all(proof.change is None for proof in proofs[:-1])
    shown = re.findall(r'class="radius">([\d.]+)', proofs[-1].certificates)
    for norm, figure in zip(("l0", "linf", "l1", "l2"), shown, strict=True):
        question = (examiner.codebook, subject.image, subject.codebook_label, norm)
        radius = absynth.certify(*question, exact=norm == "l2").radius
        assert 0 <= float(radius) - float(figure) < {"linf": 0.001, "l0": 1}.get(norm, 0.01)
    assert set(NORMS) == {"l0", "linf", "l1", "l2"}


def test_the_slider_goes_from_the_image_to_one_that_flips_the_codebook(examiner: Examiner) -> None:
    subject = examiner.choose(0).subject
    *_, proof = examiner.prove(subject)
    label = int(subject.codebook_label)
    assert f"from {label} to" in proof.sentence
    assert proof.pictures == examiner.step(proof.change, 0)
    assert f"codebook: <b>{label}, as before" in proof.pictures
    assert f"flipped from {label}" in examiner.step(proof.change, 100)
    radius = absynth.certify(examiner.codebook, subject.image, subject.codebook_label, "l2").radius
    assert float(radius) <= float((proof.change.adversarial - subject.image).double().norm())


@pytest.mark.parametrize("percent", [None, -1, 101, math.nan])
def test_the_slider_has_two_ends(examiner: Examiner, percent: float | None) -> None:
    *_, proof = examiner.prove(examiner.choose(0).subject)
    assert examiner.step(proof.change, percent) == ""
