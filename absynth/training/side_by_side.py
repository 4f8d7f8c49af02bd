"""Trains the VAEs of all classes side by side, as jobs of an engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import TaskID
from torch import nn

from absynth.engine import Engine, Job, run_jobs
from absynth.files import write_bytes
from absynth.models.vae import VAE
from absynth.progress import Progress, progress_display
from absynth.training.checkpoints import Run
from absynth.training.vaes import ClassTraining, Histories

PIECE = 30.0
"""Seconds after which a job ends at its next checkpoint: about what is lost with a worker or this process."""


@dataclass(frozen=True)
class _ClassUnderWay:
    """The training of one class, whose jobs follow each other."""

    run: Run
    description: str
    epochs: int
    shared: Any
    progress: Progress
    bar: TaskID

    def next_job(self) -> Job | None:
        """What goes on from the checkpoint; None if nothing is left."""
        history = self.run.restore()
        if history:
            self.progress.update(self.bar, completed=len(history), note=f"loss {history[-1]:.3f}")
        if len(history) >= self.epochs:
            return None
        content = self.run.checkpoint.read_bytes() if history else None
        arguments = (self.run.checkpoint.name, content, PIECE)
        return Job(self.description, train_on, self.shared, arguments, self.finish)

    def finish(self, content: bytes, _: float) -> Job | None:
        """Keeps a new checkpoint and goes on from it."""
        write_bytes(self.run.checkpoint, content)
        return self.next_job()


def train_on(training: nn.Module, name: str, content: bytes | None, seconds: float) -> bytes:
    """Trains a VAE for a while, where the job runs.

    Args:
        training: A :class:`ClassTraining`.
        name: Of the file of its checkpoint.
        content: Of that file; None if there is none yet.
        seconds: After which to stop at the next checkpoint.

    Returns:
        The content of the new checkpoint.
    """
    assert isinstance(training, ClassTraining)
    end = time.monotonic() + seconds
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / name
        if content is not None:
            checkpoint.write_bytes(content)
        training.fit(Path(folder), progress_display(False), pause=lambda: time.monotonic() >= end)
        return checkpoint.read_bytes()


def fit_side_by_side(
    engine: Engine, trainings: Iterable[ClassTraining], folder: Path, progress: Progress
) -> tuple[list[VAE], Histories]:
    """Trains VAEs as jobs, with the checkpoints and weights of :func:`absynth.training.vaes.fit_in_turn`.

    A job trains one VAE from a checkpoint to another, and this process writes that one, so that any engine
    goes on with what another has begun.

    Args:
        engine: Where they are trained.
        trainings: One a class.
        folder: For the checkpoints.
        progress: Where to show each class's epochs and loss.

    Raises:
        AbsynthError: If a checkpoint is damaged or belongs to another run, or a job raised one.
        FailedTasksError: After all others are done, if jobs raised anything else.
    """
    runs: list[Run] = []

    def jobs() -> Iterator[Job]:
        for training in trainings:
            run = training.prepare(folder)
            runs.append(run)
            bar = progress.add_task(training.description, total=training.epochs, note="")
            shared = engine.share(training)
            way = _ClassUnderWay(run, training.description, training.epochs, shared, progress, bar)
            if (job := way.next_job()) is not None:
                yield job

    run_jobs(engine, jobs(), progress, None)
    vaes: list[VAE] = []
    histories: Histories = []
    for run in runs:
        histories.append(run.restore())
        assert isinstance(run.model, VAE)
        vaes.append(run.model.eval())
    return vaes, histories
