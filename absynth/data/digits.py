"""From any picture of digits to images as MNIST has them.

The paper is told from the ink (``ink``), what is no digit is taken off (``clutter``), the strokes of each
digit are put together (``pieces``) and brought to the width of MNIST's pens (``pens``), and MNIST's own
recipe places the digit (``placing``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from absynth.data.clutter import bounding_box
from absynth.data.domain import format_size
from absynth.data.ink import (
    Grey,
    Ink,
    Mask,
    NoInkError,
    Picture,
    Resized,
    darken,
    find_spot,
    shrink,
    working_side,
)
from absynth.data.pens import distort, redraw, trace
from absynth.data.pictures import read_picture
from absynth.data.pieces import count_digits, part_digits
from absynth.data.placing import is_placed, place
from absynth.data.strokes import find_strokes, measure
from absynth.errors import AbsynthError

MARGIN = 0.35
"""How much paper is looked at on each side of a digit, in lengths of its longer side."""

LARGE = 0.45
"""Digits that take up this share of a picture's height or width are large enough in it."""

DISTORTIONS = ((1.0, 0.0), (1.0, -0.2), (1.0, 0.2), (0.85, 0.0), (0.85, -0.2), (0.85, 0.2))
"""Narrowing and slant of each rendering of a digit. Chosen on the digits 797 to 1296 of the UCI data set."""


class SeveralDigitsError(AbsynthError):
    """A picture that should show one digit shows several.

    Attributes:
        count: How many, as far as they can be told apart.
    """

    def __init__(self, name: str, count: int) -> None:
        super().__init__(f"{name} shows {count} digits; cut it into one picture a digit.")
        self.count = count


@dataclass(frozen=True, eq=False)
class _Digit:
    """One digit at the working size.

    Attributes:
        ink: Of all digits, from 0 on paper to 1 in a full stroke.
        covered: The pixels that this one covers.
    """

    ink: Grey
    covered: Mask


@dataclass(frozen=True, eq=False)
class DigitImages:
    """One digit of a picture as images that a model trained on MNIST understands.

    Attributes:
        renderings: float32 in [0, 1], light on dark. The first is the digit as it was written, the others are
            slanted and narrowed a little. An image that is already as MNIST has them is the only one.
    """

    renderings: Float[Tensor, "renderings 1 28 28"]


def read_digit(path: str | Path, name: str | None = None) -> Float[Tensor, "1 28 28"]:
    """The digit in a picture file, as an image that a model trained on MNIST understands.

    Args:
        path: A picture of any size, grey or in colour, drawn, scanned or photographed, light on dark or dark
            on light (see :func:`absynth.data.pictures.read_picture`).
        name: What to call it in a message; by default its path.

    Returns:
        float32 in [0, 1], light on dark. An image that is already as MNIST has them comes back bit for bit.

    Raises:
        AbsynthError: If the file is no picture, or shows no ink.
        SeveralDigitsError: If it shows several digits.
    """
    return center_digit(read_picture(path, name), name=str(path) if name is None else name)


def center_digit(picture: Grey, name: str = "The picture") -> Float[Tensor, "1 28 28"]:
    """The digit in an array of grey values, as an image that a model trained on MNIST understands.

    Args:
        picture: float32 grey values in [0, 1] of shape (height, width).
        name: What to call the picture in a message.

    Raises:
        AbsynthError: If the picture shows no ink.
        SeveralDigitsError: If it shows several digits.

    >>> bar = np.ones((100, 60), dtype=np.float32)
    >>> bar[20:80, 27:33] = 0  # a black one on white paper
    >>> image = center_digit(bar)
    >>> image.shape, int((image > 0.5).any(dim=2).sum())
    (torch.Size([1, 28, 28]), 20)
    """
    placed = _as_placed(picture)
    return _render_only(picture, name, DISTORTIONS[:1])[0] if placed is None else placed


def render_digit(picture: Grey, name: str = "The picture") -> DigitImages:
    """The digit in an array of grey values, in several renderings that a model should read alike.

    Args:
        picture: As for :func:`center_digit`, whose image is the first rendering.
        name: What to call the picture in a message.

    Raises:
        AbsynthError: If the picture shows no ink.
        SeveralDigitsError: If it shows several digits.
    """
    placed = _as_placed(picture)
    return DigitImages(_render_only(picture, name, DISTORTIONS) if placed is None else placed[None])


