"""Runs a benchmark in this process, or goes on with one that was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from absynth.attacks.suites import find_attack
from absynth.data import load_dataset
from absynth.evaluate.models import device_of, identity, load_classifier
from absynth.evaluate.smallest import keep_smallest
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Preset, Task, choose_images, data_hash, plan
from absynth.progress import Progress

BATCH_SIZE = 250


@dataclass(frozen=True)
class BenchmarkResult:
    """All records of a benchmark.

    Attributes:
        preset: What was run, with as many clean images as there are.
        clean_accuracy: By model, on the first ``preset.clean_images`` images of the choice.
        weights: Hash of each model.
        tasks: What the benchmark consisted of, model by model.
        records: Of every model, attack and image.
        seconds: Wall-clock time of each task, by its key; without those whose time is not known.
    """

    preset: Preset
    clean_accuracy: dict[str, float]
    weights: dict[str, str]
    tasks: list[Task]
    records: list[Record]
    seconds: dict[str, float]


def run_task(
    task: Task, model: nn.Module, images: Tensor, labels: Tensor, suite: str
) -> tuple[list[Record], Tensor]:
    """The records and adversarial images of one task."""
    rows, device = torch.tensor(task.indices), device_of(model)
    attack = find_attack(task.attack, task.norm, suite)
    result = attack(model, images[rows].to(device), labels[rows].to(device), seed=task.seed)
    records = [
        Record(
            model=task.model,
            weights=task.weights,
            norm=task.norm,
            attack=task.attack,
            settings=task.settings,
            dataset=task.dataset,
            seed=task.seed,
            index=index,
            label=int(labels[index]),
            distance=float(result.distances[row]),
            queries=int(result.queries[row]),
        )
        for row, index in enumerate(task.indices)
    ]
    return records, result.adversarials


def run_benchmark(
    preset: Preset,
    store: ResultStore,
    progress: Progress,
    *,
    load_model: Callable[[str], nn.Module] = load_classifier,
) -> BenchmarkResult:
    """Runs whatever of the preset the store does not hold yet.

    Args:
        preset: What to run.
        store: Where finished tasks are; a killed run loses at most the task it was at.
        progress: Where to show tasks done and left.
        load_model: How a name becomes a classifier.

    Raises:
        AbsynthError: If the preset does not fit the data, a model cannot be had, or a file of the store is
            damaged.
    """
    images, labels = load_dataset(preset.dataset, "test")
    chosen = choose_images(len(images), preset.images, preset.seed)
    preset = replace(preset, clean_images=min(preset.clean_images, len(images)))
    clean = torch.tensor(choose_images(len(images), preset.clean_images, preset.seed))
    data = data_hash(images, labels)
    accuracy: dict[str, float] = {}
    hashes: dict[str, str] = {}
    every: list[Task] = []
    bar = progress.add_task("benchmark", total=None, note="")
    for number, name in enumerate(preset.models):
        progress.update(bar, note=f"loading {name}")
        model = load_model(name)
        hashes[name] = identity(name, model)
        tasks = plan(preset, name, model, weights=hashes[name], data=data, indices=chosen)
        store.records(tasks)  # a damaged file is told of now, not after hours
        expected = len(every) + len(tasks) * (len(preset.models) - number)
        progress.update(bar, total=expected, note=f"{name}, clean accuracy")
        known = f"{hashes[name][:24]}-{data[:24]}-{preset.clean_images}-{preset.seed}"
        accuracy[name] = _clean_accuracy(store, known, model, images[clean], labels[clean])
        for task in tasks:
            progress.update(bar, note=f"{name}, {task.norm} {task.attack}")
            if not store.has(task):
                started = time.perf_counter()
                records, adversarials = run_task(task, model, images, labels, preset.suite)
                store.put(task, records, adversarials, time.perf_counter() - started)
            progress.advance(bar)
        for norm in dict.fromkeys(task.norm for task in tasks):
            keep_smallest(store, [task for task in tasks if task.norm == norm])
        every += tasks
    progress.update(bar, total=len(every), note="done")
    seconds = {task.key: spent for task in every if (spent := store.seconds(task)) is not None}
    return BenchmarkResult(preset, accuracy, hashes, every, store.records(every), seconds)


@torch.no_grad()
def _clean_accuracy(store: ResultStore, name: str, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    known = store.get_numbers("clean", name, ["right", "images"])
    if known is None:
        device = device_of(model)
        pairs = zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
        right = sum(int((model(batch.to(device)).argmax(1).cpu() == truth).sum()) for batch, truth in pairs)
        known = float(right), float(len(images))
        store.put_json("clean", name, {"right": right, "images": len(images)})
    return known[0] / known[1]
