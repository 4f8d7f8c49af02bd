"""How long a benchmark would take on more cores, from the seconds that its tasks took so far."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from absynth.errors import AbsynthError
from absynth.evaluate.status import planned_tasks, task_times
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.progress import Progress

CORES = (1, 8, 64, 512)

START_SECONDS = 0.02
"""What a task costs besides its own work: being sent to a worker and coming back, measured on Ray."""


@dataclass(frozen=True)
class Schedule:
    """A benchmark on several numbers of cores.

    Attributes:
        tasks: How many are scheduled.
        untimed: How many are left out, as no task of their attack and model has a known time.
        seconds: By number of cores, from the first start to the last end.
        work: Seconds of all tasks together, their starts included.
        longest: Seconds of the longest task, its start included; no number of cores does it in less.
        enough: The smallest number of cores that does it in that time.
        remarks: Which attacks were left out, a sentence each.
    """

    tasks: int
    untimed: int
    seconds: dict[int, float]
    work: float
    longest: float
    enough: int
    remarks: tuple[str, ...] = ()


def makespan(seconds: Sequence[float], cores: int) -> float:
    """When the last task ends if each core takes the longest task that is left as soon as it is free.

    At most 4/3 - 1/(3 cores) times what the best order takes (Graham, Bounds on multiprocessing timing
    anomalies, SIAM Journal on Applied Mathematics 17, 1969).

    Args:
        seconds: Of each task, at least one.
        cores: Each takes one task at a time.

    >>> makespan([2, 3, 4, 3], 2)
    6
    """
    free: list[float] = [0] * min(cores, len(seconds))
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def schedule(
    seconds: Sequence[float],
    *,
    cores: Sequence[int] = CORES,
    overhead: float = START_SECONDS,
    untimed: int = 0,
) -> Schedule:
    """The times of a benchmark on several numbers of cores, and where more of them stop helping.

    Args:
        seconds: Of each task, at least one.
        cores: Numbers of cores; each core takes one task at a time.
        overhead: Seconds that each task takes besides, above 0.
        untimed: How many tasks are left out.
    """
    whole = [duration + overhead for duration in seconds]
    longest = max(whole)
    # no fewer cores can do it, and a core for every task does it
    fewest = math.ceil(sum(whole) / longest - 1e-9)
    enough = next(count for count in range(fewest, len(whole) + 1) if makespan(whole, count) <= longest)
    times = {count: makespan(whole, count) for count in cores}
    return Schedule(len(whole), untimed, times, sum(whole), longest, enough)


def benchmark_schedule(
    preset: Preset,
    store: ResultStore,
    progress: Progress,
    *,
    load_model: Callable[[str], nn.Module] | None = None,
) -> Schedule:
    """The schedule of a whole benchmark, by the tasks in the store; nothing is attacked and nothing written.

    The clean accuracy is not counted, as its time is not kept.

    Args:
        preset: What would be run.
        store: Where finished tasks are; one of every attack and model gives the time of the others.
        progress: Where to show which model is looked at.
        load_model: How a name becomes a classifier; by default ``load_classifier``.

    Raises:
        AbsynthError: As for :func:`absynth.evaluate.runner.run_benchmark`, or if no task has a known time.
    """
    models = list(planned_tasks(preset, progress, load_model))
    times = [time for one in models for time in task_times(store, one.tasks, courses=preset.courses)]
    known = [time.estimate if time.measured is None else time.measured for time in times]
    seconds = [duration for duration in known if duration is not None]
    if not seconds:
        raise AbsynthError(
            f"{store.folder} holds no task of this benchmark to go by; run it with -n {preset.shard} "
            "first, which is the first task of each attack."
        )
    remarks = tuple(remark for planned in models for remark in planned.remarks)
    return replace(schedule(seconds, untimed=len(known) - len(seconds)), remarks=remarks)
