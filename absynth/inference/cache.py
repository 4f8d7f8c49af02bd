"""Decoded codebooks kept on disk, so that a model that was loaded before is ready in a moment."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread, get_native_id

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from absynth.data.fetch import cache_folder
from absynth.files import atomic_path

CACHE_VARIABLE = "ABSYNTH_CODEBOOK_CACHE"
"""Environment variable that turns the cache off when it is 0."""

LEAST_BYTES = 2**24
"""Smaller tensors (5,000 prototypes of MNIST's size) are made sooner than it would be worth to keep them."""

MOST_BYTES = 2**32
"""Of all files together; those that were not read for the longest time go first."""

STALE = 3600.0
"""Seconds after which nobody writes a temporary file any more: a process that was killed left it."""

HASHED_AT_ONCE = 2**24
"""Bytes that a core hashes before it takes others."""

_writers: list[Thread] = []
"""Those that write what was made last."""


def fingerprint(tensors: Iterable[Tensor], recipe: str) -> str:
    """The SHA-256 of all that a computed tensor depends on.

    Rounding differs from one version of torch, one instruction set and one number of threads to another, so
    all three are part of it.

    Args:
        tensors: What the computation reads, on the CPU.
        recipe: The version of the computation and its settings.
    """
    machine = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    digest = hashlib.sha256(f"{recipe}, torch {torch.__version__}, {machine}".encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def remembered(key: str, size: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``make`` returns, read from the cache if they were made before.

    A file is read by mapping it into memory, and counts only if the SHA-256 of its tensors is the one noted
    when it was written; a damaged one is made again. It is written while the caller goes on
    (:func:`finish_writing` waits for that, as the end of the process does). A cache that cannot be written is
    no error.

    Args:
        key: The :func:`fingerprint` of what ``make`` computes.
        size: Bytes of most of the result; nothing is kept below 16 MiB or above 4 GiB.
        make: Computes the tensors, on the CPU.
    """
    if os.environ.get(CACHE_VARIABLE) == "0" or not LEAST_BYTES <= size <= MOST_BYTES:
        return make()
    finish_writing()
    path = cache_folder("codebooks") / f"{key}.safetensors"
    tensors = _read(path)
    if tensors is None:
        tensors = make()
        # taken here: a tensor that changes before it is written makes a file that does not count
        writer = Thread(target=_write, args=(path, tensors, _sha256(tensors)))
        _writers.append(writer)
        writer.start()
    return tensors


def finish_writing() -> None:
    """Waits until everything that was made so far is kept."""
    while _writers:
        _writers.pop().join()


def _write(path: Path, tensors: dict[str, Tensor], sha256: str) -> None:
    if sys.platform == "linux":  # where threads have a priority of their own
        os.setpriority(os.PRIO_PROCESS, get_native_id(), 19)  # the first answer needs the cores
    with suppress(OSError, SafetensorError):
        _make_room(path.parent, sum(tensor.nbytes for tensor in tensors.values()))
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"sha256": sha256})


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
        if _sha256(tensors) != expected:
            return None
    except (OSError, SafetensorError):
        return None
    with suppress(OSError):
        os.utime(path)
    return tensors


def _make_room(folder: Path, size: int) -> None:
    """Deletes what killed processes left, and what was not read for the longest time as far as needed."""
    temporary = [file for file in folder.glob(".*") if file.is_file()]
    for file in temporary:
        if time.time() - file.stat().st_mtime > STALE:
            file.unlink()
    kept = (file for file in folder.glob("*.safetensors") if file not in temporary)
    files = sorted(kept, key=lambda file: file.stat().st_mtime)
    used = sum(file.stat().st_size for file in files)
    for file in files:
        if used + size <= MOST_BYTES:
            break
        used -= file.stat().st_size
        file.unlink()


def _sha256(tensors: dict[str, Tensor]) -> str:
    """Of the SHA-256 of every piece of every tensor, which as many cores as there are make side by side."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content = _bytes(tensor)
            pieces = (
                content[first : first + HASHED_AT_ONCE] for first in range(0, len(content), HASHED_AT_ONCE)
            )
            for one in workers.map(hashlib.sha256, pieces):
                digest.update(one.digest())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
