"""Tells ink from paper: how inked each pixel of a picture is, whatever the light, noise and colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from absynth.data.pictures import resize
from absynth.errors import AbsynthError

Grey = Float[ndarray, "height width"]
Resized = Float[ndarray, "new_height new_width"]
Mask = Bool[ndarray, "height width"]
Cropped = Bool[ndarray, "new_height new_width"]
Picture = Float[ndarray, "all_rows all_columns"]
"""A picture in full, where another one is at its working size."""

WORKING_SIDE = 200
"""Every picture is brought to this longer side first: it is plenty for a digit of 20 pixels."""

ROW_HEIGHT, LONGEST = 140, 800
"""A row of digits is brought to this height, if it does not become longer than this."""

PAPER_WINDOW = 0.35
"""What is wider than this share of a picture's longer side is paper or shadow, not a stroke."""

LEAST_CONTRAST = 0.04
"""Ink that differs less from the paper than this is none."""

ABOVE_NOISE = 1.6
"""How many times its deviation noise reaches at one place in a thousand, once it is smoothed."""

QUIET = 0.01
"""Noise up to which little smoothing is enough, which spares thin strokes."""

SPOT_CONTRAST, SPOT_SHARE, SPOT_PIXELS = 0.25, 0.1, 12
"""What stands out by so much, is no longer than this share of a picture's longer side and has so many pixels
in a row may be a digit, too small to be seen where it is."""

NOISY = 0.04
"""Noise from which on a picture is blurred fully before it is shrunk."""


@dataclass(frozen=True, eq=False)
class Ink:
    """What stands out from the paper.

    Attributes:
        strength: How much each pixel differs from the paper, as a share of the paper or of full brightness.
        smooth: The same without noise.
        paper: What each pixel would be without ink.
        clutter: Pixels whose ink is a frame's or a ruled line's.
    """

    strength: Grey
    smooth: Grey
    paper: Grey
    clutter: Mask


class NoInkError(AbsynthError):
    """A picture shows no ink."""


def no_ink(name: str, found: float = 0.0) -> NoInkError:
    """What is told of a picture without ink, though it may have a little contrast."""
    little = f": its values differ by {found:.1%} of the range" if found >= 0.0005 else ""
    return NoInkError(
        f"{name} shows no ink{little}; give a picture of one digit that stands out from its background."
    )


def find_ink(picture: Grey, name: str) -> Ink:
    """What stands out from the paper, dark on light or light on dark.

    Args:
        picture: At its working size.
        name: What to call it in a message.

    Raises:
        AbsynthError: If nothing does.
    """
    from scipy import ndimage

    side = max(picture.shape)
    blur = max(0.5, side / 250)
    smooth = ndimage.gaussian_filter(picture, blur)
    noise = 1.48 * float(np.median(np.abs(picture - smooth)))
    if noise > QUIET:
        blur = max(0.5, side / 150)
        smooth = ndimage.gaussian_filter(picture, blur)
    found = contrast(smooth)[0]
    if found < max(LEAST_CONTRAST, ABOVE_NOISE * noise):
        raise no_ink(name, found)
    window = max(3, round(PAPER_WINDOW * side))
    closed = ndimage.grey_closing(smooth, size=(window, window))
    # Ink takes away a share of the light that falls on the paper, be it much or little.
    # At the edge of a shadow, blurring would make the paper lighter than it is.
    paper = np.minimum(ndimage.gaussian_filter(closed, blur), closed).clip(0.05)
    ink = Ink(1 - picture / paper, 1 - smooth / paper, paper, np.zeros(picture.shape, dtype=bool))
    if np.ptp(ink.smooth) < LEAST_CONTRAST:  # all that stood out was wider than a stroke
        raise no_ink(name)
    return ink


def contrast(picture: Grey) -> tuple[float, float]:
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


def find_spot(picture: Picture) -> tuple[int, int] | None:
    """Height and width of something small that stands out from an even picture; None if nothing does.

    Args:
        picture: In full, in which no ink was found at its working size.
    """
    paper = float(np.median(picture[:: max(1, picture.shape[0] // 200), :: max(1, picture.shape[1] // 200)]))
    rows, columns = np.nonzero(np.abs(picture - paper) > SPOT_CONTRAST)
    if not len(rows):
        return None
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    # dust and noise are smaller, or all over the page
    longest = max(height, width)
    return (height, width) if SPOT_PIXELS <= longest <= SPOT_SHARE * max(picture.shape) else None


def otsu(values: Float[ndarray, "*shape"]) -> float:
    """The threshold that best parts the values into two groups (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centers).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between)])


def working_side(shape: tuple[int, ...]) -> int:
    """The longer side that a picture of some height and width is brought to.

    >>> working_side((3000, 4000)), working_side((1000, 3000))
    (200, 420)
    """
    longest = min(LONGEST, max(WORKING_SIDE, *shape))
    return min(max(WORKING_SIDE, round(ROW_HEIGHT * max(shape) / min(shape))), longest)


def darken(picture: Picture) -> Picture:
    """A picture with its ink dark: as it is, or with black and white exchanged.

    >>> float(darken(np.pad(np.ones((20, 4)), ((20, 20), (28, 28))))[0, 0])
    1.0
    """
    darker = contrast(shrink(picture, WORKING_SIDE))[0]
    inverted = 1 - picture
    return picture if darker > contrast(shrink(inverted, WORKING_SIDE))[0] else inverted


def shrink(picture: Picture, side: int) -> Resized:
    """A picture with its longer side brought to a length, where thin dark strokes keep their darkness.

    An average over what becomes one pixel would pale a stroke of one pixel in a large picture to nothing, so
    the darkest value is taken; noise is blurred away before, else it would be the noise's darkest value.
    """
    from scipy import ndimage

    factor = max(picture.shape) / side
    height, width = (max(1, round(extent / factor)) for extent in picture.shape)
    if factor < 1.5 or min(picture.shape) < factor:
        return resize(picture, height, width)
    # Neighbours differ by noise; at strokes they differ by more, but those are few.
    noise = 1.05 * float(np.median(np.abs(np.diff(picture, axis=0))))
    if noise > 0.004:
        picture = ndimage.gaussian_filter(picture, min(1.0, noise / NOISY) * factor / 3)
    if factor > 2:
        reach = max(2, int(factor))
        picture = ndimage.minimum_filter(picture, size=(reach, reach))
        rows = ((np.arange(height) + 0.5) * picture.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * picture.shape[1] / width).astype(int)
        pooled: Resized = picture[rows][:, columns]
        return pooled
    return resize(picture, height, width)
