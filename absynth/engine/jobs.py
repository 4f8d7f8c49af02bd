"""A long computation as jobs, and what an engine is that runs them."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rich.progress import TaskID
from torch import nn

from absynth.errors import AbsynthError, FailedTasksError
from absynth.progress import Progress


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
        refuse: Takes the sentence of an :class:`AbsynthError` that ``work`` raised, and the other jobs go on;
            None where such a mistake would come up in every job.
    """

    name: str
    work: Callable[..., Any]
    model: Any
    arguments: tuple[Any, ...]
    finish: Callable[[Any, float], Job | None]
    refuse: Callable[[str], None] | None = None


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
    except (Exception, SystemExit):  # a user's code may end the program, and is not to end the others
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


def run_jobs(engine: Engine, jobs: Iterable[Job], progress: Progress, bar: TaskID | None) -> None:
    """Runs jobs and finishes each; one that fails does not keep the others from running.

    A mistake of the user's ends everything at once, unless the job says what else becomes of it.

    Args:
        engine: Where to run them.
        jobs: Asked for one by one, so that models can be loaded when their turn comes. A job that follows
            another comes before those that were not asked for yet.
        progress: Where to show which job was started or ended last.
        bar: The task of the display to show it at; None where jobs have bars of their own.

    Raises:
        AbsynthError: If a job raised one that it does not take itself.
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
                if job.refuse is None:
                    raise AbsynthError(outcome.mistake)
                job.refuse(outcome.mistake)
            elif outcome.failure is not None:
                failures.append((job.name, outcome.failure))
            elif (follower := job.finish(outcome.value, outcome.seconds)) is not None:
                following.append(follower)
    if failures:
        raise FailedTasksError(failures)
