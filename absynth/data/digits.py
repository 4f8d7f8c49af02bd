"""From any picture of one digit to an image as MNIST has them.

MNIST's own recipe (LeCun et al. 1998): the digit is light on dark, scaled to fit 20×20 pixels with its
proportions kept, and placed in 28×28 pixels with its centre of mass in the middle. What comes before the
recipe is ours: the paper is told from the ink, and uneven light and noise are taken out.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from absynth.data.pictures import read_picture, resize
from absynth.errors import AbsynthError

Grey = Float[ndarray, "height width"]
Resized = Float[ndarray, "new_height new_width"]
Mask = Bool[ndarray, "height width"]

SIDE, DIGIT_SIDE = 28, 20
MIDDLE = 14.0
"""Where MNIST has the centre of mass, as an index of rows and columns."""

WORKING_SIDE = 200
"""Every picture is brought to this longer side first: it is plenty for a digit of 20 pixels."""

MARGIN = 0.35
"""How much paper is looked at on each side of a digit, in lengths of its longer side."""

PAPER_WINDOW = 0.35
"""What is wider than this share of a picture's longer side is paper or shadow, not a stroke."""

SMALLEST_DIGIT = 0.1
"""A piece inside the picture that is at least this share of its longer side may be a digit."""

SHADOW = 0.75
"""What touches the picture's edge and is this much fainter than such a piece is shadow."""

RIM = 0.1
"""The ink, as a share of a full stroke's, at which a stroke begins."""

LEAST_CONTRAST = 0.06
"""Ink that differs less from the paper than this is none."""

SPECK = 0.03
"""A separate piece of less than this share of the largest piece's area is dirt."""


def read_digit(path: str | Path, name: str | None = None) -> Float[Tensor, "1 28 28"]:
    """The digit in a picture file, as an image that a model trained on MNIST understands.

    Args:
        path: A PNG, JPEG or .npy picture of any size, grey or in colour, drawn, scanned or photographed,
            light on dark or dark on light (see :func:`absynth.data.pictures.read_picture`).
        name: What to call it in a message; by default its path.

    Returns:
        float32 in [0, 1], light on dark. An image that is already as MNIST has them comes back bit for bit.

    Raises:
        AbsynthError: If the file is no picture, or shows no ink.
    """
    return center_digit(read_picture(path, name), name=str(path) if name is None else name)


def center_digit(picture: Grey, name: str = "The picture") -> Float[Tensor, "1 28 28"]:
    """The digit in an array of grey values, as an image that a model trained on MNIST understands.

    Args:
        picture: float32 grey values in [0, 1] of shape (height, width).
        name: What to call the picture in a message.

    Raises:
        AbsynthError: If the picture shows no ink.

    >>> bar = np.ones((100, 60), dtype=np.float32)
    >>> bar[20:80, 27:33] = 0  # a black one on white paper
    >>> image = center_digit(bar)
    >>> image.shape, int((image > 0.5).any(dim=2).sum())
    (torch.Size([1, 28, 28]), 20)
    """
    for candidate in (picture, 1 - picture):
        if _is_centered(candidate):
            return torch.tensor(candidate, dtype=torch.float32).unsqueeze(0)
    ink, digit = _find_ink(_to_working_size(_crop(picture, name)), name)
    rows, columns = np.nonzero(digit)
    ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return torch.from_numpy(_place(_scale(ink))).unsqueeze(0)


def _is_centered(picture: Grey) -> bool:
    """Whether a picture is as MNIST has them, perhaps with noise or an adversarial perturbation on top.

    Judged by the pixels above ½, of which every MNIST digit has a box of 13 to 20 pixels and a centre within
    1.7 pixels of the middle.
    """
    if picture.shape != (SIDE, SIDE) or np.median(_border(picture)) > 0.3:
        return False
    mask = _without_specks(picture > 0.5)
    if not mask.any():
        return False
    rows, columns = np.nonzero(mask)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    offset = max(abs(rows.mean() - MIDDLE), abs(columns.mean() - MIDDLE))
    return bool(12 <= side <= DIGIT_SIDE and offset <= 2)


