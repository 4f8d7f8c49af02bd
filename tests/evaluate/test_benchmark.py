"""The benchmark: its records, its choice of images, and going on after an interruption."""

import math

import pytest
import torch
from torch import nn

import absynth
from absynth.errors import AbsynthError
from absynth.evaluate import runner
from absynth.evaluate.paper import PAPER, THRESHOLDS
from absynth.evaluate.runner import BenchmarkResult, run_benchmark, smallest_distances
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.summaries import summaries, summarize
from absynth.evaluate.tasks import PRESETS, Preset, choose_images, find_preset, plan, weights_hash
from absynth.progress import progress_display
from absynth.report.tables import benchmark_table, format_distance

PRESET = Preset(
    models=("linear",),
    suite="quick",
    attacks={"linf": ("fgsm", "bim"), "l0": ("pointwise",)},
    images=6,
    clean_images=20,
    shard=3,
)


class Linear(nn.Module):
    """Class 0 where the image is darker than 0.1 in the mean, else class 7: wrong for most digits."""

    def __init__(self, threshold: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images.flatten(1).mean(1)
        logits = torch.full((len(images), 10), -1.0)
        pair = torch.stack([self.threshold - brightness, brightness - self.threshold], dim=1)
        return torch.cat([pair[:, :1], logits[:, 1:7], pair[:, 1:], logits[:, 8:]], dim=1)


def load_linear(_: str) -> nn.Module:
    return Linear()


def run(store: ResultStore, preset: Preset = PRESET) -> BenchmarkResult:
    with progress_display(False) as progress:
        return run_benchmark(preset, store, progress, load_model=load_linear)


def contents(store: ResultStore) -> dict[str, bytes]:
    """Every file of a store but the times."""
    return {
        str(path.relative_to(store.folder)): path.read_bytes()
        for path in sorted(store.folder.rglob("*"))
        if path.is_file() and path.parent.name != "seconds"
    }


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole = ResultStore(tmp_path / "whole")
    expected = run(whole)

    interrupted = ResultStore(tmp_path / "interrupted")
    original, calls = runner.run_task, []

    def dies_in_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(runner, "run_task", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
    monkeypatch.setattr(runner, "run_task", original)
    result = run(interrupted)

    assert contents(interrupted) == contents(whole)
    assert result.records == expected.records


def test_a_finished_run_attacks_nothing_again(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    first = run(store)
    monkeypatch.setattr(runner, "run_task", lambda *_: pytest.fail("this was done already"))
    assert run(store) == first


def test_records_are_complete_and_true(tmp_path):
    store = ResultStore(tmp_path)
    result = run(store)
    tasks = plan(PRESET, "linear", weights_hash(Linear()), choose_images(10_000, PRESET.images, PRESET.seed))
    assert len(result.records) == sum(len(task.indices) for task in tasks)
    model = Linear()
    for task in tasks:
        adversarials = store.adversarials(task)
        for record, image in zip(store.records([task]), adversarials, strict=True):
            assert record.attack == task.attack
            if math.isfinite(record.distance):
                assert int(model(image[None]).argmax()) != record.label


def test_other_weights_are_other_tasks():
    indices = choose_images(10_000, 3, 0)
    first = plan(PRESET, "linear", weights_hash(Linear(0.1)), indices)
    second = plan(PRESET, "linear", weights_hash(Linear(0.2)), indices)
    renamed = plan(PRESET, "another name", weights_hash(Linear(0.1)), indices)
    assert not {task.key for task in first} & {task.key for task in second}
    assert [task.key for task in first] == [task.key for task in renamed]


def test_a_damaged_record_is_named(tmp_path):
    store = ResultStore(tmp_path)
    run(store)
    damaged = next((tmp_path / "records").iterdir())
    damaged.write_bytes(b"no parquet")
    with pytest.raises(AbsynthError, match=damaged.name):
        run(store)


def test_results_need_a_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(AbsynthError, match="is a file"):
        ResultStore(path)
    assert path.read_text() == "mine"


def test_the_choice_of_images_is_fixed_and_nested():
    assert choose_images(100, 10, 3) == choose_images(100, 50, 3)[:10]
    assert choose_images(100, 10, 3) != choose_images(100, 10, 4)
    assert sorted(choose_images(100, 100, 0)) == list(range(100))
    for count in (0, 101):
        with pytest.raises(AbsynthError, match="ask for 1 to 100"):
            choose_images(100, count, 0)


def record(model: str, index: int, distance: float, attack: str = "a") -> Record:
    return Record(model, "w", "l2", attack, "{}", "mnist", 0, index, 1, distance, 5)


def test_the_smallest_distance_over_attacks_counts():
    records = [
        record("m", 4, 2.0),
        record("m", 1, math.inf),
        record("m", 4, 1.0, "b"),
        record("m", 1, math.inf, "b"),
        record("other", 4, 0.5),
    ]
    assert smallest_distances(records, "m", "l2").tolist() == [math.inf, 1.0]


def test_median_and_accuracy_by_hand():
    summary = summarize(torch.tensor([0.0, 1.0, 1.5, 2.0, math.inf], dtype=torch.float64), 1.5)
    assert (summary.median, summary.accuracy, summary.images) == (1.5, 0.4, 5)
    assert summarize(torch.tensor([1.0, math.inf, math.inf, math.inf]), 1.5).median == math.inf


def test_the_table_shows_the_records(tmp_path):
    result = run(ResultStore(tmp_path))
    figures = summaries(result)["linear"]["linf"]
    table = benchmark_table(result)
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[0] == "linear"
    assert cells[2] == format_distance(figures.median, "linf")
    assert cells[3] == f"{figures.accuracy:.0%}"


def test_the_clean_accuracy_alone(tmp_path):
    preset = Preset(models=("linear",), suite="quick", attacks={}, images=1, clean_images=50)
    result = run(ResultStore(tmp_path), preset)
    chosen = list(choose_images(10_000, 50, 0))
    images, labels = absynth.load_dataset("mnist", "test")
    right = (Linear()(images[chosen]).argmax(1) == labels[chosen]).double().mean()
    assert result.clean_accuracy == {"linear": float(right)}
    assert result.records == []
    cells = [next(iter(column.cells)) for column in benchmark_table(result).columns]
    assert cells == ["linear", f"{float(right):.2%}"]


def test_distances_are_printed_as_the_paper_does():
    assert format_distance(16.0, "l0") == "16"
    assert format_distance(2.236, "l2") == "2.24"
    assert format_distance(math.inf, "l2") == "∞"


def test_presets_and_the_papers_figures_fit_together():
    quick = find_preset("quick")
    assert quick is PRESETS["quick"]
    assert set(quick.norms) <= set(THRESHOLDS)
    assert all(set(figures) == set(THRESHOLDS) for figures in PAPER.values())
    with pytest.raises(AbsynthError, match="choose one of clean, quick"):
        find_preset("quik")
    with pytest.raises(AbsynthError, match="at least one"):
        Preset(models=(), suite="quick", attacks={"l2": ("fgm",)}, images=1, clean_images=1)
