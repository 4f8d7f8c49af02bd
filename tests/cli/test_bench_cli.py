"""The bench command as a user meets it: own models and data, its status, kills and mistakes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import absynth
from absynth.cli import main
from absynth.models.cnn import CNN

MODEL = """
import time
import torch
from torch import nn

class Brightness(nn.Module):
    def __init__(self, pause):
        super().__init__()
        self.pause = pause

    def forward(self, images):
        time.sleep(self.pause)
        mean = images.flatten(1).mean(1)
        return torch.stack([0.1 - mean, mean - 0.1], dim=1)

def make_model():
    return Brightness(0.0)

def make_slow():
    return Brightness(0.01)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a user's file of models and a data set of two classes."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_file.py").write_text(MODEL)
    images, _ = absynth.load_dataset("mnist", "test")
    chosen = images[:40, 0].numpy()
    labels = (chosen.mean(axis=(1, 2)) > 0.1).astype(np.int64)
    np.savez(folder / "two.npz", images=(chosen * 255).astype(np.uint8), labels=labels)
    return folder


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    status: int
    output: str
    errors: str


@pytest.fixture
def bench(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process, in the user's folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")

    def bench(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["absynth", "bench", *arguments, "--quiet"])
        with pytest.raises(SystemExit) as raised:
            main()
        return Outcome(int(raised.value.code or 0), *capsys.readouterr())

    return bench


def test_a_users_model_on_a_users_data(bench: Any, tmp_path: Path) -> None:
    out, report = tmp_path / "results", tmp_path / "table.md"
    options = ("--model", "my_file.py:make_model", "--data", "two.npz", "-n", "5", "--out", str(out))
    before = bench("status", *options)
    assert (before.status, "not known" in before.output, out.exists()) == (0, True, False)
    thresholds = ("--thresholds", "l2=0.25,0.5", "--thresholds", "linf=0.05")
    result = bench(*options, *thresholds, "--details", "--markdown", str(report))
    assert result.status == 0
    for text in ("my_file.py:make_model", "100.00%", "at 0.25", "at 0.5", "at 0.05", "ddn", "all"):
        assert text in result.output
    assert "at 12" not in result.output, "the paper's thresholds are for MNIST"
    assert "clean accuracy on 40 test images of two.npz, 5 of them attacked" in result.output
    assert "| my_file.py:make_model | 5 |" in report.read_text()
    assert "at 0.25 | at 0.5 |" in report.read_text()
    after = bench("--preset", "quick", "status", *options)
    assert (after.status, "not known" in after.output) == (0, False)


def test_saved_folders_and_names_side_by_side(bench: Any, tmp_path: Path) -> None:
    CNN(2).save_pretrained(tmp_path / "saved")
    models = ("--model", str(tmp_path / "saved"), "--model", "cnn")
    result = bench("--preset", "clean", *models, "--data", "two.npz", "--out", str(tmp_path / "r"))
    assert result.status == 0
    assert "cnn" in result.output
    assert "40 test images" in result.output


def test_a_killed_command_resumes_to_the_same_bytes(
    folder: Path,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tomllib", reason="reading TOML takes Python 3.11")
    config = tmp_path / "small.toml"
    config.write_text(
        'models = ["my_file.py:make_model", "my_file.py:make_slow"]\n'
        'dataset = "two.npz"\nimages = 6\nshard = 2\nclean_images = 20\n'
        'attacks = {l2 = ["fgm", "bim"], linf = ["pgd"]}\n'
    )
    command = ("bench", "--config", str(config), "--quiet", "--out")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "absynth.cli", *command, str(killed)], cwd=folder)
    while process.poll() is None and len(list(killed.glob("records/[!.]*"))) < 11:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 11 <= len(list(killed.glob("records/[!.]*"))) < 18
    monkeypatch.chdir(folder)
    for out in (killed, whole):
        monkeypatch.setattr(sys, "argv", ["absynth", *command, str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert contents(killed) == contents(whole)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "missing.py:make_model"), "missing.py cannot be read"),
        (("--model", "my_file.py:make"), "has no function 'make'"),
        (("statsu",), "There is no 'bench statsu'"),
        (("--preset", "quik"), "There is no preset 'quik'"),
        (("--preset", "quick", "--config", "a.toml"), "give one of them"),
        (("--model", "cnn", "--markdown", "table.txt"), "end it in .md"),
        (("--model", "cnn", "--thresholds", "1.5"), "gives no thresholds"),
        (("--model", "cnn", "--data", "two.npz", "-n", "41"), "the data set has 40"),
        (("--model", "my_file.py:make_model", "-n", "5"), "the model has the classes 0 to 1"),
    ],
)
def test_a_mistake_ends_with_one_line(
    bench: Any, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    result = bench(*arguments, "--out", str(tmp_path / "r"))
    assert result.status == 2
    assert result.output == ""
    assert sentence in result.errors
    assert "Traceback" not in result.errors
    assert len(result.errors.splitlines()) == 1
