"""Which pixels of a picture are strokes of digits, and how inked they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from absynth.data.clutter import find_frames, without_shadows, without_specks
from absynth.data.ink import LEAST_CONTRAST, Grey, Ink, Mask, find_ink, no_ink, otsu

RIM = 0.1
"""The ink, as a share of a full stroke's, at which a stroke begins."""

PASSES = 3
"""How often frames are looked for: behind a dark one, ink that is fainter comes to light."""


def find_strokes(picture: Grey, name: str) -> tuple[Mask, Ink]:
    """The strokes of all digits in a picture, and the ink with what was taken off as clutter.

    Args:
        picture: Dark on light, at its working size.
        name: What to call it in a message.

    Raises:
        AbsynthError: If there is no ink.
    """
    from scipy import ndimage

    found = find_ink(picture, name)
    for _ in range(PASSES):
        level = otsu(found.smooth[~found.clutter])
        strokes = (found.smooth > level) & ~found.clutter
        if not strokes.any():
            raise no_ink(name)
        frames = find_frames(strokes)
        if not frames.any():
            break
        around = ndimage.binary_dilation(frames, iterations=2) & ~(strokes & ~frames)
        clutter = found.clutter | around
        found = replace(found, clutter=clutter, smooth=np.where(clutter, 0, found.smooth))
        strokes &= ~clutter
    strokes = without_shadows(without_specks(strokes), found.smooth)
    if not strokes.any():
        raise no_ink(name)
    return strokes, found


def measure(strokes: Mask, found: Ink, name: str) -> tuple[Grey, Mask]:
    """How inked each pixel is, from 0 on paper to 1 in a full stroke, and which pixels the digits cover.

    The faint rim of a stroke belongs to it: it is what MNIST's antialiasing and its box are made of.

    Args:
        strokes: Of all digits.
        found: The ink that they were found in.
        name: What to call the picture in a message.

    Raises:
        AbsynthError: If the ink is too faint.
    """
    from scipy import ndimage

    around = ndimage.binary_dilation(strokes, iterations=max(1, max(strokes.shape) // 40)) & ~found.clutter
    zero = float(np.median(found.smooth[~around])) if not around.all() else 0.0
    level = float(np.percentile(found.smooth[strokes], 90)) - zero
    if level < LEAST_CONTRAST / 2:
        raise no_ink(name)
    ink = np.where(around, (found.strength - zero) / level, 0).clip(0, 1).astype(np.float32)
    return ink, strokes | (around & (found.smooth - zero > RIM * level))