def render_number(picture: Grey, name: str = "The picture") -> list[DigitImages]:
    """Every digit of a number in an array of grey values, from left to right.

    Args:
        picture: As for :func:`center_digit`.
        name: What to call the picture in a message.

    Raises:
        AbsynthError: If the picture shows no ink, or digits that touch each other.
    """
    placed = _as_placed(picture)
    if placed is not None:
        return [DigitImages(placed[None])]
    found = _find_digits(picture, name)
    if any(count_digits(one.covered) > 1 for one in found):
        raise AbsynthError(f"{name} shows digits that touch each other; leave a gap between them.")
    return [DigitImages(_render(one, DISTORTIONS)) for one in found]


def _as_placed(picture: Grey) -> Float[Tensor, "1 28 28"] | None:
    """A picture that is as MNIST has them, light on dark; else None."""
    for candidate in (picture, 1 - picture):
        if is_placed(candidate):
            return torch.tensor(candidate, dtype=torch.float32).unsqueeze(0)
    return None


def _render_only(
    picture: Grey, name: str, distortions: tuple[tuple[float, float], ...]
) -> Float[Tensor, "renderings 1 28 28"]:
    """The renderings of a picture's only digit.

    Raises:
        AbsynthError: If there is no ink.
        SeveralDigitsError: If there are several digits.
    """
    found = _find_digits(picture, name)
    count = sum(count_digits(one.covered) for one in found)
    if count > 1:
        raise SeveralDigitsError(name, count)
    return _render(found[0], distortions)


def _render(
    digit: _Digit, distortions: tuple[tuple[float, float], ...]
) -> Float[Tensor, "renderings 1 28 28"]:
    strokes = trace(np.where(digit.covered, digit.ink, 0)[bounding_box(digit.covered)])
    images = [place(redraw(distort(strokes, *one) if one != (1.0, 0.0) else strokes)) for one in distortions]
    return torch.from_numpy(np.stack(images)).unsqueeze(1)


def _find_digits(picture: Picture, name: str) -> list[_Digit]:
    """The digits from left to right.

    Raises:
        AbsynthError: If there is no ink.
    """
    dark = darken(picture)
    page = shrink(dark, working_side(dark.shape))
    try:
        strokes, found = find_strokes(page, name)
    except NoInkError:
        if (spot := find_spot(picture)) is None:
            raise
        raise AbsynthError(
            f"What {name} shows is too small to be read, {format_size(spot)} of {format_size(picture.shape)} "
            "pixels; cut it out with a little paper around it."
        ) from None
    if _is_small(strokes):
        page = _crop(dark, strokes, found)
        strokes, found = find_strokes(page, name)
    ink, covered = measure(strokes, found, name)
    parts = part_digits(strokes)
    return [_Digit(ink, covered & near) for near in _nearest(parts)]


def _is_small(strokes: Mask) -> bool:
    """Whether a picture shows its digits so small that they had better be cut out and looked at again."""
    rows, columns = np.nonzero(strokes)
    return bool(max(np.ptp(rows) / strokes.shape[0], np.ptp(columns) / strokes.shape[1]) < LARGE)


def _crop(picture: Picture, strokes: Mask, found: Ink) -> Resized:
    """The part of a picture around its digits, with enough of the paper to know it by, at working size.

    Args:
        picture: In full.
        strokes: Of its digits at working size.
        found: Their ink.
    """
    factor = max(picture.shape) / max(strokes.shape)
    rows, columns = np.nonzero(strokes)
    margin = MARGIN * (max(np.ptp(rows), np.ptp(columns)) + 1)
    window = []
    for indices, extent in zip((rows, columns), picture.shape, strict=True):
        start = max(0, int((indices.min() - margin) * factor))
        window.append(slice(start, min(extent, math.ceil((indices.max() + 1 + margin) * factor))))
    part = picture[window[0], window[1]]
    if found.clutter.any():  # a frame that is cut in pieces would no longer be known as one
        places = [
            ((np.arange(one.start, one.stop) + 0.5) / factor).astype(int).clip(0, extent - 1)
            for one, extent in zip(window, strokes.shape, strict=True)
        ]
        part = np.where(found.clutter[places[0]][:, places[1]], found.paper[places[0]][:, places[1]], part)
    return shrink(part, working_side(part.shape))


def _nearest(parts: list[Mask]) -> list[Mask]:
    """For each of several masks the pixels that are nearer to it than to the others."""
    if len(parts) == 1:
        return [np.ones_like(parts[0])]
    from scipy import ndimage

    distances = np.stack([ndimage.distance_transform_edt(~part) for part in parts])
    nearest = distances.argmin(axis=0)
    return [nearest == number for number in range(len(parts))]
