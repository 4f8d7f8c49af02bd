"""The engine of a name: local, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

from absynth.engine.jobs import Engine
from absynth.engine.local import LocalEngine, find_device
from absynth.errors import AbsynthError

ENGINES = ("local", "ray")


def open_engine(
    name: str = "local",
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    device: str | None = None,
    *,
    by_value: Callable[[], Iterable[ModuleType]] = tuple,
) -> AbstractContextManager[Engine]:
    """The engine of a name, as a context that ends its connection.

    Args:
        name: "local" or "ray".
        address: Of a Ray cluster; by default the one of this machine, or else one that is started here.
        cpus: That a job occupies, and its threads; by default 1. For "ray" alone.
        gpus: That a job occupies; above 0, models go to the GPU. For "ray" alone.
        device: Where models go, see :func:`find_device`; by default they stay where they are. For "local"
            alone.
        by_value: Names the modules that other machines cannot import, such as files of the user's; they are
            sent along with a model. By default there are none.

    Raises:
        AbsynthError: If there is no such engine, it takes no such settings, or it cannot be had.
    """
    if name == "ray":
        if device is not None:
            raise AbsynthError("A device is for the engine 'local'; on a cluster give the GPUs of a task.")
        from absynth.engine.cluster import connect

        return connect(address, cpus=1 if cpus is None else cpus, gpus=gpus or 0.0, by_value=by_value)
    if name not in ENGINES:
        raise AbsynthError(f"There is no engine '{name}'; choose one of {', '.join(ENGINES)}.")
    if any(value is not None for value in (address, cpus, gpus)):
        raise AbsynthError("An address, CPUs and GPUs a task are for the engine 'ray'; add --engine ray.")
    return nullcontext(LocalEngine(None if device is None else find_device(device)))
