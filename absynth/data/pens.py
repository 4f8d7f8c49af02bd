"""Brings the strokes of a digit to the width that MNIST's pens have, and tilts and narrows it a little."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy import ndarray

from absynth.data.clutter import without_specks
from absynth.data.ink import Cropped, Grey, Mask, Resized
from absynth.data.pictures import resize

FINE_SIDE = 100
"""The longer side at which strokes are drawn anew: five times that of a digit in MNIST."""

SHARPENING, SHARPENING_REACH = 2.0, 8.0
"""How much what differs from its surroundings is stressed: holes that are grey become holes again."""

THINNEST, THICKEST = 0.10, 0.14
"""The widths of a stroke that are left as they are, as shares of a digit's longer side.

The middle half of 600 training images of MNIST have 0.09 to 0.13."""

EVEN_CHANGE = 24
"""Room around a digit for strokes that become thicker, in fine pixels."""


def trace(ink: Grey) -> Cropped:
    """The strokes of a digit at the fine size, cropped to them.

    Args:
        ink: From 0 on paper to 1 in a full stroke.
    """
    from scipy import ndimage

    factor = FINE_SIDE / max(ink.shape)
    fine = resize(ink, *(max(1, round(extent * factor)) for extent in ink.shape))
    fine = np.pad(fine, round(SHARPENING_REACH))
    around = ndimage.gaussian_filter(fine, SHARPENING_REACH)
    return crop(without_specks((fine + SHARPENING * (fine - around)) > 0.5))


def crop(mask: Mask) -> Cropped:
    """``mask`` without empty rows and columns at its sides; all of an empty one."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def skeleton(mask: Mask) -> Mask:
    """The lines of one pixel's width that have the form of the strokes (Zhang and Suen 1984)."""
    pixels = np.pad(mask, 1)
    height, width = mask.shape
    inner = pixels[1:-1, 1:-1]
    while True:
        changed = False
        for removable in _removable():
            code = np.zeros(mask.shape, dtype=np.uint8)
            for bit, (row, column) in enumerate(AROUND):
                code |= pixels[1 + row : 1 + row + height, 1 + column : 1 + column + width] << np.uint8(bit)
            removed = removable[code] & inner
            if removed.any():
                changed = True
                inner[removed] = False
        if not changed:
            return inner


AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""The eight neighbours of a pixel as rows and columns, clockwise from above."""


@cache
def _removable() -> tuple[ndarray, ndarray]:
    """For every pattern of neighbours, whether the first and the second half of a step remove the pixel."""
    first, second = np.zeros(256, dtype=bool), np.zeros(256, dtype=bool)
    for code in range(256):
        near = [bool(code >> bit & 1) for bit in range(8)]
        begins = sum(not near[bit] and near[(bit + 1) % 8] for bit in range(8))
        if not 2 <= sum(near) <= 6 or begins != 1:
            continue
        above, right, below, left = near[::2]
        first[code] = not (above and right and below) and not (right and below and left)
        second[code] = not (above and right and left) and not (above and below and left)
    return first, second


def redraw(strokes: Mask, width: float | None = None) -> Resized:
    """The strokes with the width of MNIST's pens, antialiased and cropped.

    What is thicker or thinner than the middle of the strokes stays so in proportion.

    Args:
        strokes: As :func:`trace` gives them.
        width: What to bring the strokes to, as a share of the digit's longer side; by default the nearest
            within those of MNIST.
    """
    from scipy import ndimage

    padded = np.pad(strokes, EVEN_CHANGE)
    inside = ndimage.distance_transform_edt(padded)
    lines = skeleton(padded)
    usual = float(np.median(inside[lines]))
    length = max(max(strokes.shape) - 2 * usual, 1.0)
    if width is None:
        width = min(max(2 * usual / (length + 2 * usual), THINNEST), THICKEST)
    radius = width * length / (2 * (1 - width))
    distance, nearest = ndimage.distance_transform_edt(~lines, return_indices=True)
    reach = radius / usual * inside[nearest[0], nearest[1]]
    drawn = (reach - distance + 0.5).clip(0, 1).astype(np.float32)
    rows, columns = np.nonzero(drawn > 0.3)
    result: Resized = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return result


def distort(strokes: Mask, narrowing: float, slant: float) -> Cropped:
    """The strokes narrowed and slanted, at the fine size again.

    Args:
        strokes: As :func:`trace` gives them.
        narrowing: What the width is multiplied with.
        slant: How many columns a row lies further left than the row above it.
    """
    from PIL import Image

    height, width = strokes.shape
    room = round(abs(slant) * height / 2) + 1
    image = Image.fromarray(np.pad(strokes, ((0, 0), (room, room))).astype(np.float32))
    if slant:
        shear = (1, slant, -slant * height / 2, 0, 1, 0)
        image = image.transform(image.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
    slanted = crop(np.asarray(image) > 0.5).astype(np.float32)
    height, width = slanted.shape[0], slanted.shape[1] * narrowing
    factor = FINE_SIDE / max(height, width)
    return crop(resize(slanted, max(1, round(height * factor)), max(1, round(width * factor))) > 0.5)
