"""A command that is killed, or finds the disk full, loses nothing and goes on to the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("stopped_commands.py")
COMMANDS = ("train", "certify", "bench", "download", "attack")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the children of this test are forked")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("stopped"))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ABSYNTH_CODEBOOK_CACHE": "0"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_kill_9_at_any_write_loses_nothing_and_the_command_goes_on_to_the_same_files(
    name: str, stories: dict[str, dict[str, Any]]
) -> None:
    story = stories[name]
    assert story["first"] == [0, ""]
    assert story["files"]
    assert story["kills"] >= 4
    assert story["lost"] == story["torn"] == []
    assert story["killed"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_in_one_sentence_and_nothing_is_half_written(
    name: str, stories: dict[str, dict[str, Any]]
) -> None:
    status, said = stories[name]["full"]
    assert status == 2
    assert "cannot be written" in said
    assert "File too large" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert stories[name]["left"] == []
    assert stories[name]["again"] == [0, ""]
    assert stories[name]["same"]
