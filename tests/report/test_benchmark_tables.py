"""What the tables of a benchmark show, from records that are known."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.status import ModelStatus
from absynth.evaluate.store import Record
from absynth.evaluate.tasks import PRESETS, Preset, Task
from absynth.norms import Norm
from absynth.report.tables import (
    benchmark_table,
    detail_tables,
    format_distance,
    format_seconds,
    lone_headers,
    status_table,
)

PRESET = Preset(
    models=("cnn", "mine.py:make_model"),
    suite="quick",
    attacks={"l2": ("ddn", "fgm"), "l1": ("bim",)},
    images=4,
    clean_images=10,
    fewer_images={"fgm": 2},
)


def make_result(preset: Preset = PRESET) -> BenchmarkResult:
    """Distances 0, 1, 2 and infinity by the first attack; the second finds 0.4 for images 2 and 3."""
    tasks, records, seconds = [], [], {}

    def add(model: str, norm: Norm, attack: str, distances: dict[int, float]) -> None:
        task = Task(model, "w" * 64, norm, attack, "{}", "mnist", "d", tuple(distances), 0)
        tasks.append(task)
        seconds[task.key] = 2.0 * len(distances)
        for index, distance in distances.items():
            records.append(Record(model, "w" * 64, norm, attack, "{}", "mnist", 0, index, 1, distance, 10))

    add("cnn", "l2", "ddn", {0: 0.0, 1: 1.0, 2: 2.0, 3: math.inf})
    add("cnn", "l2", "fgm", {2: 0.4, 3: 0.4})
    add("cnn", "l1", "bim", {0: 0.0, 1: 5.0, 2: 7.0, 3: 9.0})
    add("mine.py:make_model", "l2", "ddn", {0: 0.0, 1: 3.0, 2: 3.0, 3: 3.0})
    clean = dict.fromkeys(preset.models, 0.75)
    return BenchmarkResult(preset, clean, dict.fromkeys(preset.models, "w" * 64), tasks, records, seconds)


def rows(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def header(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def test_the_smallest_adversarial_counts_and_the_paper_stands_in_brackets() -> None:
    table = benchmark_table(make_result())
    assert header(table) == ["model", "clean", "L2 median", "at 1.5", "L1 median"]
    assert rows(table) == [
        ["cnn", "75.00%", "0.40 (1.09)", "0% (8%)", "6.00"],
        ["mine.py:make_model", "75.00%", "3.00", "75%", "-"],
    ]
    assert "upper bounds" in str(table.title)
    assert "4 of them attacked with the suite 'quick' (only 2 by fgm)" in str(table.caption)
    assert "the paper attacked 1000; seed 0" in str(table.caption)


def test_what_is_proven_stands_beside_what_was_attacked() -> None:
    proven = [
        CertificateRecord(index, 1, 1, "l2", radius, "pairwise", False)
        for index, radius in enumerate((0.0, 0.9, 1.5, 1.6))
    ]
    result = replace(make_result(), certificates={"cnn": proven})
    table = benchmark_table(result)
    assert header(table) == ["model", "clean", "L2 median", "at 1.5", "proven", "L1 median"]
    assert rows(table) == [
        ["cnn", "75.00%", "0.40 (1.09)", "0% (8%)", "50%", "6.00"],
        ["mine.py:make_model", "75.00%", "3.00", "75%", "-", "-"],
    ]
    assert "proven (lower bounds)" in str(table.title)
    assert lone_headers(result) == {3: "L2 at 1.5", 4: "proven at L2 1.5"}
    fewer = replace(result, certificates={"cnn": proven[:2]})
    assert rows(benchmark_table(fewer))[0][4] == "0% of 2"


def test_own_thresholds_replace_the_papers() -> None:
    table = benchmark_table(make_result(replace(PRESET, thresholds={"l2": (0.3, 0.5), "l1": (6.0,)})))
    assert header(table) == ["model", "clean", "L2 median", "at 0.3", "at 0.5", "L1 median", "at 6"]
    assert rows(table)[0] == ["cnn", "75.00%", "0.40 (1.09)", "75%", "25% (89%)", "6.00", "50%"]


@pytest.mark.parametrize("changes", [{"dataset": "kmnist"}, {"models": ("mine.py:make_model",)}])
def test_the_papers_figures_are_for_its_models_and_its_data(changes: dict[str, str]) -> None:
    table = benchmark_table(make_result(replace(PRESET, **changes)))
    assert "paper" not in f"{table.title} {table.caption}"
    assert "(" not in "".join(cell for row in rows(table) for cell in row)


def test_no_figure_is_cut_in_a_narrow_window() -> None:
    text = io.StringIO()
    preset = replace(PRESETS["quick"], models=("cnn", "certified-binary-abs"))
    records = [
        Record(model, "w", norm, names[0], "{}", "mnist", 0, 1, 1, 0.2345 if norm == "linf" else 22.5, 9)
        for model in preset.models
        for norm, names in preset.attacks.items()
    ]
    result = BenchmarkResult(preset, dict.fromkeys(preset.models, 0.9912), {}, [], records, {})
    Console(file=text, width=80).print(benchmark_table(result))
    assert "…" not in text.getvalue()
    for figure in ("99.12%", "0.234", "(0.075)", "22.50", "(1.09)", "22.5", "(8.7)", "100%"):
        assert figure in text.getvalue()


def test_every_attack_has_a_row() -> None:
    tables = detail_tables(make_result())
    assert [str(table.title).partition(":")[0] for table in tables] == ["cnn", "cnn", "mine.py"]
    assert header(tables[0])[:4] == ["attack", "images", "median", "at 1.5"]
    assert rows(tables[0]) == [
        ["ddn", "4", "1.50", "50%", "10", "2.00 s"],
        ["fgm", "2", "0.40", "0%", "10", "2.00 s"],
        ["all", "4", "0.40", "0%", "15", "3.00 s"],
    ]
    assert all("upper bounds" in str(table.title) for table in tables)


def test_the_clean_accuracy_alone() -> None:
    table = benchmark_table(make_result(replace(PRESET, attacks={}, fewer_images={})))
    assert rows(table) == [["cnn", "75.00%"], ["mine.py:make_model", "75.00%"]]
    assert str(table.title) == "Clean accuracy"


def test_distances_are_printed_as_they_are_meant() -> None:
    assert format_distance(16.0, "l0") == "16"
    assert format_distance(2.236, "l2") == "2.24"
    assert format_distance(0.0751, "linf") == "0.075"
    assert format_distance(math.inf, "l2") == "∞"


def test_times_are_printed_in_the_unit_that_suits() -> None:
    assert [format_seconds(seconds) for seconds in (0.014, 59.0, 60.0, 3600.0, 100_000.0)] == [
        "0.01 s",
        "59 s",
        "1.0 min",
        "1.0 h",
        "27.8 h",
    ]


def test_the_status_says_what_is_not_known() -> None:
    table = status_table(
        [
            ModelStatus("a", 3, 5, 60.0, 90.0, ()),
            ModelStatus("b", 1, 5, 2.0, 3.0, ("l2 ddn",)),
            ModelStatus("c", 0, 5, 0.0, 0.0, ("l2 ddn",)),
        ],
        "results/quick",
    )
    assert rows(table) == [
        ["a", "3", "2", "1.0 min", "1.5 min"],
        ["b", "1", "4", "2.00 s", "at least 3.00 s"],
        ["c", "0", "5", "0.00 s", "not known"],
        ["all", "4", "11", "1.0 min", "at least 1.6 min"],
    ]
    assert "no finished task" in str(table.caption)
    assert status_table([ModelStatus("a", 5, 5, 60.0, 0.0, ())], "r").row_count == 1