def _border(picture: ndarray) -> ndarray:
    """The pixels along the four edges."""
    width = max(1, min(picture.shape) // 14)
    inside = np.zeros(picture.shape, dtype=bool)
    inside[width:-width, width:-width] = True
    return picture[~inside]


def _crop(picture: Grey, name: str) -> Resized:
    """The part of a picture around its digit, with enough of the paper to know it by.

    Raises:
        AbsynthError: If there is no ink.
    """
    small = _to_working_size(picture)
    _, strokes = _find_ink(small, name)
    factor = max(picture.shape) / max(small.shape)
    rows, columns = np.nonzero(strokes)
    margin = MARGIN * (max(np.ptp(rows), np.ptp(columns)) + 1)
    window = []
    for indices, extent in zip((rows, columns), picture.shape, strict=True):
        start = max(0, int((indices.min() - margin) * factor))
        window.append(slice(start, min(extent, math.ceil((indices.max() + 1 + margin) * factor))))
    return picture[window[0], window[1]]


def _find_ink(picture: Grey, name: str) -> tuple[Grey, Mask]:
    """How inked each pixel is, from 0 on paper to 1 in a full stroke, and which pixels the digit covers.

    Raises:
        AbsynthError: If there is no ink.
    """
    from scipy import ndimage

    side = max(picture.shape)
    blur = max(0.5, side / 150)
    smooth = ndimage.gaussian_filter(picture, blur)
    noise = 1.48 * float(np.median(np.abs(picture - smooth)))
    darker, lighter = _contrast(smooth)
    blank = AbsynthError(
        f"{name} shows no ink; give a picture of one digit that stands out from its background."
    )
    if max(darker, lighter) < max(LEAST_CONTRAST, noise):
        raise blank
    window = max(3, round(PAPER_WINDOW * side))
    if darker > lighter:  # ink takes away a share of the light that falls on the paper, be it much or little
        paper = ndimage.gaussian_filter(ndimage.grey_closing(smooth, size=(window, window)), blur).clip(0.05)
        excess, smooth = 1 - picture / paper, 1 - smooth / paper
    else:
        paper = ndimage.gaussian_filter(ndimage.grey_opening(smooth, size=(window, window)), blur)
        excess, smooth = picture - paper, smooth - paper
    if np.ptp(smooth) < LEAST_CONTRAST:  # all that stood out was wider than a stroke
        raise blank
    strokes = _without_shadows(_without_specks(smooth > _otsu(smooth)), smooth)
    # The faint rim of a stroke belongs to it: it is what MNIST's antialiasing and its box are made of.
    around = ndimage.binary_dilation(strokes, iterations=max(1, side // 40))
    zero = float(np.median(smooth[~around])) if not around.all() else 0.0
    level = float(np.percentile(smooth[strokes], 90)) - zero
    if level < LEAST_CONTRAST / 2:
        raise blank
    ink = np.where(around, (excess - zero) / level, 0).clip(0, 1).astype(np.float32)
    return ink, strokes | (around & (smooth - zero > RIM * level))


def _contrast(picture: Grey) -> tuple[float, float]:
    """How far a picture goes below and above its paper.

    The paper is a parabolic surface, fitted to the border first and then to all that is like it.
    """
    step = max(1, max(picture.shape) // 60)
    sample = picture[::step, ::step].astype(np.float64)
    height, width = sample.shape
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    powers = np.stack([np.ones_like(rows), rows, columns, rows * columns, rows**2, columns**2])
    edge = max(1, min(sample.shape) // 12)
    paper = np.ones(sample.shape, dtype=bool)
    paper[edge:-edge, edge:-edge] = False
    for _ in range(8):
        terms = powers[:, paper]
        # einsum, as a product this small is no work for threads
        squares, products = np.einsum("in,jn->ij", terms, terms), np.einsum("in,n->i", terms, sample[paper])
        weights = np.linalg.lstsq(squares, products, rcond=None)[0]
        deviation = sample - np.einsum("ihw,i->hw", powers, weights)
        paper = np.abs(deviation) <= max(0.02, 3 * 1.48 * float(np.median(np.abs(deviation[paper]))))
    low, high = np.percentile(deviation, (0.1, 99.9))
    return -float(low), float(high)


def _to_working_size(picture: Grey) -> Resized:
    factor = WORKING_SIDE / max(picture.shape)
    height, width = (max(1, round(extent * factor)) for extent in picture.shape)
    return resize(picture, height, width)


def _otsu(values: Grey) -> float:
    """The threshold that best parts the values into two groups (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centers).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between)])


def _without_specks(mask: Mask) -> Mask:
    """``mask`` without the pieces that are tiny beside the largest one."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    result: Mask = (areas >= SPECK * areas.max())[pieces] & mask
    return result


def _without_shadows(mask: Mask, strength: Grey) -> Mask:
    """``mask`` without the pieces at the picture's edge that are fainter than a piece inside."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    numbers = np.arange(1, count + 1)
    levels = np.asarray(ndimage.mean(strength, pieces, numbers))
    extents = np.array([max(part.stop - part.start for part in box) for box in ndimage.find_objects(pieces)])
    at_edge = np.isin(numbers, np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    inside = ~at_edge & (extents >= SMALLEST_DIGIT * max(mask.shape))
    if not inside.any():
        return mask
    shadows = at_edge & (levels < SHADOW * levels[inside].max())
    return mask & ~np.isin(pieces, numbers[shadows])


def _scale(ink: Grey) -> Resized:
    """``ink`` with its longer side at 20 pixels."""
    height, width = ink.shape
    factor = DIGIT_SIDE / max(height, width)
    return resize(ink, max(1, round(height * factor)), max(1, round(width * factor)))


def _place(digit: Grey) -> Float[ndarray, "28 28"]:
    """``digit`` in an empty image, its centre of mass as near to the middle as whole pixels allow."""
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    corner = []
    for axis, extent in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis)
        center = float(mass @ np.arange(extent) / mass.sum())
        corner.append(min(max(round(MIDDLE - center), 0), SIDE - extent))
    image[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = digit
    return image
