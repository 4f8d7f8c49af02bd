"""The paper's Table 1 with our figures, as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from absynth.errors import AbsynthError
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.store import Record
from absynth.evaluate.tasks import Preset
from absynth.report.markdown import check_markdown, results_markdown, write_markdown

PRESET = Preset(
    models=("abs", "mine|odd"),
    suite="strong",
    attacks={"l2": ("ddn", "boundary"), "l1": ("bim",)},
    images=4,
    clean_images=10,
    seed=3,
    fewer_images={"boundary": 2},
)
RESULT = BenchmarkResult(
    PRESET,
    {"abs": 0.99, "mine|odd": 0.5},
    {"abs": "a" * 64, "mine|odd": "b" * 64},
    [],
    [
        Record(model, "w", "l2", "ddn", "{}", "mnist", 3, index, 1, distance, 5)
        for model in PRESET.models
        for index, distance in enumerate((0.0, 1.25, 2.25, 4.0))
    ],
    {},
)


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_every_figure_stands_beside_the_papers() -> None:
    text = results_markdown(RESULT)
    assert "| model | images | median | at 0.5 | at 1 | at 1.5 | at 2 | at 2.5 | at 3 |" in text
    assert lines(text, "| abs ") == [
        "| abs | 99.00% | `aaaaaaaaaaaa` |",
        "| abs | 4 | 1.75 (2.24) | 75% (92%) | 75% (86%) | 50% (80%) | 50% (68%) | 25% (31%) | 25% (14%) |",
    ]
    assert lines(text, "| mine")[1] == "| mine\\|odd | 4 | 1.75 | 75% | 75% | 50% | 50% | 25% | 25% |"
    assert "## L1" in text


def test_the_sample_and_the_kind_of_bound_are_named() -> None:
    text = results_markdown(RESULT)
    assert "clean accuracy on 10 test images of mnist, 4 of them attacked with the suite 'strong'" in text
    assert "seed 3" in text
    assert "upper bounds on robustness" in text
    assert "arXiv 1805.09190" in text
    assert "ddn, boundary (2 images)." in text


def test_own_thresholds_replace_the_papers() -> None:
    preset = Preset(PRESET.models, "strong", PRESET.attacks, 4, 10, thresholds={"l2": (1.0, 7.0)})
    result = BenchmarkResult(preset, RESULT.clean_accuracy, RESULT.weights, [], RESULT.records, {})
    assert lines(results_markdown(result), "| abs ")[1] == "| abs | 4 | 1.75 (2.24) | 75% (86%) | 0% |"


def test_other_data_has_no_figures_of_the_paper() -> None:
    preset = Preset(PRESET.models, "strong", PRESET.attacks, 4, 10, dataset="kmnist")
    text = results_markdown(
        BenchmarkResult(preset, RESULT.clean_accuracy, RESULT.weights, [], RESULT.records, {})
    )
    assert "paper" not in text
    assert "(2.24)" not in text


def test_the_clean_accuracy_alone() -> None:
    preset = Preset(PRESET.models, "strong", {}, 4, 10)
    text = results_markdown(BenchmarkResult(preset, RESULT.clean_accuracy, RESULT.weights, [], [], {}))
    assert "upper bounds" not in text
    assert "| abs | 99.00% |" in text


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.md"
    write_markdown(path, RESULT)
    assert path.read_text(encoding="utf-8") == results_markdown(RESULT)
    (tmp_path / "taken.md").mkdir()
    for wrong in (tmp_path / "table.txt", tmp_path / "taken.md"):
        with pytest.raises(AbsynthError, match=r"end it in \.md"):
            check_markdown(wrong)
