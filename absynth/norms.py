"""The four norms, and the box [0, 1] that every image lives in."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.shapes import Images

Norm = Literal["l2", "l1", "linf", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)


_ORDER = re.compile(r"(0|[1-9][0-9]*)([.]0*)?|inf(inity)?")
"""An order as text; "02" is more likely a slip than a 2."""

_ORDERS: dict[float, Norm] = {2.0: "l2", 1.0: "l1", math.inf: "linf", 0.0: "l0"}


def parse_norm(name: Any) -> Norm:
    """The norm called ``name``, or of that order.

    Args:
        name: A name in any case, such as "l2", "L_inf", "Linf" or "inf", or the order: 2, 1, 0 or infinity.

    Raises:
        AbsynthError: If there is no such norm.

    >>> parse_norm("L_inf"), parse_norm(2), parse_norm(float("inf"))
    ('linf', 'l2', 'linf')
    """
    order = name
    if isinstance(name, str) and not any(letter.isspace() for letter in name.strip()):
        order = name.strip().lower().replace("_", "").removeprefix("l").replace("∞", "inf")
        order = order if _ORDER.fullmatch(order) else None
    with suppress(TypeError, ValueError, OverflowError, RuntimeError):
        if not isinstance(name, bool) and float(order) in _ORDERS:
            return _ORDERS[float(order)]
    several = ", one at a time" if isinstance(name, str) and "," in name else ""
    raise AbsynthError(f"There is no norm '{name}'; choose one of {', '.join(NORMS)}{several}.")


def distance(first: Images, second: Images, norm: Norm) -> Float[Tensor, "batch"]:
    """How far two batches of images are apart, image by image, in float64.

    L0 counts pixels: a pixel that differs in several channels counts once.

    Args:
        first: Images of shape (batch, channel, height, width).
        second: Images of the same shape.
        norm: Which norm.

    >>> distance(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5), "l2")
    tensor([1.], dtype=torch.float64)
    """
    difference = (first.double() - second.double()).abs()
    if norm == "l0":
        return (difference.amax(dim=1) > 0).flatten(1).sum(dim=1).double()
    order = {"l2": 2.0, "l1": 1.0, "linf": torch.inf}[norm]
    result: Tensor = torch.linalg.vector_norm(difference.flatten(1), ord=order, dim=1)
    return result
