"""A place that cannot be written is told before any work is done for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from absynth.errors import AbsynthError
from absynth.files import check_folder, check_writable, write_text

Fails = Callable[..., str]

ATTACK = ("attack", "--model", "no-such-model", "-n", "1")
BENCH = ("bench", "--model", "no-such-model", "--out", "results")


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file, and a folder; none of the commands has a model to work with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.py").write_text("")
    (tmp_path / "a.md").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        (*ATTACK, "--out", "one.py/x.npz"),
        (*ATTACK, "--png", "one.py"),
        (*ATTACK, "--png", "one.py/p"),
        (*BENCH, "--markdown", "one.py/x.md"),
        ("bench", "--model", "no-such-model", "--out", "one.py/results"),
        ("certify", "--model", "no-such-model", "--out", "one.py/x.csv"),
        ("certify", "--model", "no-such-model", "--plot", "one.py/x.png"),
        ("distal", "--model", "no-such-model", "--out", "one.py/r"),
        ("audit", "--model", "no-such-model", "--out", "one.py/r"),
        ("train", "abs", "--data", "no-such-data", "--out", "one.py/r"),
        ("export", "no-such-model", "one.py/x.onnx"),
    ],
    ids=lambda command: f"{command[0]} {command[-2]}",
)
def test_a_file_where_a_folder_belongs_is_told_first(command: tuple[str, ...], fails: Fails) -> None:
    assert "one.py is a file; " in fails(*command)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it needs a folder that takes no files")
@pytest.mark.parametrize("command", [(*ATTACK, "--png", "/proc/p"), (*BENCH, "--markdown", "/proc/x.md")])
def test_a_folder_that_takes_no_files_is_told_first(command: tuple[str, ...], fails: Fails) -> None:
    assert f"{command[-1]} cannot be written (" in fails(*command)


def test_a_folder_is_no_name_for_a_file(here: Path, fails: Fails) -> None:
    (here / "x.npz").mkdir()
    assert "x.npz is a folder; name a file." in fails(*ATTACK, "--out", "x.npz")


def test_results_need_a_name(here: Path, fails: Fails) -> None:
    for name in ("", " "):
        assert "The folder of the results has no name" in fails(*BENCH[:-1], name)
    assert names(here) == ["a.md", "one.py"]


def test_trying_leaves_nothing_behind(here: Path) -> None:
    check_writable(here / "new" / "deep" / "x.csv")
    check_folder(here / "new")
    check_writable(here / "one.py")
    check_folder(here / "a.md")
    assert names(here) == ["a.md", "one.py"]
    assert not any((here / "a.md").iterdir())


def test_writing_says_which_file_is_in_the_way(here: Path) -> None:
    for destination in (here / "one.py" / "x.txt", here / "one.py" / "deep" / "x.txt"):
        with pytest.raises(AbsynthError, match=r"cannot be written, as .*one\.py is a file; "):
            write_text(destination, "text")


def test_a_report_needs_attacks(here: Path, fails: Fails) -> None:
    (here / "results" / "clean").mkdir(parents=True)
    (here / "results" / "clean" / "1.json").write_text("{}")
    assert "results holds clean accuracies alone; attack the models as well" in fails("report", "results")
