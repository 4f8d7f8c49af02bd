"""Consoles that cannot show every character get every result all the same."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from absynth.cli import main

CONSTANT = """
import torch
from torch import nn

class Constant(nn.Module):
    def forward(self, images):
        return torch.tensor([[1.0, 0.5]]).repeat(len(images), 1) + 0 * images.flatten(1).sum(1, keepdim=True)

def make():
    return Constant()
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp932", "utf-8", "koi8-r"])
def test_an_infinite_distance_and_any_name_are_shown(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "猫.py").write_text(CONSTANT)
    images = np.random.default_rng(0).random((4, 16, 16)).astype("f4")
    names = ["一つ", "naïve ∞"]
    np.savez(tmp_path / "zeros.npz", images=images, labels=np.zeros(4, int), class_names=names)
    monkeypatch.chdir(tmp_path)
    command = ["attack", "--model", "猫.py:make", "--data", "zeros.npz", "--norm", "l0", "-n", "2"]
    monkeypatch.setattr(sys, "argv", ["absynth", *command, "--quiet"])
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    for stream in streams:
        stream.flush()
    shown = streams[0].buffer.getvalue().decode(encoding)
    holds = {"cp932": "猫", "utf-8": "猫"}.get(encoding, "\\u732b")
    assert f"{holds}.py" in shown.replace("\n", "")
    assert ("∞" if encoding in ("utf-8", "cp932") else "inf") in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it needs a device that is always full")
def test_output_that_cannot_be_written_is_told_in_one_sentence() -> None:
    code = "from absynth.cli import main; import sys; sys.argv = ['absynth', 'certify', '--help']; main()"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    sentence = "Error: The output cannot be written (No space left on device); send it where there is room."
    assert ended.stderr.strip() == sentence
