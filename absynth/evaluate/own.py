"""A function in a user's own file: found by its name, loaded with what lies beside it, its faults told."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from absynth.attacks.target import private_randomness
from absynth.errors import AbsynthError
from absynth.evaluate.beside import HELPERS, MODEL, Room


def find_function(name: str, makes: str = "model") -> tuple[Path, str] | None:
    """The file and the function that ``my_file.py:make_model`` names; None for any other name.

    Args:
        name: What was given.
        makes: What the function makes.

    Raises:
        AbsynthError: If it names a file without a function.

    >>> find_function("models/mine.py:make_model")[1]
    'make_model'
    """
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function:
        return Path(file), function
    if name.rstrip(":").endswith(".py"):
        bare = name.rstrip(":")
        raise AbsynthError(
            f"'{name}' names no function; add the one that makes the {makes}, for example "
            f"{bare}:make_{makes}."
        )
    return None


@dataclass(frozen=True)
class OwnFile:
    """A user's file, as it was when it was read.

    Attributes:
        name: What was asked for, such as ``my_file.py:make_model``.
        path: Of the file.
        function: In the file.
        content: Of the file.
        room: The file with the modules beside it.
    """

    name: str
    path: Path
    function: str
    content: bytes
    room: Room

    @staticmethod
    def read(name: str, path: Path, function: str) -> OwnFile:
        """Reads a file, and runs nothing.

        Raises:
            AbsynthError: If it cannot be read.
        """
        content = read_file(path)
        return OwnFile(name, path, function, content, Room(path))

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the user's code runs, with all generators seeded with 0."""
        with private_randomness(0, torch.device("cpu")), self.telling(), self.room.opened():
            yield

    def load(self) -> Any:
        """What the file calls by the name of the function.

        Raises:
            AbsynthError: If there is nothing that can be called.
        """
        value = getattr(self.room.execute(self.content), self.function, None)
        if not callable(value):
            raise AbsynthError(
                f"{self.path} has no function '{self.function}'; name one that is in the file."
            )
        return value

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tells what the user's code raises in one sentence."""
        with _own_errors(self.name, self.room):
            yield

    def source(self) -> bytes:
        """What decides what the code does: the file and a digest of what lies beside it, all read by now."""
        self.room.complete(self.content)
        return self.content + self.room.digest()

    def digest(self) -> str:
        """A hash of the function's name and all of its source."""
        return hashlib.sha256(f"{self.function} ".encode() + self.source()).hexdigest()


def own_modules() -> list[ModuleType]:
    """The users' files that were loaded, and what they imported from beside them.

    Another process cannot import these by name.
    """
    every = list(sys.modules.values())
    return [module for module in every if module.__name__.startswith((MODEL, HELPERS))]


def read_file(path: Path) -> bytes:
    """The content of a user's file.

    Raises:
        AbsynthError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AbsynthError(
            f"The file {path} cannot be read ({error.strerror}); give the path of a Python file."
        ) from None


@contextmanager
def _own_errors(name: str, room: Room) -> Iterator[None]:
    """Tells what a user's code raised in one sentence, with the last line of the user's that took part.

    A program that ends itself there, as one that reads arguments may, raises something, too.
    """
    try:
        yield
    except AbsynthError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = {str(room.path): "", **{one.file: _beside(one.file, room) for one in room.sources.values()}}
        lines = [(frame.lineno, own[frame.filename]) for frame in frames if frame.filename in own]
        if isinstance(error, SyntaxError) and error.filename in own:
            lines.append((error.lineno, own[error.filename]))
        place = f" in line {lines[-1][0]}{lines[-1][1]}" if lines else ""
        words = " ".join(str(error).split()).replace(f"{room.name}.", "").replace(room.name, room.folder)
        if isinstance(error, SystemExit):
            raise AbsynthError(
                f"{name} ended the program{place} (SystemExit: {words}); keep what reads arguments or exits "
                "under if __name__ == '__main__', and run the same command again."
            ) from None
        raise AbsynthError(
            f"{name} raised {type(error).__name__}{place}: {words}; mend it and run the same command again."
        ) from None


def _beside(file: str, room: Room) -> str:
    """Says which helper's line it is, by its path from the folder of the user's file if it lies there."""
    own = Path(file)
    return f" of {own.relative_to(room.folder) if own.is_relative_to(room.folder) else own}"
