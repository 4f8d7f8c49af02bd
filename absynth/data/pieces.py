"""Which strokes make one digit: broken ones are put together, neighbours are told apart."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from absynth.data.clutter import EIGHT
from absynth.data.ink import Mask

WHOLE = 0.55
"""A piece that has this share of the height of all is a digit rather than a part of one."""

BESIDE = 0.3
"""Digits beside each other overlap at most by this share of the narrower one's width."""

FAR = 0.6
"""A part that lies farther from a digit than this share of the height is no part of it."""

CRACK = 0.05
"""Two pieces that are nearer to each other than this share of the height are one broken digit,
if that is not wider than high."""

WIDEST = 1.9
"""No digit is wider than this many times its height."""


def part_digits(mask: Mask) -> list[Mask]:
    """The digits in ``mask`` from left to right, each as a mask of its own.

    Args:
        mask: The strokes of all digits, at least one.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=EIGHT)
    boxes = ndimage.find_objects(pieces)
    heights = np.array([rows.stop - rows.start for rows, _ in boxes])
    tall = int(heights.max())
    whole = [number for number in range(count) if heights[number] >= WHOLE * tall]
    spans = {number: (boxes[number][1].start, boxes[number][1].stop) for number in range(count)}
    extent = max(rows.stop for rows, _ in boxes) - min(rows.start for rows, _ in boxes)
    if tall < 0.6 * extent:  # strokes that are broken everywhere, or digits above each other: not told apart
        return [mask]
    groups: list[list[int]] = []
    for number in sorted(whole, key=lambda one: spans[one]):
        for group in groups:
            if any(
                _overlap(spans[number], spans[other]) > BESIDE or _is_cracked(pieces, number, other, tall)
                for other in group
            ):
                group.append(number)
                break
        else:
            groups.append([number])
    distances = [ndimage.distance_transform_edt(~np.isin(pieces, np.array(group) + 1)) for group in groups]
    for number in set(range(count)) - set(whole):
        gaps = [float(distance[pieces == number + 1].min()) for distance in distances]
        nearest = int(np.argmin(gaps))
        if gaps[nearest] <= FAR * tall:
            groups[nearest].append(number)
    masks = [np.isin(pieces, np.array(group) + 1) for group in groups]
    return sorted(masks, key=lambda one: float(np.nonzero(one)[1].mean()))


def count_digits(digit: Mask) -> int:
    """How many digits one mask of :func:`part_digits` may show: more than one if it is too wide."""
    rows, columns = np.nonzero(digit)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    return 1 if width <= WIDEST * height else max(2, round(width / height))


def _is_cracked(pieces: ndarray, first: int, second: int, height: int) -> bool:
    """Whether two pieces are parts of one stroke with a narrow gap in it."""
    from scipy import ndimage

    both = (pieces == first + 1) | (pieces == second + 1)
    if np.ptp(np.flatnonzero(both.any(axis=0))) >= height:
        return False
    away = ndimage.distance_transform_edt(pieces != first + 1)
    return bool(away[pieces == second + 1].min() <= max(2.0, CRACK * height))


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> float:
    """How much two intervals overlap, as a share of the shorter one."""
    common = min(first[1], second[1]) - max(first[0], second[0])
    return max(0, common) / min(first[1] - first[0], second[1] - second[0])
