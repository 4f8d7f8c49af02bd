"""Run as a script: commands that are killed at each of their writes, or find the disk full, and run again.

The children are forked after everything is imported, so that each needs a fraction of a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from absynth import cli
from absynth.data.catalog import CATALOG, SplitFiles
from absynth.evaluate import certification
from absynth.models.prototypes import NearestNeighbour
from absynth.training.recipes import cnn

MOST_KILLS = 100

ROOM = 8
"""Bytes that a file may have on the full disk."""

COMMANDS = {
    "train": (
        "train cnn --data ../../two.npz --epochs 3 --no-augment --validation 0 --out out --threads 1 --quiet"
    ),
    "certify": (
        "certify --model ../../model --data ../../two.npz --norm l2,linf --out out/radii.parquet --quiet"
    ),
    "bench": "bench --preset clean --model ../../model --data ../../two.npz --out out --quiet",
    "download": "data fetch mnist",
    "attack": "attack --model ../../model --data ../../two.npz --norm linf -n 2 --out out/found.npz --quiet",
}


@dataclass(frozen=True)
class Digits:
    """A source of files that are no digits, slow enough to be killed."""

    title: str = "a source"

    def read(self, name: str, workspace: Path) -> bytes:
        """The content of a file."""
        time.sleep(0.001)
        return name.encode() * 100


def prepare(folder: Path) -> None:
    """Writes a data set and a model of it, and puts a small data set in MNIST's place."""
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16), dtype=np.uint8)
    np.savez(folder / "two.npz", images=images, labels=np.arange(24) % 2)
    pixels, labels = torch.from_numpy(images[:, None]) / 255, torch.arange(24) % 2
    NearestNeighbour(pixels, labels).save_pretrained(folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config["data"] = {"class_names": ["0", "1"], "size": [16, 16], "digits": False}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    splits = {}
    for split, files in CATALOG["mnist"].splits.items():
        hashes = [hashlib.sha256(Digits().read(name, folder)).hexdigest() for name in files.hashes()]
        splits[split] = SplitFiles(files.images, files.labels, *hashes)
    CATALOG["mnist"] = replace(CATALOG["mnist"], splits=splits, sources=(Digits(),))
    certification.SHARD = 9
    cnn.SETTINGS = replace(cnn.SETTINGS, least_steps=100)


def kill_at(moment: int) -> None:
    """Kills this process at a write: before it, half-way through, before or after the file is renamed."""
    left = [moment]

    def pass_or_die() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    make, rename = tempfile.mkstemp, Path.replace

    def dying_make(*arguments: Any, **options: Any) -> tuple[int, str]:
        made = make(*arguments, **options)
        pass_or_die()
        return made

    def dying_rename(path: Path, destination: Path) -> Path:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        pass_or_die()
        path.write_bytes(whole)
        pass_or_die()
        renamed = rename(path, destination)
        pass_or_die()
        return renamed

    tempfile.mkstemp, Path.replace = dying_make, dying_rename  # type: ignore[assignment,method-assign]


def fill_the_disk() -> None:
    """From here on no file may be larger than a few bytes."""
    import resource  # which not every system has

    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))


def run(name: str, folder: Path, trouble: Callable[[], object] = bool) -> tuple[int, str]:
    """How a command ends in a folder, and what it says to the user."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(reader)
        os.chdir(folder)
        os.environ["ABSYNTH_CACHE"] = str(folder / "out")
        sys.argv = ["absynth", *COMMANDS[name].split()]
        said, status = io.StringIO(), 1
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            trouble()
            try:
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException as error:
                said.write(f"Traceback: {error!r}")
        os.write(writer, said.getvalue().encode())
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def whole_files(folder: Path) -> dict[str, str]:
    """The hash of every file that counts: what a killed run was writing begins with a dot."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def story(name: str, folder: Path) -> dict[str, Any]:
    """What becomes of a command that runs undisturbed, is killed at any moment, and finds a full disk.

    The first run in a folder is killed at the first moment of its writing, the next at its second and so on,
    until a run has less to write than that.
    """
    first, said = run(name, folder / "whole")
    expected = whole_files(folder / "whole")
    kills, lost, torn = 0, set(), set()
    while kills < MOST_KILLS:
        before = whole_files(folder / "killed")
        status, _ = run(name, folder / "killed", partial(kill_at, kills))
        if status != -signal.SIGKILL:
            break
        kills += 1
        after = whole_files(folder / "killed")
        lost |= before.keys() - after.keys()
        # A checkpoint changes as the training goes on; that it is whole is seen when the next run reads it.
        torn |= {file for file in after if after[file] != expected.get(file) and not file.endswith(".pt")}
    full = run(name, folder / "full", fill_the_disk)
    left = whole_files(folder / "full")
    again = run(name, folder / "full")
    return {
        "first": [first, said],
        "kills": kills,
        "lost": sorted(lost),
        "torn": sorted(torn),
        "killed": whole_files(folder / "killed") == expected,
        "full": full,
        "left": sorted(left),
        "again": again,
        "same": whole_files(folder / "full") == expected,
        "files": sorted(expected),
    }


if __name__ == "__main__":
    # Here once, or each child would import them; the last is what an optimiser of PyTorch begins with.
    import foolbox.attacks  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import torch._dynamo

    import absynth.evaluate.runner
    import absynth.report.certificates
    import absynth.report.markdown
    import absynth.report.tables
    import absynth.training.recipes
    import absynth.training.side_by_side  # noqa: F401

    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    prepare(place)
    print(json.dumps({name: story(name, place / name) for name in COMMANDS}))
