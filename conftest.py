"""Checks of types and shapes for all tests, sparingly for functions that one test calls many times.

A check takes longer than a step of a search on a small model, and a test of a search calls the same functions
thousands of times. So every function is checked at its first calls in each test, and then at one in many.
This file is read before the package is imported, and must not import it.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import jaxtyping
import pytest

FIRST = 100
"""Calls of a function that are all checked, in each test."""

THEN = 50
"""Of the calls after them, one in so many is checked."""

_calls: Counter[CodeType] = Counter()


def sparing(check: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator ``check`` of jaxtyping, which dresses a function only when a call is to be checked."""

    def dress(function: Any, *, typechecker: Any) -> Any:
        if not isinstance(function, FunctionType):
            return check(function, typechecker=typechecker)
        code = function.__code__  # an inner function keeps it, however often it is defined
        checked: Callable[..., Any] | None = None

        @functools.wraps(function)
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal checked
            _calls[code] = calls = _calls[code] + 1
            if calls > FIRST and calls % THEN:
                return function(*arguments, **named)
            if checked is None:
                checked = check(function, typechecker=typechecker)
            return checked(*arguments, **named)

        return called

    def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
        wanted = functools.partial(dress, typechecker=typechecker)
        return wanted if function is None else wanted(function)

    return jaxtyped


jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)  # where the import hook takes it for every function


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Counts the calls of every test from 0."""
    _calls.clear()


@pytest.fixture
def every_call_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose calls differ from one another in what they are given."""
    monkeypatch.setitem(globals(), "FIRST", sys.maxsize)


@pytest.fixture
def first_and_then() -> tuple[int, int]:
    """How many calls of a function are all checked, and of how many others one is."""
    return FIRST, THEN
