"""Where the pieces of a long computation run: one after the other in this process, or on a cluster."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from rich.progress import TaskID
from torch import nn

from absynth.errors import AbsynthError, FailedTasksError
from absynth.progress import Progress

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Job:
    """A call that depends on no other but the one that it follows.

    Attributes:
        name: What the progress display and a report of failure call it.
        work: A function of a module; it takes the model and the arguments.
        model: What :meth:`Engine.share` made of the model.
        arguments: The rest.
        finish: Takes what ``work`` returned and the seconds that it took; always runs in this process. It may
            return a job that follows.
    """

    name: str
    work: Callable[..., Any]
    model: Any
    arguments: tuple[Any, ...]
    finish: Callable[[Any, float], Job | None]


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        value: What it returned.
        seconds: How long it took.
        mistake: The sentence of an :class:`AbsynthError`; None if there was none.
        failure: The traceback of any other exception; None if there was none.
    """

    value: Any = None
    seconds: float = 0.0
    mistake: str | None = None
    failure: str | None = None


def attempt(work: Callable[..., Any], *arguments: Any) -> Outcome:
    """Calls ``work``; what it raises becomes part of the outcome."""
    started = time.perf_counter()
    try:
        value = work(*arguments)
    except AbsynthError as error:
        return Outcome(mistake=str(error))
    except Exception:
        return Outcome(failure=traceback.format_exc())
    return Outcome(value, time.perf_counter() - started)


@runtime_checkable
class Engine(Protocol):
    """Runs jobs."""

    def share(self, model: nn.Module) -> Any:
        """Makes a model available to jobs.

        Raises:
            AbsynthError: If it cannot be sent to where they run.
        """

    def run(self, next_job: Callable[[], Job | None]) -> Generator[tuple[Job, Outcome]]:
        """Yields each job once, as soon as it has ended; in any order.

        Args:
            next_job: Gives a job to run; None if there is none before another has ended, or none at all.
        """


class LocalEngine:
    """Runs jobs in this process, one after the other; the next is asked for when the last has ended.

    Args:
        device: Where models are moved to; by default they stay where they are.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    def share(self, model: nn.Module) -> nn.Module:
        """The model itself, on the device."""
        return model if self._device is None else place(model, self._device)

    def run(self, next_job: Callable[[], Job | None]) -> Generator[tuple[Job, Outcome]]:
        """Yields the jobs in their order."""
        while (job := next_job()) is not None:
            yield job, attempt(job.work, job.model, *job.arguments)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves a model to a device, where it then computes in single precision as on the processor.

    On a GPU, PyTorch otherwise lets convolutions round their factors to the ten bits of TensorFloat-32, which
    moves losses in their third digit.

    Args:
        model: Any model.
        device: Where it goes.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return model.to(device)


def find_device(name: str) -> torch.device:
    """The device of a name, such as "cpu", "cuda" or "cuda:1".

    Raises:
        AbsynthError: If PyTorch knows no such device or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        known = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise AbsynthError(f"There is no device '{name}' here; choose one of {known}.") from None
    return device


def run_jobs(engine: Engine, jobs: Iterable[Job], progress: Progress, bar: TaskID | None) -> None:
    """Runs jobs and finishes each; one that fails does not keep the others from running.

    A mistake of the user's ends everything at once, as it would come up in every job.

    Args:
        engine: Where to run them.
        jobs: Asked for one by one, so that models can be loaded when their turn comes. A job that follows
            another comes before those that were not asked for yet.
        progress: Where to show which job was started or ended last.
        bar: The task of the display to show it at; None where jobs have bars of their own.

    Raises:
        AbsynthError: If a job raised one.
        FailedTasksError: After all others are done, if jobs raised anything else.
    """
    upcoming, following = iter(jobs), deque[Job]()

    def announce(job: Job) -> None:
        if bar is not None:
            progress.update(bar, note=job.name)

    def next_job() -> Job | None:
        job = following.popleft() if following else next(upcoming, None)
        if job is not None:
            announce(job)
        return job

    failures = []
    with closing(engine.run(next_job)) as ended:
        for job, outcome in ended:
            announce(job)
            if outcome.mistake is not None:
                raise AbsynthError(outcome.mistake)
            if outcome.failure is not None:
                failures.append((job.name, outcome.failure))
            elif (follower := job.finish(outcome.value, outcome.seconds)) is not None:
                following.append(follower)
    if failures:
        raise FailedTasksError(failures)


def open_engine(
    name: str = "local",
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    device: str | None = None,
) -> AbstractContextManager[Engine]:
    """The engine of a name, as a context that ends its connection.

    Args:
        name: "local" or "ray".
        address: Of a Ray cluster; by default the one of this machine, or else one that is started here.
        cpus: That a job occupies, and its threads; by default 1. For "ray" alone.
        gpus: That a job occupies; above 0, models go to the GPU. For "ray" alone.
        device: Where models go, see :func:`find_device`; by default they stay where they are. For "local"
            alone.

    Raises:
        AbsynthError: If there is no such engine, it takes no such settings, or it cannot be had.
    """
    if name == "ray":
        if device is not None:
            raise AbsynthError("A device is for the engine 'local'; on a cluster give the GPUs of a task.")
        from absynth.evaluate.cluster import connect

        return connect(address, cpus=1 if cpus is None else cpus, gpus=gpus or 0.0)
    if name not in ENGINES:
        raise AbsynthError(f"There is no engine '{name}'; choose one of {', '.join(ENGINES)}.")
    if any(value is not None for value in (address, cpus, gpus)):
        raise AbsynthError("An address, CPUs and GPUs a task are for the engine 'ray'; add --engine ray.")
    return nullcontext(LocalEngine(None if device is None else find_device(device)))
