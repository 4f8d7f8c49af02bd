"""Writing files so that a crash never leaves half of one and nothing of a user's is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``destination`` and renames it there when the block succeeds.

    Args:
        destination: Where the finished file belongs; its folder is made if needed.

    Yields:
        A path with the same suffix in the same folder, removed again if the block raises.
    """
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


def write_text(destination: Path, text: str) -> None:
    """Writes ``text`` to ``destination`` at once or not at all (UTF-8)."""
    with atomic_path(destination) as temporary:
        temporary.write_text(text, encoding="utf-8")
