"""``absynth classify`` answers for every readable picture, in order, and names the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from absynth.cli import app
from absynth.data import load_dataset

pytestmark = pytest.mark.usefixtures("shipped_once")

SUFFIXES = ("png", "jpg", "webp", "tiff", "bmp", "gif")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    images, _ = load_dataset("mnist", "test")
    for number, suffix in enumerate(SUFFIXES):
        digit = Image.fromarray((255 * images[number, 0]).byte().numpy())
        digit.resize((120, 120), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.{suffix}")
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def test_a_folder_is_read_in_order_whatever_its_formats(pictures: Path) -> None:
    labels = load_dataset("mnist", "test")[1][: len(SUFFIXES)].tolist()
    result = CliRunner().invoke(app, ["classify", str(pictures), "--model", "cnn", "--json"])
    assert result.exit_code == 0
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(one["image"]).name for one in answers] == [f"{n}.{s}" for n, s in enumerate(SUFFIXES)]
    assert [one["label"] for one in answers] == labels
    assert "1 file is passed over, as its name is not that of a picture: notes.txt" in result.stderr


def test_unreadable_pictures_are_named_and_the_others_answered(pictures: Path) -> None:
    (pictures / "torn.png").write_bytes((pictures / "0.png").read_bytes()[:200])
    (pictures / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    names = ["0.png", "torn.png", "phone.heic", "missing.png", "2.webp"]
    result = CliRunner().invoke(app, ["classify", *(str(pictures / one) for one in names), "--model", "cnn"])
    assert result.exit_code == 1
    first, last = result.stdout.splitlines()
    assert "0.png: 7, " in first
    assert "2.webp: 1, " in last
    torn, phone, missing = result.stderr.splitlines()
    assert "torn.png cannot be read as a picture" in torn
    assert "phone.heic is a HEIC or AVIF picture" in phone
    assert "convert it to JPEG" in phone
    assert "There is no file" in missing


def test_a_pattern_is_expanded(pictures: Path) -> None:
    result = CliRunner().invoke(app, ["classify", str(pictures / "*.gif"), "--model", "cnn"])
    assert result.exit_code == 0
    assert "5.gif: 1, " in result.stdout


def test_a_folder_or_pattern_without_pictures_is_named_and_the_others_answered(pictures: Path) -> None:
    (pictures / "empty").mkdir()
    names = [pictures / "0.png", pictures / "empty", pictures / "*.xyz", pictures / "2.webp"]
    result = CliRunner().invoke(app, ["classify", *map(str, names), "--model", "cnn"])
    assert result.exit_code == 1
    first, last = result.stdout.splitlines()
    assert "0.png: 7, " in first
    assert "2.webp: 1, " in last
    empty, pattern = result.stderr.splitlines()
    assert empty.endswith("empty holds no pictures; give a folder that does.")
    assert pattern.startswith("Nothing matches ") and pattern.endswith("give a pattern that pictures match.")


def test_several_digits_are_told_and_read_when_asked(tmp_path: Path) -> None:
    images, _ = load_dataset("mnist", "test")
    both = np.hstack([1 - images[4, 0].numpy(), 1 - images[1, 0].numpy()])
    np.save(tmp_path / "pair.npy", np.kron(both, np.ones((8, 8), np.float32)))
    arguments = ["classify", str(tmp_path / "pair.npy"), "--model", "certified-abs"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0
    assert "2 digits, where one is read; add --number" in told.stdout
    read = CliRunner().invoke(app, [*arguments, "--number", "--json"])
    answer = json.loads(read.stdout)
    assert answer["number"] == "42"
    assert all(one["l2_radius"] > 0 for one in answer["digits"])
