"""Runs a benchmark in this process, or goes on with one that was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from absynth.attacks.suites import find_attack
from absynth.data import load_dataset
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Preset, Task, choose_images, plan, weights_hash
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.zoo import load

BATCH_SIZE = 250


@dataclass(frozen=True)
class BenchmarkResult:
    """All records of a benchmark.

    Attributes:
        preset: What was run.
        clean_accuracy: By model, on the first ``preset.clean_images`` images of the choice.
        weights: Hash of each model.
        records: Of every model, attack and image.
    """

    preset: Preset
    clean_accuracy: dict[str, float]
    weights: dict[str, str]
    records: list[Record]


def run_task(
    task: Task, model: nn.Module, images: Tensor, labels: Tensor, suite: str
) -> tuple[list[Record], Tensor]:
    """The records and adversarial images of one task."""
    rows = torch.tensor(task.indices)
    result = find_attack(task.attack, task.norm, suite)(model, images[rows], labels[rows], seed=task.seed)
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
    load_model: Callable[[str], nn.Module] = load,
) -> BenchmarkResult:
    """Runs whatever of the preset the store does not hold yet.

    Args:
        preset: What to run.
        store: Where finished tasks are; a killed run loses at most the task it was at.
        progress: Where to show tasks done and left.
        load_model: How a name becomes a classifier.
    """
    images, labels = load_dataset(preset.dataset, "test")
    chosen = choose_images(len(images), preset.images, preset.seed)
    clean = torch.tensor(choose_images(len(images), preset.clean_images, preset.seed))
    accuracy: dict[str, float] = {}
    hashes: dict[str, str] = {}
    every: list[Task] = []
    bar = progress.add_task("benchmark", total=None, note="")
    for name in preset.models:
        progress.update(bar, note=f"loading {name}")
        model = load_model(name)
        hashes[name] = weights_hash(model)
        tasks = plan(preset, name, hashes[name], chosen)
        every += tasks
        progress.update(bar, total=len(tasks) * len(preset.models), note=f"{name}, clean accuracy")
        known = f"clean-{hashes[name][:24]}-{preset.dataset}-{preset.clean_images}-{preset.seed}"
        accuracy[name] = _clean_accuracy(store, known, model, images[clean], labels[clean])
        for task in tasks:
            progress.update(bar, note=f"{name}, {task.norm} {task.attack}")
            if not store.has(task):
                started = time.perf_counter()
                records, adversarials = run_task(task, model, images, labels, preset.suite)
                store.put(task, records, adversarials, time.perf_counter() - started)
            progress.advance(bar)
    return BenchmarkResult(preset, accuracy, hashes, store.records(every))


@torch.no_grad()
def _clean_accuracy(store: ResultStore, name: str, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    known = store.get_json(name)
    if known is None:
        pairs = zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
        right = sum(int((model(batch).argmax(1) == truth).sum()) for batch, truth in pairs)
        known = {"right": right, "images": len(images)}
        store.put_json(name, known)
    return float(known["right"] / known["images"])


def smallest_distances(records: list[Record], model: str, norm: Norm) -> Tensor:
    """For each image of a model, the distance of the smallest adversarial over all attacks (float64).

    An upper bound on the true distance. Images are in the order of their index.
    """
    best: dict[int, float] = {}
    for record in records:
        if record.model == model and record.norm == norm:
            best[record.index] = min(best.get(record.index, torch.inf), record.distance)
    return torch.tensor([best[index] for index in sorted(best)], dtype=torch.float64)
