"""Progress and the estimate of the time left, from times that are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.status import ModelStatus, benchmark_status, model_status
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Preset, Task
from absynth.progress import Progress


def task(attack: str, *indices: int) -> Task:
    return Task("m", "w", "l2", attack, "{}", "mnist", "d", indices, 0)


def finish(store: ResultStore, done: Task, seconds: float) -> None:
    records = [
        Record("m", "w", "l2", done.attack, "{}", "mnist", 0, index, 0, 1.0, 1) for index in done.indices
    ]
    store.put(done, records, torch.zeros(len(records), 1, 2, 2), seconds)


def test_the_estimate_goes_by_the_seconds_an_image_of_each_attack(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    tasks = [task("slow", 0, 1), task("slow", 2), task("fast", 0, 1), task("fast", 2, 3), task("new", 0, 1)]
    assert model_status(store, "m", tasks) == ModelStatus(
        "m", 0, 5, 0.0, 0.0, ("l2 slow", "l2 fast", "l2 new")
    )
    finish(store, tasks[0], 8.0)
    finish(store, tasks[2], 1.0)
    assert model_status(store, "m", tasks) == ModelStatus(
        "m", 2, 5, 9.0, 8.0 / 2 * 1 + 1.0 / 2 * 2, ("l2 new",)
    )
    for left in (tasks[1], tasks[3], tasks[4]):
        finish(store, left, 1.0)
    assert model_status(store, "m", tasks) == ModelStatus("m", 5, 5, 12.0, 0.0, ())


def test_a_finished_task_whose_time_is_lost(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    tasks = [task("a", 0), task("a", 1)]
    finish(store, tasks[0], 8.0)
    next((tmp_path / "seconds").iterdir()).unlink()
    assert model_status(store, "m", tasks) == ModelStatus("m", 1, 2, 0.0, 0.0, ("l2 a",))


@pytest.mark.parametrize("images", [2, 4])
def test_the_status_has_the_tasks_of_the_run(tmp_path: Path, progress: Progress, images: int) -> None:
    def load_model(name: str) -> nn.Module:
        torch.manual_seed(len(name))
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    def preset(models: tuple[str, ...], images: int) -> Preset:
        return Preset(models, "quick", {"l2": ("fgm",), "linf": ("fgsm",)}, images, 10, shard=2)

    store = ResultStore(tmp_path)
    run_benchmark(preset(("one",), 2), store, progress, load_model=load_model)
    before = sorted(tmp_path.rglob("*"))
    both = preset(("one", "other"), images)
    first, second = benchmark_status(both, store, progress, load_model=load_model)
    assert (first.model, first.done, first.total) == ("one", 2, images)
    assert (second.model, second.done, second.total) == ("other", 0, images)
    assert first.spent > 0
    assert (first.left > 0) == (images > 2)
    assert sorted(tmp_path.rglob("*")) == before
