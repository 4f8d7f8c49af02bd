"""Any classifier by name: of the zoo, saved in a folder, or made by a function in a user's own file."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from absynth.data.domain import DIGITS, Size
from absynth.errors import AbsynthError
from absynth.evaluate.own import OwnFile, find_function, read_file
from absynth.evaluate.tasks import weights_hash
from absynth.models.asked import as_module, serve
from absynth.surroundings import kept, standard
from absynth.zoo import load, model_folder

_sources: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()
"""What each model was made from: the user's file, and a digest of the modules beside it."""


def check_name(name: str) -> None:
    """Sees that there is a model of this name, without loading it.

    Raises:
        AbsynthError: If there is none.
    """
    found = find_function(name)
    if found is None:
        model_folder(name)
    else:
        read_file(found[0])


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
        return _load_own(OwnFile.read(name, *found), size)


def _load_own(own: OwnFile, size: Size) -> nn.Module:
    """What a function in a user's file makes."""
    name = own.name
    with own.running():
        make = own.load()
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
    with own.telling():
        served = _served(name, model, size)
        _sources[served] = own.source()
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
    source = _sources.get(model)
    if source is None:
        source = OwnFile.read(name, *found).source()
    return hashlib.sha256(f"{weights} {found[1]} ".encode() + source).hexdigest()


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
