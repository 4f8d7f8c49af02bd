"""The steps that commands share; it imports PyTorch, so a command imports it only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from absynth.certify import Method, make_method
from absynth.cli.options import ClusterOptions
from absynth.data import Dataset
from absynth.engine import Engine, open_engine
from absynth.errors import AbsynthError
from absynth.evaluate.data import read_for
from absynth.evaluate.own import own_modules
from absynth.evaluate.tasks import choose_images
from absynth.norms import Norm, parse_norm
from absynth.progress import Progress, progress_display
from absynth.shapes import Images, Labels


def parse_norms(names: str) -> list[Norm]:
    """The norms of ``--norm``.

    Args:
        names: One or several with commas.

    Raises:
        AbsynthError: If one is unknown.

    >>> parse_norms("l2,linf")
    ['l2', 'linf']
    """
    return [parse_norm(name) for name in names.split(",")]


def parse_method(name: str | None, settings: Sequence[str]) -> Method | None:
    """The method of ``--method`` with the settings of ``--set``; None if none is asked for.

    Args:
        name: One of :data:`absynth.certify.provers.METHODS`.
        settings: Each as name=value.

    Raises:
        AbsynthError: If there is no such method or setting, or a value cannot be read.
    """
    if name in (None, "auto"):
        if settings:
            raise AbsynthError("--set is for a method; name it with --method, or leave --set out.")
        return None
    given = dict[str, str]()
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise AbsynthError(f"'--set {setting}' has no value; write it as name=value.")
        given[key.strip()] = value.strip()
    return make_method(name, given)


def show_remarks(remarks: Iterable[str]) -> None:
    """Prints what was left out or changed while reading, where it does not mix with results.

    Args:
        remarks: One a line.
    """
    for remark in remarks:
        print(remark, file=sys.stderr)


def read_data(model: str, data: str, split: str, *, strict: bool) -> Dataset:
    """The data set in the form that the model takes; prints the remarks.

    Args:
        model: Its name.
        data: Name or path.
        split: train or test.
        strict: A picture that cannot be read is an error.

    Raises:
        AbsynthError: As for :func:`absynth.evaluate.data.read_for`.
    """
    dataset = read_for([model], data, split, strict=strict)
    show_remarks(dataset.remarks)
    return dataset


@dataclass(frozen=True)
class Sample:
    """Some images of a data set.

    Attributes:
        images: The images themselves.
        labels: Their classes.
        rows: Which images of the data set they are.
    """

    images: Images
    labels: Labels
    rows: Sequence[int]


def draw_sample(dataset: Dataset, count: int, seed: int) -> Sample:
    """The images that ``-n`` and ``--seed`` choose.

    Args:
        dataset: Where they come from.
        count: How many.
        seed: Of the draw.

    Raises:
        AbsynthError: If there are not that many.
    """
    rows = list(choose_images(len(dataset.images), count, seed))
    return Sample(dataset.images[rows], dataset.labels[rows], rows)


@contextmanager
def open_engine_and_progress(options: ClusterOptions, *, quiet: bool) -> Generator[tuple[Engine, Progress]]:
    """The engine that was asked for and a progress display, both closed at the end.

    Args:
        options: Which engine.
        quiet: Show no progress.

    Raises:
        AbsynthError: As for :func:`absynth.engine.open_engine`.
    """
    with (
        open_engine(*astuple(options), by_value=own_modules) as engine,
        progress_display(not quiet) as progress,
    ):
        yield engine, progress
