"""MNIST's own recipe (LeCun et al. 1998): a digit is scaled to 20×20 pixels and placed by its mass."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from absynth.data.clutter import without_specks
from absynth.data.ink import Grey, Resized
from absynth.data.pictures import resize

SIDE, DIGIT_SIDE = 28, 20
MIDDLE = 14.0
"""Where MNIST has the centre of mass, as an index of rows and columns."""


def is_placed(picture: Grey) -> bool:
    """Whether a picture is as MNIST has them, perhaps with noise or an adversarial perturbation on top.

    Judged by the pixels above ½, of which every MNIST digit has a box of 13 to 20 pixels and a centre within
    1.7 pixels of the middle.
    """
    if picture.shape != (SIDE, SIDE) or np.median(_border(picture)) > 0.3:
        return False
    mask = without_specks(picture > 0.5)
    if not mask.any():
        return False
    rows, columns = np.nonzero(mask)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    offset = max(abs(rows.mean() - MIDDLE), abs(columns.mean() - MIDDLE))
    return bool(12 <= side <= DIGIT_SIDE and offset <= 2)


def _border(picture: ndarray) -> ndarray:
    """The pixels along the four edges."""
    inside = np.zeros(picture.shape, dtype=bool)
    inside[2:-2, 2:-2] = True
    return picture[~inside]


def place(ink: Grey) -> Float[ndarray, "28 28"]:
    """A digit's ink in an image as MNIST has them, from 0 on paper to 1 in a full stroke.

    Its longer side becomes 20 pixels, its centre of mass as near to the middle as whole pixels allow.
    """
    digit = _scale(ink)
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    corner = []
    for axis, extent in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis)
        center = float(mass @ np.arange(extent) / mass.sum())
        corner.append(min(max(round(MIDDLE - center), 0), SIDE - extent))
    image[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = digit
    return image


def _scale(ink: Grey) -> Resized:
    factor = DIGIT_SIDE / max(ink.shape)
    height, width = ink.shape
    return resize(ink, max(1, round(height * factor)), max(1, round(width * factor)))
