"""Writing files so that a crash never leaves half of one and nothing of a user's is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absynth.errors import AbsynthError, UnwritableError, first_line

OTHER = "choose another place"


@contextmanager
def atomic_path(destination: Path, advice: str = "make room there or choose another place") -> Iterator[Path]:
    """Yields a temporary path beside ``destination`` and renames it there when the block succeeds.

    Args:
        destination: Where the finished file belongs; its folder is made if needed.
        advice: What to do if it cannot be written.

    Yields:
        A path with the same suffix in the same folder, removed again if the block raises.

    Raises:
        UnwritableError: If the file cannot be written, because the disk is full or for any other reason.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{destination.stem}-", suffix=destination.suffix, dir=destination.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(destination)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if (file := file_in_the_way(destination.parent)) is not None:
            raise UnwritableError(
                f"{destination} cannot be written, as {file} is a file; {advice}."
            ) from None
        reason = error.strerror or first_line(error)
        raise UnwritableError(f"{destination} cannot be written ({reason}); {advice}.") from None


def file_in_the_way(folder: Path) -> Path | None:
    """The file that keeps a folder from being made: itself or one that it lies in; None if none does."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            return None if place.is_dir() else place
    return None


def check_writable(destination: Path) -> None:
    """Sees that a file can be written, before the work for it is done; nothing is left behind.

    Args:
        destination: Where the file will belong.

    Raises:
        AbsynthError: If it is a folder, lies in a file, or its folder takes no files.
    """
    if destination.is_dir():
        raise AbsynthError(f"{destination} is a folder; name a file.")
    _try(destination.parent, destination, destination.suffix)


def check_folder(folder: Path) -> None:
    """Sees that files can be written into a folder, which may have to be made; nothing is left behind.

    Args:
        folder: Where the files will belong.

    Raises:
        AbsynthError: If it is a file, lies in one, or takes no files.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise AbsynthError(f"{folder} is a file; name a folder.")
    _try(folder, folder, "")


def _try(folder: Path, meant: Path, suffix: str) -> None:
    """Makes a file, and removes it, in a folder or in the nearest there is of those that it lies in."""
    if (file := file_in_the_way(folder)) is not None:
        raise UnwritableError(f"{meant} cannot be written, as {file} is a file; {OTHER}.")
    nearest = next(place for place in (folder, *folder.parents) if place.is_dir())
    try:
        handle, name = tempfile.mkstemp(prefix=f".{meant.stem}-", suffix=suffix, dir=nearest)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UnwritableError(f"{meant} cannot be written ({reason}); {OTHER}.") from None


def write_bytes(destination: Path, content: bytes) -> None:
    """Writes ``content`` to ``destination`` at once or not at all.

    Raises:
        UnwritableError: If it cannot be written.
    """
    with atomic_path(destination) as temporary:
        temporary.write_bytes(content)


def write_text(destination: Path, text: str) -> None:
    """Writes ``text`` to ``destination`` at once or not at all (UTF-8).

    Raises:
        UnwritableError: If it cannot be written.
    """
    write_bytes(destination, text.encode())
