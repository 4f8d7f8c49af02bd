"""How far a benchmark is, and how long the rest of it may take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from absynth.data import load_dataset
from absynth.evaluate.models import identity, load_classifier
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset, Task, choose_images, data_hash, plan
from absynth.progress import Progress


@dataclass(frozen=True)
class ModelStatus:
    """How far a benchmark is with one model.

    Attributes:
        model: Its name.
        done: Tasks in the store.
        total: Tasks in all.
        spent: Seconds that the finished tasks took.
        left: Seconds that the other tasks will take, those of ``untimed`` attacks not counted.
        untimed: Attacks, each with its norm, that have tasks left and none finished to go by.
    """

    model: str
    done: int
    total: int
    spent: float
    left: float
    untimed: tuple[str, ...]


def model_status(store: ResultStore, model: str, tasks: Sequence[Task]) -> ModelStatus:
    """How far one model is; each attack is taken to need as long an image as it did so far.

    Args:
        store: Where finished tasks are.
        model: Its name.
        tasks: All of its tasks.

    Raises:
        AbsynthError: If a file of the store is damaged.
    """
    spent: defaultdict[str, float] = defaultdict(float)
    timed: defaultdict[str, int] = defaultdict(int)
    waiting: defaultdict[str, int] = defaultdict(int)
    done = 0
    for task in tasks:
        attack = f"{task.norm} {task.attack}"
        if not store.has(task):
            waiting[attack] += len(task.indices)
            continue
        done += 1
        if (seconds := store.seconds(task)) is not None:
            spent[attack] += seconds
            timed[attack] += len(task.indices)
    left = sum(spent[attack] / timed[attack] * images for attack, images in waiting.items() if timed[attack])
    untimed = tuple(attack for attack in waiting if not timed[attack])
    return ModelStatus(model, done, len(tasks), sum(spent.values()), left, untimed)


def benchmark_status(
    preset: Preset,
    store: ResultStore,
    progress: Progress,
    *,
    load_model: Callable[[str], nn.Module] = load_classifier,
) -> list[ModelStatus]:
    """How far a benchmark is, model by model; nothing is attacked and nothing written.

    Every model is loaded, as its tasks are known by what it computes with and not by its name.

    Args:
        preset: What is run.
        store: Where finished tasks are.
        progress: Where to show which model is looked at.
        load_model: How a name becomes a classifier.

    Raises:
        AbsynthError: As for :func:`absynth.evaluate.runner.run_benchmark`.
    """
    images, labels = load_dataset(preset.dataset, "test")
    chosen = choose_images(len(images), preset.images, preset.seed)
    data = data_hash(images, labels)
    found = []
    bar = progress.add_task("status", total=len(preset.models), note="")
    for name in preset.models:
        progress.update(bar, note=f"loading {name}")
        model = load_model(name)
        tasks = plan(preset, name, model, weights=identity(name, model), data=data, indices=chosen)
        found.append(model_status(store, name, tasks))
        progress.advance(bar)
    return found
