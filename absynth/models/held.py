"""The networks that a model reaches and does not own: in a list, by an attribute, by a name in its code."""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Iterator, Set
from contextlib import suppress
from functools import partial
from itertools import islice
from types import FunctionType, MemberDescriptorType, MethodType, MethodWrapperType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEEPEST = 6
"""How many objects may lie between a model and a network that it holds, as in a list of dictionaries."""

MOST_ENTRIES = 1000
"""Of a container, so many entries are looked at: ensembles are smaller, and data sets are not searched."""

MOST_OBJECTS = 20_000
"""So many objects are looked at in all."""

LIBRARIES = frozenset(("torch", "numpy", "absynth"))
"""Packages whose modules own all their networks, and whose functions and other objects hold none."""

STANDARD = frozenset((*sys.stdlib_module_names, "builtins"))
"""Packages whose functions and classes hold none; an object of theirs may."""

INTERNAL = frozenset(vars(nn.Module()))
"""The attributes of a module that PyTorch keeps; what the module owns is among them."""

SIMPLE = (str, bytes, bytearray, int, float, complex, type(None), Tensor, np.ndarray, np.generic, torch.dtype)
"""Types of objects that hold no network."""


def held_networks(model: Any) -> list[nn.Module]:
    """The networks that a model reaches and does not own, the nearest first.

    Looked at are attributes, lists, tuples, dictionaries, the object of a method, the arguments of a
    ``partial``, and what the code of a function or of a model's class names. The search ends at
    :data:`DEEPEST` and leaves out the rest of containers with more than :data:`MOST_ENTRIES` entries.

    Args:
        model: A module or any other callable.

    Returns:
        Each network once; not the modules that it or the model owns, which ``modules()`` gives.

    >>> network = nn.Linear(2, 2)
    >>> held_networks({"members": [network, "a name"]}) == [network]
    True
    """
    owned = {id(part) for part in _modules(model)}
    found: list[nn.Module] = []
    # objects that are made on the way stay in `seen`, so that no other gets the same id
    seen: dict[int, Any] = {id(model): model}
    queue: deque[tuple[Any, int]] = deque([(model, 0)])
    while queue and len(seen) < MOST_OBJECTS:
        thing, depth = queue.popleft()
        if isinstance(thing, nn.Module) and id(thing) not in owned:
            found.append(thing)
            owned |= {id(part) for part in _modules(thing)}
        parts = [(child, depth) for child in thing.children()] if isinstance(thing, nn.Module) else []
        if depth < DEEPEST:
            parts += [(one, depth + 1) for one in _reached(thing)]
        for one, level in parts:
            if not isinstance(one, SIMPLE) and id(one) not in seen:
                seen[id(one)] = one
                queue.append((one, level))
    return found


def all_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that a model owns, and those of the networks that it reaches otherwise.

    Args:
        model: Any module.
    """
    every = [*model.modules(), *(part for held in held_networks(model) for part in held.modules())]
    return list({id(part): part for part in every}.values())


def tensors_of(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model; those of the networks that it reaches if it owns none.

    Args:
        model: Any module.
    """
    own = [*model.parameters(), *model.buffers()]
    return own or [
        tensor for held in held_networks(model) for tensor in (*held.parameters(), *held.buffers())
    ]


def comes_with(packages: Set[str], thing: Any) -> bool:
    """Whether a class or a function is part of a package.

    Args:
        packages: Names of some.
        thing: The class or the function.
    """
    return str(getattr(thing, "__module__", "")).partition(".")[0] in packages


def _modules(thing: Any) -> Iterator[nn.Module]:
    return thing.modules() if isinstance(thing, nn.Module) else iter(())


def _reached(thing: Any) -> Iterator[Any]:
    """What an object leads to in one step."""
    if isinstance(thing, nn.Module):
        if not comes_with(LIBRARIES, type(thing)):
            yield from (value for name, value in vars(thing).items() if name not in INTERNAL)
            yield from _of_class(thing)
    elif isinstance(thing, list | tuple | deque):
        yield from islice(thing, MOST_ENTRIES)
    elif isinstance(thing, dict):
        yield from islice(thing.values(), MOST_ENTRIES)
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, MethodWrapperType):
        yield thing.__self__
    elif isinstance(thing, FunctionType):
        if not comes_with(LIBRARIES | STANDARD, thing):
            yield from (
                *_named_by(thing),
                *(thing.__defaults__ or ()),
                *(thing.__kwdefaults__ or {}).values(),
            )
            yield from vars(thing).values()
    elif isinstance(thing, staticmethod | classmethod):
        yield thing.__func__
    elif not isinstance(thing, ModuleType | type) and not comes_with(LIBRARIES, type(thing)):
        with suppress(TypeError):
            yield from vars(thing).values()
        yield from _of_class(thing)


def _of_class(thing: Any) -> Iterator[Any]:
    """The methods and attributes that an object has from its classes, without those of libraries."""
    for kind in type(thing).__mro__:
        if not comes_with(LIBRARIES | STANDARD, kind):
            for value in vars(kind).values():
                # an attribute in a slot may have no value yet
                with suppress(AttributeError):
                    yield value.__get__(thing) if isinstance(value, MemberDescriptorType) else value


def _named_by(function: FunctionType) -> Iterator[Any]:
    """What the code of a function names, of what it encloses and of what is global."""
    with suppress(TypeError, ValueError):
        names = inspect.getclosurevars(function)
        yield from (*names.nonlocals.values(), *names.globals.values())
