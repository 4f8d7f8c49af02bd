"""Run as a script: a small benchmark in child processes, killed again and again or two at once.

The children are forked after everything is imported, so that each needs a fraction of a second.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import absynth
from absynth.evaluate import runner
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.progress import progress_display

PRESET = Preset(
    models=("linear", "other"),
    suite="quick",
    attacks={"l2": ("fgm", "bim", "ddn"), "linf": ("pgd",), "l0": ("salt-and-pepper",)},
    images=12,
    clean_images=100,
    shard=3,
)
TASKS = 40
KILLS = 16
PATIENCE = 20.0
"""Seconds that a task may take."""


def load_linear(name: str) -> nn.Module:
    """The least-squares fit to the images; for the other name, to half of them."""
    images, labels = runner.load_dataset("mnist", "test")
    flat = images[: 200 if name == "linear" else 100].flatten(1)
    wanted = nn.functional.one_hot(labels[: len(flat)], 10).float()
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    weights = torch.linalg.solve(flat.T @ flat + torch.eye(784), flat.T @ wanted)
    model[1].weight = nn.Parameter(weights.T.contiguous())
    return model


def start(folder: Path) -> int:
    """Starts the benchmark in a child process, whose number it returns."""
    if child := os.fork():
        return child
    try:
        with progress_display(False) as progress:
            run_benchmark(PRESET, ResultStore(folder), progress, load_model=load_linear)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    """How a child ended; below 0 if by a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def done(folder: Path) -> int:
    """How many tasks a store holds."""
    return len(list((folder / "records").glob("[!.]*.parquet")))


def kill_and_resume(folder: Path, longest: float) -> dict[str, object]:
    """Kills the benchmark at random moments, then lets it finish.

    Every other time it may first finish a task, however slow the machine is at this moment.

    Args:
        folder: Of the store.
        longest: Seconds after which the latest kill comes.
    """
    draw, after = random.Random(0), []
    for number in range(KILLS):
        before, child = done(folder), start(folder)
        time.sleep(draw.uniform(0, longest))
        patience = time.monotonic() + PATIENCE
        while number % 2 and done(folder) == before < TASKS and time.monotonic() < patience:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        if wait(child) == -signal.SIGKILL:
            after.append(done(folder))
    return {"exits": [wait(start(folder))], "after": after}


if __name__ == "__main__":
    import foolbox.attacks  # noqa: F401  here once, or each child would import it when it attacks

    whole, other = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    images, labels = absynth.load_dataset("mnist", "test")
    runner.load_dataset = lambda *_: (images[:200], labels[:200])
    started = time.perf_counter()
    first = wait(start(whole))
    seconds = time.perf_counter() - started
    result = kill_and_resume(other / "killed", seconds / 3)
    children = [start(other / "together") for _ in range(2)]
    result["together"] = [wait(child) for child in children]
    print(json.dumps(result | {"first": first}))
