"""A benchmark killed at any moment, or run twice at once, ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("small_benchmark.py")
TASKS = 40

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the children of this test are forked")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("stores")
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "whole"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), folder


def test_a_killed_run_resumes_to_the_same_bytes(
    outcome: tuple[dict[str, Any], Path], contents: Callable[[Path], dict[str, bytes]]
) -> None:
    story, folder = outcome
    assert story["first"] == 0
    assert story["exits"] == [0]
    unfinished = [tasks for tasks in story["after"] if tasks < TASKS]
    assert len(unfinished) >= 3
    assert len(set(unfinished)) >= 3
    assert contents(folder / "killed") == contents(folder / "whole")


def test_two_runs_at_once_leave_the_store_of_one(
    outcome: tuple[dict[str, Any], Path], contents: Callable[[Path], dict[str, bytes]]
) -> None:
    story, folder = outcome
    assert story["together"] == [0, 0]
    assert contents(folder / "together") == contents(folder / "whole")


def test_the_store_is_complete(
    outcome: tuple[dict[str, Any], Path], contents: Callable[[Path], dict[str, bytes]]
) -> None:
    files = contents(outcome[1] / "whole")
    kinds = [name.partition("/")[0] for name in files]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "records": TASKS,
        "adversarials": TASKS,
        "backwards": TASKS,
        "clean": 2,
        "smallest": 6,
    }
