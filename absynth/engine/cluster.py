"""Runs jobs on a Ray cluster; the only module that imports Ray."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from absynth.engine.jobs import Job, Outcome, attempt
from absynth.engine.local import place
from absynth.errors import AbsynthError

WINDOW = 2048
"""Jobs that are with the cluster at a time: enough to keep it busy and to make an autoscaler see demand."""

RETRIES = 3
"""How often a job is started again after its worker, or the worker's machine, was lost."""


class RayEngine:
    """Runs each job as a Ray task.

    This process alone writes results: what a task returns is small (an attack's adversarial images, about
    150 KB, or the checkpoint of a VAE, about 1 MB), so workers need no file system in common with it, and
    what is on disk is, whatever dies and whenever, what a run in one process would have written up to then.
    A model goes into the object store once; a worker keeps the one it used last. Its class travels by value
    where it stands in a module that ``by_value`` names, and by name otherwise.

    Args:
        cpus: That a task occupies, and its threads.
        gpus: That a task occupies; above 0, the model is moved to the GPU.
        by_value: Names the modules that workers cannot import; asked whenever a model is shared.
    """

    def __init__(self, cpus: int, gpus: float, by_value: Callable[[], Iterable[ModuleType]]) -> None:
        ray = _import_ray()
        options = {"num_cpus": cpus, "max_retries": RETRIES} | ({"num_gpus": gpus} if gpus else {})
        self._run = ray.remote(**options)(_run_on_worker)
        self._settings = cpus, gpus > 0
        self._by_value = by_value

    def share(self, model: nn.Module) -> Any:
        """Puts a model into the object store.

        Raises:
            AbsynthError: If it holds what cannot be sent to another process.
        """
        cloudpickle = _import_ray().cloudpickle
        for module in self._by_value():
            cloudpickle.register_pickle_by_value(module)
        try:
            content = cloudpickle.dumps(model)
        except Exception as error:
            raise AbsynthError(
                f"A {type(model).__name__} cannot be sent to the workers ({_in_words(error)}); "
                "keep such things out of the module, or run it with --engine local."
            ) from None
        return _import_ray().put(content)

    def run(self, next_job: Callable[[], Job | None]) -> Generator[tuple[Job, Outcome]]:
        """Yields jobs as they end; those still with the cluster are cancelled if it is closed early."""
        ray = _import_ray()
        waiting: dict[Any, Job] = {}
        try:
            while (job := next_job() if len(waiting) < WINDOW else None) is not None or waiting:
                if job is not None:
                    # within a list the model stays a reference: a worker that has it need not fetch it again
                    started = self._run.remote([job.model], self._settings, job.work, job.arguments)
                    waiting[started] = job
                ended, _ = ray.wait(list(waiting), timeout=None if job is None else 0)
                for reference in ended:
                    yield waiting.pop(reference), _outcome(reference)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


@contextmanager
def connect(
    address: str | None = None,
    *,
    cpus: int = 1,
    gpus: float = 0.0,
    by_value: Callable[[], Iterable[ModuleType]] = tuple,
) -> Iterator[RayEngine]:
    """The engine of a Ray cluster, left again at the end of the block.

    Args:
        address: Of the cluster, such as "10.0.0.1:6379"; by default the one that RAY_ADDRESS names or that
            runs on this machine, or else one that is started here for as long as the block.
        cpus: That a task occupies, and its threads.
        gpus: That a task occupies.
        by_value: Names the modules that workers cannot import; by default there are none.

    Raises:
        AbsynthError: If Ray is missing, there is no such cluster, or none of its machines is large enough.
    """
    ray = _import_ray()
    joined = ray.is_initialized()
    if not joined:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            if not isinstance(error, ConnectionError) and (place := _unfit_folder(error)):
                raise AbsynthError(
                    f"Ray cannot use the folder {place} for its sockets and logs ({_in_words(error)}); set "
                    "RAY_TMPDIR to a folder of your own with a short path, such as /tmp/me."
                ) from None
            raise AbsynthError(
                f"No Ray cluster can be reached ({_in_words(error)}); start one with 'ray start --head', or "
                "give the address of one."
            ) from None
    try:
        _check_resources(cpus, gpus)
        yield RayEngine(cpus, gpus, by_value)
    finally:
        if not joined:
            ray.shutdown()


def _unfit_folder(error: Exception) -> str | None:
    """The folder that Ray works in, if the error is about it and not about a cluster."""
    words = str(error).lower()
    about_a_file = isinstance(error, OSError) and error.errno is not None
    if not about_a_file and not any(one in words for one in ("af_unix", "socket", "temp", "permission")):
        return None
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    return str(Path(folder) / "ray")


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise AbsynthError(
            "The engine 'ray' needs Ray; install absynth with the extra 'ray', or leave out --engine."
        ) from None
    return ray


def _check_resources(cpus: int, gpus: float) -> None:
    nodes = [node["Resources"] for node in _import_ray().nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        raise AbsynthError(
            f"No machine of the cluster has {cpus} CPUs and {gpus:g} GPUs for a task; ask for fewer."
        )


def _outcome(reference: Any) -> Outcome:
    ray = _import_ray()
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(failure=f"{type(error).__name__}: {error}")
    return outcome


def _run_on_worker(
    model: list[Any], settings: tuple[int, bool], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> Outcome:
    threads, on_gpu = settings
    torch.set_num_threads(threads)
    fetched = attempt(_fetch_model, model[0], on_gpu)
    return fetched if fetched.value is None else attempt(work, fetched.value, *arguments)


@lru_cache(maxsize=1)
def _fetch_model(reference: Any, on_gpu: bool) -> nn.Module:
    ray = _import_ray()
    content = ray.get(reference)
    try:
        model: nn.Module = ray.cloudpickle.loads(content)
    except Exception as error:
        raise AbsynthError(
            f"A worker cannot make the model ({_in_words(error)}); install on every machine what it needs."
        ) from None
    return place(model, torch.device("cuda")) if on_gpu else model


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
