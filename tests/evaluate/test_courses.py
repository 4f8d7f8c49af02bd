"""Courses in a benchmark: kept when asked for, read again, counted by hand, and drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import absynth
from absynth.attacks import Course
from absynth.errors import AbsynthError
from absynth.evaluate import runner
from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.config import read_preset
from absynth.evaluate.courses import is_done, put_course, read_course
from absynth.evaluate.runner import BenchmarkResult, run_benchmark
from absynth.evaluate.standings import standings
from absynth.evaluate.status import benchmark_status
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Preset, Task, choose_images
from absynth.progress import Progress
from absynth.report.drawing import drawing_style
from absynth.report.figures.courses import courses_section
from absynth.report.results import read_results
from absynth.report.standings import standing_cells

PRESET = Preset(("m",), "quick", {"linf": ("fgsm", "bim")}, images=4, clean_images=4, shard=2)
TASK = Task("m", "w", "l2", "ddn", "{}", "d", "h", (7, 3), 0)
COURSE = Course(
    torch.tensor([0, 0, 1]), torch.tensor([2, 50, 900]), torch.tensor([4.0, 2.0, 3.0], dtype=torch.float64)
)


def load(_: str) -> nn.Module:
    """Each class is likened to those of the attacked images that it has."""
    images, labels = absynth.load_dataset("mnist", "test")
    chosen = torch.tensor(choose_images(len(images), PRESET.images, PRESET.seed))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    with torch.no_grad():
        model[1].weight.zero_()
        for image, label in zip(images[chosen], labels[chosen], strict=True):
            model[1].weight[label] += image.flatten() / image.norm()
    return model


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch, progress: Progress) -> Callable[[Path, Preset], BenchmarkResult]:
    """Runs a benchmark of a linear model."""

    def run(folder: Path, preset: Preset) -> BenchmarkResult:
        return run_benchmark(preset, ResultStore(folder), progress, load_model=load)

    return run


def test_a_course_is_written_and_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    put_course(store, TASK, COURSE)
    found = read_course(store, TASK)
    for name in ("rows", "passes", "distances"):
        assert torch.equal(getattr(found, name), getattr(COURSE, name))
    other = replace(TASK, indices=(3, 8))
    (tmp_path / "courses" / f"{other.key}.parquet").write_bytes(
        (tmp_path / "courses" / f"{TASK.key}.parquet").read_bytes()
    )
    with pytest.raises(AbsynthError, match="other images"):
        read_course(store, other)
    (tmp_path / "courses" / f"{TASK.key}.parquet").write_bytes(b"PAR1")
    with pytest.raises(AbsynthError, match="damaged"):
        read_course(store, TASK)


def test_a_finished_benchmark_gets_its_courses_later(
    tmp_path: Path, mine: Callable[[Path, Preset], BenchmarkResult], progress: Progress
) -> None:
    plain = mine(tmp_path, PRESET)
    assert plain.courses == {}
    wanted = replace(PRESET, courses=True)
    store = ResultStore(tmp_path)
    (status,) = benchmark_status(wanted, store, progress, load_model=load)
    assert (status.done, status.total) == (0, 4)
    whole = mine(tmp_path, wanted)
    assert whole.records == plain.records
    for task in whole.tasks:
        assert is_done(store, task, courses=True)
        found = whole.courses[task.key].after(10**6, 2).tolist()
        assert found == [
            one.distance
            for index in task.indices
            for one in whole.records
            if (one.attack, one.index) == (task.attack, index)
        ]


def test_a_finished_benchmark_with_courses_attacks_nothing_again(
    tmp_path: Path, mine: Callable[[Path, Preset], BenchmarkResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(PRESET, courses=True)
    mine(tmp_path, wanted)
    monkeypatch.setattr(runner, "run_task", lambda *_: pytest.fail("this was done already"))
    mine(tmp_path, wanted)


def test_medians_counted_by_hand() -> None:
    """Exact radii 2 and 2: ratios 2 and infinity after ten passes, 1 and infinity, then 1 and 1.5."""
    records = [
        Record("m", "w", "l2", "ddn", "{}", "d", 0, index, 0, distance, 9)
        for index, distance in ((7, 2.0), (3, 3.0))
    ]
    result = BenchmarkResult(
        replace(PRESET, attacks={"l2": ("ddn",)}),
        {"m": 1.0},
        {"m": "w"},
        [TASK],
        records,
        {},
        courses={TASK.key: COURSE},
    )
    truth = [CertificateRecord(index, 0, 0, "l2", 2.0, "pairs", exact=True, gap=0.0) for index in (3, 7)]
    (row,) = standings(result, {"m": truth})
    assert row.course == (math.inf, math.inf, 1.5, 1.5)
    assert standing_cells(row)[-4:] == ("∞", "∞", "1.500", "1.500")
    (row,) = standings(result, {"m": truth[1:]})
    assert row.course == (2.0, 1.0, 1.0, 1.0)
    (row,) = standings(replace(result, courses={}), {"m": truth})
    assert row.course == ()


def test_the_figure(tmp_path: Path, mine: Callable[[Path, Preset], BenchmarkResult]) -> None:
    mine(tmp_path, PRESET)
    with drawing_style(), pytest.raises(AbsynthError, match="kept none"):
        courses_section("courses", "Title", read_results(tmp_path), {})
    mine(tmp_path, replace(PRESET, courses=True))
    results = read_results(tmp_path)
    found = {one.record.index: one.record.distance for one in results.smallest("m", "linf", "bim")}
    fooled = sorted(distance for distance in found.values() if distance > 0)
    with drawing_style():
        (panel,) = courses_section("courses", "Title", results, {}).panels
        lines = {line.get_label().partition(" ")[0]: line for line in panel.figure.axes[0].lines}
        assert set(lines) == {"fgsm", "bim"}
        assert lines["bim"].get_ydata()[-1] == fooled[len(fooled) // 2]
        truth = [
            CertificateRecord(index, 0, 0, "linf", distance / 2, "pairs", exact=True, gap=0.0)
            for index, distance in found.items()
        ]
        (panel,) = courses_section("courses", "Title", results, {"m": truth}).panels
        (axes,) = panel.figure.axes
        assert axes.lines[0].get_ydata()[-1] == pytest.approx(2)
        labels = [text.get_text() for axis in (axes.xaxis, axes.yaxis) for text in axis.get_ticklabels()]
        assert {"1", "2"} <= set(labels) and not any("$" in label for label in labels)
        wrong = [replace(one, radius=3 * one.radius) for one in truth]
        section = courses_section("courses", "Title", results, {"m": wrong})
        assert "below what was given as the exact radius" in section.remarks[0]
        lines = {line.get_label().partition(" ")[0]: line for line in section.panels[0].figure.axes[0].lines}
        assert lines["bim"].get_ydata()[-1] == fooled[len(fooled) // 2]


def test_what_a_file_asks_for(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('models = ["cnn"]\ncourses = true\n')
    assert read_preset(tmp_path / "mine.toml").courses
