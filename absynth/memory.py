"""How much memory a call may take: one setting, which everything that works in pieces keeps to."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.shapes import Images

MEMORY_VARIABLE = "ABSYNTH_MEMORY"
"""Environment variable: megabytes that classifying any number of images may take beside model and answer."""

DEFAULT_MEGABYTES = 2000

STEPS_AT_ONCE = 4
"""Computations in pieces that may be under way within one another, each with its share of the memory."""


def memory_limit() -> int:
    """The bytes that classifying any number of images may take beside model, images and answer.

    The environment variable ``ABSYNTH_MEMORY`` sets it, in megabytes; by default it is 2 GB. Models then look
    at as many images at a time as fit, at least one. It does not bound what gradients need, and the
    reconstructions that :meth:`absynth.inference.ABS.infer` returns come on top.

    Raises:
        AbsynthError: If the environment variable is no positive whole number.

    >>> memory_limit()
    2000000000
    """
    value = os.environ.get(MEMORY_VARIABLE, str(DEFAULT_MEGABYTES))
    if not value.isdecimal() or int(value) == 0:
        raise AbsynthError(f"{MEMORY_VARIABLE} is '{value}'; set it to a number of megabytes, such as 2000.")
    return int(value) * 1_000_000


def at_once(bytes_each: int, most: int | None = None) -> int:
    """How many items to work on together: as many as the memory holds, at least one.

    Args:
        bytes_each: What one item takes with everything computed from it.
        most: More would be no faster.

    >>> at_once(1_000_000), at_once(1_000_000, most=64)
    (500, 64)
    """
    fitting = max(1, memory_limit() // STEPS_AT_ONCE // bytes_each)
    return fitting if most is None else max(1, min(most, fitting))


def in_pieces(
    classify: Callable[[Images], Tensor], images: Images, bytes_each: int, most: int | None = None
) -> Float[Tensor, "batch class"]:
    """What a function answers for images, asked for as many at a time as the memory holds.

    An exported graph asks for all at once, as it cannot depend on their number.

    Args:
        classify: Answers each image by itself.
        images: Any number.
        bytes_each: See :func:`at_once`.
        most: See there.
    """
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or torch.compiler.is_compiling():
        return classify(images)
    return torch.cat([classify(some) for some in images.split(at_once(bytes_each, most))])
