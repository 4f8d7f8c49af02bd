"""No column of a table is lost, however narrow the window, and in no file."""

from __future__ import annotations

import re
import sys

import pytest
from rich.box import SIMPLE_HEAD
from rich.table import Table

from absynth.report.terminal import show_table

LONE = {4: "L2 at 1.5", 5: "L2 at 2.5", 7: "Linf at 0.3", 9: "L0 at 12"}


def wide_table() -> Table:
    title = "Robustness to attacks (upper bounds); figures of others in brackets"
    table = Table(title=title, caption="on a hundred pictures of something; seed 0", box=SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    headers = [
        "clean",
        "L2 median",
        "at 0.5",
        "at 1.5",
        "at 2.5",
        "Linf median",
        "at 0.3",
        "L0 median",
        "at 12",
    ]
    for header in headers:
        table.add_column(header, justify="right", min_width=6)
    for model in ("one", "a plain file.py:make"):
        table.add_row(model, *(f"{len(model)}{place}.5 (0.{place})" for place in range(9)))
    return table


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [20, 30, 50, 60, 80, 200])
def test_no_word_of_a_table_is_lost(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = wide_table()
    show_table(table, LONE)
    lines = shown(capsys)
    if columns >= 30:
        assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    figures = [part for column in table.columns[1:] for cell in column.cells for part in str(cell).split()]
    assert [words.count(figure) for figure in figures] == [figures.count(figure) for figure in figures]
    assert set(f"{table.title} {table.caption} one".split()) <= set(words)


@pytest.mark.parametrize("columns", [30, 50, 60])
def test_a_size_is_never_without_its_norm(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_table(wide_table(), LONE)
    heads = re.split(r"─\n", "\n".join(shown(capsys)))
    for head in heads[:-1]:
        header = head.rpartition("\n\n")[2]
        first = min(
            (header.find(word) for word in ("clean", "L2", "Linf", "L0") if word in header), default=None
        )
        assert first is not None
        assert first < (header.find("at ") if "at " in header else len(header))


def test_a_file_gets_the_table_as_wide_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show_table(wide_table(), LONE)
    lines = shown(capsys)
    (row,) = (line for line in lines if "plain file" in line)
    figures = [f"20{place}.5 (0.{place})" for place in range(9)]
    assert row.split() == ["a", "plain", "file.py:make", *" ".join(figures).split()]


def test_a_long_name_leaves_room_for_the_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table()
    table.add_column("model", no_wrap=True)
    table.add_column("clean")
    name = "/a/folder/with/a/very/long/name/my_network.py:make_model"
    table.add_row(name, "98.7 %")
    show_table(table)
    lines = shown(capsys)
    assert max(map(len, lines)) <= 40
    assert name in "".join(line.split("│")[1].strip() for line in lines if "│" in line)


def test_a_window_is_not_exceeded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("COLUMNS", raising=False)
    show_table(wide_table(), LONE)
    assert max(map(len, shown(capsys))) <= 80
