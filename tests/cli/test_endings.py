"""How commands end that are interrupted, or are asked for nothing but the version."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import absynth
from absynth.cli import main

INTERRUPTED_WHERE = {
    "in a command": "import absynth.zoo as z; z.load = z.model_folder = lambda *_: signal.raise_signal(2)",
    "while it is imported": "sys.meta_path.insert(0, type('F', (), {'find_spec': staticmethod(find)}))",
}
PROGRAM = """
import signal, sys

def find(name, path=None, target=None):
    if name == "absynth.cli.train":
        signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where tests run in the background
{where}
from absynth.cli import main
main()
"""


@pytest.mark.parametrize("where", INTERRUPTED_WHERE)
def test_ctrl_c_is_told_in_one_line(where: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(where=INTERRUPTED_WHERE[where]))
    ended = subprocess.run(
        [sys.executable, str(program), "export", "codebook-abs", "model.onnx"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(absynth.__file__).parents[1])},
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("Interrupted")


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_the_version_is_shown_and_the_handler_of_ctrl_c_is_as_it_was(
    handler: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["absynth", "--version"])
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ended.value.code
    assert capsys.readouterr().out == f"absynth {absynth.__version__}\n"
