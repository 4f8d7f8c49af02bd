"""Any classifier by name: of the zoo, saved in a folder, or made by a function in a user's own file."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from absynth.attacks.target import private_randomness
from absynth.data.domain import DIGITS, Size
from absynth.errors import AbsynthError
from absynth.evaluate.beside import HELPERS, MODEL, Room
from absynth.evaluate.tasks import weights_hash
from absynth.models.asked import as_module, serve
from absynth.surroundings import kept, standard
from absynth.zoo import load, model_folder

_sources: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()
"""What each model was made from: the user's file, and a digest of the modules beside it."""


def find_function(name: str) -> tuple[Path, str] | None:
    """The file and the function that ``my_file.py:make_model`` names; None for any other name.

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
            f"'{name}' names no function; add the one that makes the model, for example {bare}:make_model."
        )
    return None


def check_name(name: str) -> None:
    """Sees that there is a model of this name, without loading it.

    Raises:
        AbsynthError: If there is none.
    """
    found = find_function(name)
    if found is None:
        model_folder(name)
    else:
        _read(found[0])


def load_classifier(name: str, size: Size = DIGITS.size) -> nn.Module:
    """A classifier, in evaluation mode.

    A function in a file is called without arguments, with all generators seeded with 0, so that a model of
    random weights is the same whenever it is made. What it sets for the whole process, such as the
    working folder or the default type of tensors, holds while it is loaded
    (:func:`absynth.surroundings.kept`). The file can import modules beside it, which are its own
    (:mod:`absynth.evaluate.beside`).

    Args:
        name: A name of the zoo, a folder written by ``save_pretrained``, or ``my_file.py:make_model``.
        size: Rows and columns of the blank images that a user's model is tried on.

    Raises:
        AbsynthError: If there is no such file or function, it raises, or what it makes is no classifier of
            images of shape (batch, 1, height, width).
    """
    found = find_function(name)
    if found is None:
        return load(name)
    with kept():
        return _load_own(name, *found, size)


def _load_own(name: str, path: Path, function: str, size: Size) -> nn.Module:
    """What a function in a user's file makes."""
    source = _read(path)
    room = Room(path)
    with private_randomness(0, torch.device("cpu")), _own_errors(name, room), room.opened():
        module = room.execute(source)
        if not callable(make := getattr(module, function, None)):
            raise AbsynthError(f"{path} has no function '{function}'; name one that is in the file.")
        _check_maker(name, make)
        model = make()
    if isinstance(model, type):
        raise AbsynthError(
            f"{name} made the class {model.__name__} rather than a model; return {model.__name__}(...)."
        )
    if not callable(model):
        raise AbsynthError(
            f"{name} made a {type(model).__name__}; it must return a torch.nn.Module, or a function, from "
            "images to logits."
        )
    with _own_errors(name, room):
        served = _served(name, model, size)
        room.complete(source)
    _sources[served] = source + room.digest()
    return served


def _check_maker(name: str, make: Callable[..., Any]) -> None:
    """Sees that what makes a model can be called without arguments, and is no model itself.

    Raises:
        AbsynthError: If not.
    """
    advice = "name a function without arguments that returns the model"
    if isinstance(make, nn.Module):
        raise AbsynthError(f"{name} is a {type(make).__name__}, a model itself; {advice}.")
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return  # as of some that are written in C
    try:
        signature.bind()
    except TypeError as error:
        raise AbsynthError(f"{name} cannot be called without arguments ({error}); {advice}.") from None


def own_modules() -> list[ModuleType]:
    """The users' files that were loaded, and what they imported from beside them.

    Another process cannot import these by name.
    """
    every = list(sys.modules.values())
    return [module for module in every if module.__name__.startswith((MODEL, HELPERS))]


def identity(name: str, model: nn.Module) -> str:
    """A hash of all that decides what a model answers: its weights, and a user's function and source.

    The source is the user's file with the modules beside it that it may import, as they were when the model
    was loaded. What the code reads elsewhere, such as other files or the environment, is seen only as far as
    it shows in the weights or in how the model prints.

    Args:
        name: What it was loaded by.
        model: The model.
    """
    weights = weights_hash(model)
    found = find_function(name)
    if found is None:
        return weights
    path, function = found
    source = _sources.get(model)
    if source is None:
        room, content = Room(path), _read(path)
        room.complete(content)
        source = content + room.digest()
    return hashlib.sha256(f"{weights} {function} ".encode() + source).hexdigest()


def _read(path: Path) -> bytes:
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


def _served(name: str, model: Any, size: Size) -> nn.Module:
    """A user's model as any attack can ask it, once it has answered blank images."""
    try:
        module = as_module(model).eval()
        with standard(gradients=True):
            return serve(module, torch.zeros(2, 1, *size, device="cpu")).model
    except AbsynthError as error:
        if error.__cause__ is not None:
            raise error.__cause__ from None
        raise AbsynthError(str(error).replace("The model", name, 1)) from None
