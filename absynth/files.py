"""Writing files so that a crash never leaves half of one and nothing of a user's is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absynth.errors import UnwritableError, first_line


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
        reason = error.strerror or first_line(error)
        raise UnwritableError(f"{destination} cannot be written ({reason}); {advice}.") from None


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
