"""How far a benchmark is, and how long the rest of it may take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from absynth.evaluate.attacks import choose_attacks, named
from absynth.evaluate.candidates import check_candidate, first_images
from absynth.evaluate.courses import is_done
from absynth.evaluate.data import read_for
from absynth.evaluate.models import identity, load_classifier
from absynth.evaluate.proofs import ProofTask, has_proof, plan_proofs
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset, Task, choose_images, data_hash, misfits, plan
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
        remarks: Which attacks were left out and how many certificates are left, a sentence each.
    """

    model: str
    done: int
    total: int
    spent: float
    left: float
    untimed: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskTime:
    """How long a task takes.

    Attributes:
        task: Which task.
        done: Whether it is in the store.
        measured: Seconds that it took; None if that is not known.
        estimate: Seconds by what its attack took an image in other tasks; None if none is timed.
    """

    task: Task
    done: bool
    measured: float | None
    estimate: float | None


@dataclass(frozen=True)
class Planned:
    """What a benchmark consists of for one model.

    Attributes:
        model: Its name.
        tasks: All of its tasks.
        remarks: Which attacks were left out, a sentence each.
        proofs: What is certified, in pieces of a task a norm.
    """

    model: str
    tasks: list[Task]
    remarks: tuple[str, ...]
    proofs: list[list[ProofTask]]


def model_status(
    store: ResultStore, model: str, tasks: Sequence[Task], *, courses: bool = False
) -> ModelStatus:
    """How far one model is; each attack is taken to need as long an image as it did so far.

    Args:
        store: Where finished tasks are.
        model: Its name.
        tasks: All of its tasks.
        courses: Whether their courses are asked for, too.

    Raises:
        AbsynthError: If a file of the store is damaged.
    """
    times = task_times(store, tasks, courses=courses)
    left = [time for time in times if not time.done]
    return ModelStatus(
        model,
        done=len(times) - len(left),
        total=len(times),
        spent=sum(time.measured or 0.0 for time in times),
        left=sum(time.estimate or 0.0 for time in left),
        untimed=tuple(dict.fromkeys(_attack(time.task) for time in left if time.estimate is None)),
    )


def task_times(store: ResultStore, tasks: Sequence[Task], *, courses: bool = False) -> list[TaskTime]:
    """What the tasks of one model took or may take.

    Args:
        store: Where finished tasks are.
        tasks: All of the model.
        courses: Whether their courses are asked for, too.

    Raises:
        AbsynthError: If a file of the store is damaged.
    """
    done = {task.key for task in tasks if is_done(store, task, courses=courses)}
    measured = {task.key: store.seconds(task) if task.key in done else None for task in tasks}
    spent: defaultdict[str, float] = defaultdict(float)
    images: defaultdict[str, int] = defaultdict(int)
    for task in tasks:
        if (seconds := measured[task.key]) is not None:
            spent[_attack(task)] += seconds
            images[_attack(task)] += len(task.indices)
    pace = {attack: spent[attack] / count for attack, count in images.items()}
    return [
        TaskTime(
            task,
            done=task.key in done,
            measured=measured[task.key],
            estimate=pace[_attack(task)] * len(task.indices) if _attack(task) in pace else None,
        )
        for task in tasks
    ]


def _attack(task: Task) -> str:
    return f"{task.norm} {task.attack}"


def benchmark_status(
    preset: Preset,
    store: ResultStore,
    progress: Progress,
    *,
    load_model: Callable[[str], nn.Module] | None = None,
) -> list[ModelStatus]:
    """How far a benchmark is, model by model; nothing is attacked and nothing written.

    Every model is loaded, as its tasks are known by what it computes with and not by its name.

    Args:
        preset: What is run.
        store: Where finished tasks are.
        progress: Where to show which model is looked at.
        load_model: How a name becomes a classifier; by default ``load_classifier``.

    Raises:
        AbsynthError: As for :func:`absynth.evaluate.runner.run_benchmark`.
    """
    return [
        replace(
            model_status(store, planned.model, planned.tasks, courses=preset.courses),
            remarks=(*planned.remarks, *_unproven(store, planned)),
        )
        for planned in planned_tasks(preset, progress, load_model)
    ]


def _unproven(store: ResultStore, planned: Planned) -> list[str]:
    """A sentence on the certificates that are left, if any are."""
    tasks = [task for piece in planned.proofs for task in piece]
    left = sum(len(task.indices) for task in tasks if not has_proof(store, task))
    every = sum(len(task.indices) for task in tasks)
    return [f"{left} of {every} certificates of {planned.model} are left, not timed."] if left else []


def planned_tasks(
    preset: Preset, progress: Progress, load_model: Callable[[str], nn.Module] | None
) -> Iterator[Planned]:
    """Each model of a benchmark with all of its tasks.

    Args:
        preset: What is run.
        progress: Where to show which model is looked at.
        load_model: How a name becomes a classifier; by default ``load_classifier``.

    Raises:
        AbsynthError: As for :func:`absynth.evaluate.runner.run_benchmark`.
    """
    dataset = read_for(preset.models, preset.dataset, "test")
    images, labels = dataset.images, dataset.labels
    chosen = choose_images(len(images), preset.images, preset.seed)
    data = data_hash(images, labels)
    attacks = choose_attacks(preset)
    preset = named(preset, attacks)
    bar = progress.add_task("status", total=len(preset.models), note="")
    load = load_model or partial(load_classifier, size=dataset.domain.size)
    for name in preset.models:
        progress.update(bar, note=f"loading {name}")
        model = load(name)
        weights, shape = identity(name, model), images.shape[1:]
        if preset.allow_random:
            candidate = check_candidate(name, model, weights, first_images(images, preset), preset)
            model, weights = candidate.model, candidate.weights
        tasks = plan(preset, attacks, name, model, weights=weights, data=data, indices=chosen, shape=shape)
        proofs = plan_proofs(preset, name, model, weights=weights, data=data, indices=chosen)
        yield Planned(name, tasks, misfits(attacks, name, model, shape), proofs)
        progress.advance(bar)
