"""Takes off what is dark but no digit: specks, shadows, frames, ruled lines, neighbours' strokes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from absynth.data.ink import Grey, Mask

SPECK = 0.03
"""A separate piece of less than this share of the largest piece's area is dirt."""

SMALLEST_DIGIT = 0.1
"""A piece inside the picture that is at least this share of its longer side may be a digit."""

SHADOW = 0.75
"""What touches the picture's edge and is this much fainter than such a piece is shadow."""

BAND = 0.14
"""What lies this near to an edge, as a share of a side, is a frame or a neighbour where more lies inside."""

LINE = 0.75
"""A thin straight stroke over this share of a picture is a ruled line or the side of a frame."""

BRIDGE, COVERED = 0.45, 0.4
"""Shares of a picture's width: over which a digit may hide a line, and of which a line is seen at least."""

THIN = 0.07
"""A line is at most this thick, as a share of the picture's longer side."""

SEEN = 0.25
"""A digit inside a frame has at least this share of the frame's height."""

EIGHT = np.ones((3, 3))
"""Pixels that touch at a corner belong together."""


def without_specks(mask: Mask) -> Mask:
    """``mask`` without the pieces that are tiny beside the largest one."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=EIGHT)
    if count == 0:
        return mask
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    result: Mask = (areas >= SPECK * areas.max())[pieces] & mask
    return result


def without_shadows(mask: Mask, strength: Grey) -> Mask:
    """``mask`` without the pieces at the picture's edge that are fainter than a piece inside."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=EIGHT)
    numbers = np.arange(1, count + 1)
    levels = np.asarray(ndimage.mean(strength, pieces, numbers))
    extents = np.array([max(part.stop - part.start for part in box) for box in ndimage.find_objects(pieces)])
    at_edge = np.isin(numbers, np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    inside = ~at_edge & (extents >= SMALLEST_DIGIT * max(mask.shape))
    if not inside.any():
        return mask
    shadows = at_edge & (levels < SHADOW * levels[inside].max())
    return mask & ~np.isin(pieces, numbers[shadows])


def find_frames(mask: Mask) -> Mask:
    """The pixels of frames, ruled lines and neighbours' strokes; none where no digit would be left.

    Args:
        mask: What is dark.
    """
    found = np.zeros_like(mask)
    for find in (_find_box, _find_lines, _find_cell):
        new = find(mask & ~found)
        if new.any() and _shows_digit(mask & ~found & ~new):
            found |= new
    result: Mask = found | _find_border(mask & ~found)
    return result


def _shows_digit(mask: Mask) -> bool:
    """Whether what is left is high enough for a digit in its picture."""
    rows = np.flatnonzero(without_specks(mask).any(axis=1))
    return len(rows) > 0 and bool(np.ptp(rows) + 1 >= SEEN * min(mask.shape))


def _find_lines(mask: Mask) -> Mask:
    """Ruled lines and sides of frames: straight, thin and over most of the picture."""
    across, down = _find_rules(mask), _find_rules(mask.T)
    # One line alone that does not go through the whole picture may be the bar of a large digit.
    count = len(across) + len(down)
    across = [one for one in across if one.through or count > 1]
    down = [one for one in down if one.through or count > 1]
    if len(across) + len(down) == 1 and _is_bar(mask, across, down):
        return np.zeros_like(mask)
    return _take_lines(mask, across, down)


def _find_cell(mask: Mask) -> Mask:
    """The lines of a cell around all that is dark, which the digit may touch."""
    nothing = np.zeros_like(mask)
    if not mask.any():
        return nothing
    box = bounding_box(mask)
    across, down = _find_rules(mask[box]), _find_rules(mask[box].T)
    if len(across) < 2 or len(down) < 2:
        return nothing
    nothing[box] = _take_lines(mask[box], across, down)
    return nothing


@dataclass(frozen=True, eq=False)
class _Line:
    """A line from left to right.

    Attributes:
        pixels: Those that are seen of it.
        through: Whether it goes through the whole picture.
    """

    pixels: Mask
    through: bool


def _take_lines(mask: Mask, across: list[_Line], down: list[_Line]) -> Mask:
    """All pixels of lines across and down, without those of strokes that cross them."""
    from scipy import ndimage

    seen = [np.zeros_like(mask), np.zeros_like(mask)]
    for line in across:
        seen[0] |= line.pixels
    for line in down:
        seen[1] |= line.pixels.T
    # Where two lines cross, neither is a stroke.
    seen = [ndimage.binary_dilation(one, iterations=2) for one in seen]
    result = np.zeros_like(mask)
    for line in across:
        result |= _follow(mask, mask & ~seen[1], line.pixels)
    for line in down:
        result |= _follow(mask.T, mask.T & ~seen[0].T, line.pixels).T
    return result


def _find_rules(mask: Mask) -> list[_Line]:
    """The lines that go from left to right."""
    from scipy import ndimage

    height, width = mask.shape
    if min(height, width) < 20:
        return []
    thickest = max(3, round(THIN * max(mask.shape)))
    # A tilted line is a stair of short runs; dilated, they are longer than those of other strokes.
    tall = ndimage.binary_dilation(mask, np.ones((3, 1)))
    runs = ndimage.binary_opening(tall, np.ones((1, max(5, width // 8)))) & mask
    thin = runs & ~ndimage.binary_opening(mask, np.ones((thickest, 1)))
    # Where a stroke crosses, the line is thick for a way, which closing bridges.
    joined = ndimage.binary_dilation(thin, np.ones((3, 1)))
    joined = ndimage.binary_closing(np.pad(joined, width // 2), np.ones((1, round(BRIDGE * width))))
    joined = joined[width // 2 : height + width // 2, width // 2 : width + width // 2]
    pieces, _ = ndimage.label(joined, structure=EIGHT)
    lines = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(pieces), start=1):
        pixels = thin & (pieces == number)
        length, drift = columns.stop - columns.start, rows.stop - rows.start
        covered = int(pixels.any(axis=0).sum())
        if length >= LINE * width and covered >= COVERED * width and drift <= thickest + 0.12 * length:
            lines.append(_Line(pixels, columns.start <= 0.04 * width and columns.stop >= 0.96 * width))
    return lines


def _is_bar(mask: Mask, across: list[_Line], down: list[_Line]) -> bool:
    """Whether the only line is the top, the foot or a side of a digit that fills its picture."""
    if down:
        return _is_bar(mask.T, down, [])
    rows = np.flatnonzero(mask.any(axis=1))
    own = np.flatnonzero(across[0].pixels.any(axis=1))
    fills = np.ptp(rows) + 1 >= 0.95 * mask.shape[0]
    outermost = own.min() <= rows.min() + 2 or own.max() >= rows.max() - 2
    return bool(fills and outermost and mask.sum() < 8 * across[0].pixels.sum())


def _follow(mask: Mask, strokes: Mask, line: Mask) -> Mask:
    """All pixels of a line, but for those where a stroke crosses it.

    Args:
        mask: What is dark.
        strokes: The same without lines in the other direction.
        line: What is seen of this one.
    """
    from scipy import ndimage

    height, width = mask.shape
    columns = np.flatnonzero(line.any(axis=0))
    rows = np.arange(height)[:, None]
    counts = line.sum(axis=0)[columns]
    centers = (line * rows).sum(axis=0)[columns] / counts
    # Twice through the middle of what was found, so that what hangs on to the line does not pull.
    slope, start = np.polyfit(columns, centers, 1)
    good = np.abs(start + slope * columns - centers) <= 0.03 * width
    if good.sum() >= 2:
        slope, start = np.polyfit(columns[good], centers[good], 1)
    half = float(np.percentile(counts, 75)) / 2 + 1.5
    middle = start + slope * np.arange(width)
    # A stroke that crosses goes on above and below the line.
    reach = int(half) + 2
    sides = []
    for away in (-reach, reach):
        places = np.round(middle + away).astype(int)
        inside = (places >= 0) & (places < height)
        goes_on = inside & strokes[places.clip(0, height - 1), np.arange(width)]
        sides.append(ndimage.binary_dilation(goes_on, iterations=2))
    crossing = sides[0] & sides[1]
    result: Mask = (np.abs(rows - middle) <= half) & mask & ~crossing[None]
    return result


def _find_box(mask: Mask) -> Mask:
    """A frame around a digit: a piece that lies along all four sides of all that is dark."""
    from scipy import ndimage

    nothing = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return nothing
    top, left = rows.min(), columns.min()
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    pieces, _ = ndimage.label(mask, structure=EIGHT)
    result = nothing
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        extents = [part.stop - part.start for part in box]
        if extents[0] < 0.85 * height or extents[1] < 0.85 * width:
            continue
        piece = pieces[box] == number
        edge = np.ones(piece.shape, dtype=bool)
        band = [max(1, round(BAND * extent)) for extent in extents]
        edge[band[0] : -band[0], band[1] : -band[1]] = False
        inner = mask[top : top + height, left : left + width].sum() - piece.sum()
        if inner and (piece & edge).sum() >= 0.97 * piece.sum():
            result = result | (pieces == number)
    return result


def _find_border(mask: Mask) -> Mask:
    """Pieces along the edges of the picture, where a larger piece lies inside."""
    from scipy import ndimage

    nothing = np.zeros_like(mask)
    pieces, count = ndimage.label(mask, structure=EIGHT)
    if count < 2:
        return nothing
    bands = [max(1, round(BAND * extent)) for extent in mask.shape]
    inner = np.zeros_like(mask)
    inner[bands[0] : -bands[0], bands[1] : -bands[1]] = True
    numbers = np.arange(1, count + 1)
    inside = np.asarray(ndimage.sum(inner & mask, pieces, numbers))
    total = np.asarray(ndimage.sum(mask, pieces, numbers))
    heights = np.array([box[0].stop - box[0].start for box in ndimage.find_objects(pieces)])
    at_edge = np.isin(numbers, np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    digits = ~at_edge & (inside >= 0.3 * total) & (heights >= SEEN * mask.shape[0])
    if not digits.any():
        return nothing
    strays = (at_edge & (inside < 0.5 * total)) | (inside < 0.05 * total)
    result: Mask = np.isin(pieces, numbers[strays & ~digits])
    return result


def bounding_box(mask: ndarray) -> tuple[slice, slice]:
    """The rows and columns that hold what is set in ``mask``."""
    rows, columns = np.nonzero(mask)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
