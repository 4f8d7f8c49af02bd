"""The largest ball that bounds can prove, found by trying sizes.

Whatever a search takes for likely, it answers with sizes that were proven.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 40
"""Sizes that are tried by halving at the most."""

TRIALS = 14
"""Sizes that are tried at the most where a trial is expensive."""

DEEPEST = 4.0
"""Where bounds fail they fall steeply: less than minus this times the margin at the image counts as that."""

GROWTH = 4.0
"""From a size that is proven to the next, at the most."""


def halve(proven: Callable[[Tensor], Tensor], first: Tensor, most: float, tolerance: float) -> Tensor:
    """The largest sizes that are proven, by growing and halving all together.

    Args:
        proven: From sizes to whether each is.
        first: Sizes to try first, above 0.
        most: The largest size that there is.
        tolerance: How far, relatively, the answers may be below the largest.
    """
    low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
    size = first.clamp(max=most)
    for _ in range(HALVINGS):
        open_rows = (low < most) & (high > low * (1 + tolerance))
        if not bool(open_rows.any()):
            break
        good = proven(torch.where(open_rows, size, low)) & open_rows
        low, high = torch.where(good, size, low), torch.where(open_rows & ~good, size, high)
        middle = torch.where(low > 0, (low * high).sqrt(), high / GROWTH)
        size = torch.where(high.isinf(), (low * GROWTH).clamp(max=most), middle)
    return low


def follow(
    margins: Callable[[Tensor, Tensor], Tensor],
    margin: Tensor,
    guess: Tensor,
    known: Tensor,
    most: float,
    tolerance: float,
) -> Tensor:
    """The largest sizes that are proven, where that is expensive, by following the margin to where it ends.

    Args:
        margins: From rows and their sizes to the least margins that are proven in balls of that size.
        margin: Those in balls of size 0, positive.
        guess: Sizes to begin with, positive.
        known: Sizes that are proven by other means, or 0.
        most: The largest size that there is.
        tolerance: How far, relatively, the answers may be below the largest, about.
    """
    # what was proven by other means has no margin, so that the lines begin at the image
    best, low, low_margin = known.clone(), torch.zeros_like(known), margin.clone()
    before, before_margin = low.clone(), margin.clone()
    high, high_margin = torch.full_like(low, torch.inf), torch.zeros_like(low)
    size = guess.maximum(known * (1 + tolerance)).clamp(max=most)
    rows = torch.arange(len(low), device=low.device)
    for _ in range(TRIALS):
        found = margins(rows, size[rows])
        deepest = -DEEPEST * margin[rows]
        found = torch.where(found.isnan(), deepest, found).maximum(deepest)
        held, failed = rows[found > 0], rows[found <= 0]
        before[held], before_margin[held] = low[held], low_margin[held]
        best[held] = low[held] = size[held]
        low_margin[held] = found[found > 0]
        high[failed], high_margin[failed] = size[failed], found[found <= 0]
        now, top = best[rows], high[rows]
        inside = top.isfinite()
        between = _root(low[rows], low_margin[rows], top, high_margin[rows])
        onwards = _root(before[rows], before_margin[rows], low[rows], low_margin[rows])
        upper = torch.where(inside, now + 0.9 * (top - now), now * GROWTH)
        usable = onwards.isfinite() & (onwards > low[rows]) & (onwards < top)
        root = torch.where(usable, onwards, torch.where(inside, between, upper))
        ended = (now >= most) | (top <= now * (1 + tolerance))
        # where the margin is as good as used up
        ended |= (low[rows] > 0) & (root <= now * (1 + tolerance))
        following = (root * (1 - tolerance / 3)).minimum(upper).maximum(now * (1 + tolerance / 3))
        size[rows] = torch.where(now > 0, following, following.minimum(top / 2)).clamp(max=most)
        rows = rows[~ended]
        if len(rows) == 0:
            break
    return best


def _root(first: Tensor, first_margin: Tensor, second: Tensor, second_margin: Tensor) -> Tensor:
    """Where the line through two margins is 0."""
    return first + first_margin * (second - first) / (first_margin - second_margin)


def count_up(proven: Callable[[Tensor, Tensor], Tensor], count: int, most: int, like: Tensor) -> Tensor:
    """The largest numbers of pixels that are proven, by doubling and halving.

    Args:
        proven: From rows and numbers to whether each is.
        count: Of rows.
        most: Pixels of an image.
        like: A tensor of the type and on the device of the answer.
    """
    low, high = like.new_zeros(count), like.new_full((count,), most + 1)
    size = torch.ones_like(low)
    rows = torch.arange(count, device=like.device)
    while len(rows):
        good = proven(rows, size[rows])
        low[rows[good]], high[rows[~good]] = size[rows[good]], size[rows[~good]]
        middle = ((low + high) / 2).floor()
        size = torch.where(high > most, (2 * low).clamp(min=1, max=most), middle)
        rows = rows[high[rows] - low[rows] > 1]
    return low
