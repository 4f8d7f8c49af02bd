"""The largest ball that bounds can prove, found by trying sizes.

Whatever a search takes for likely, it answers with sizes that were proven.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HALVINGS = 40
"""Sizes that are tried by halving at the most."""

TRIALS = 14
"""Sizes that are tried at the most where a trial is expensive."""

DEEPEST = 10.0
"""Where bounds fail they fall steeply: less than minus this times the margin at the image counts as that."""

STEEPNESS = 2.5
"""The power of the size that a margin is taken to fall with, as long as too few were seen to tell."""

STEEPER = 3.5
"""The same where only one that failed was seen, as further out margins fall with a higher power."""

TINY = 1e-9
"""The least share of a margin that a ball of any size takes."""

POWERS = (1.0, 8.0)
"""Between which a power that was seen is believed."""

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

    Bounds get looser with the size, so that the margin falls ever more steeply: by a power of the size, which
    grows itself. So where two sizes were seen, the power of the size through both says where the margin ends.
    Between a size that is proven and one that is not, that is below the truth; beyond two proven ones, it is
    above; the mean of both is tried next. Where that failed twice running, there is a wall, and halving is
    best.

    Args:
        margins: From rows and their sizes to the least margins that are proven in balls of that size.
        margin: Those in balls of size 0, positive.
        guess: Sizes to begin with, positive.
        known: Sizes that are proven by other means, or 0.
        most: The largest size that there is.
        tolerance: How far, relatively, the answers may be below the largest, about.
    """
    # what was proven by other means has no margin, so that nothing follows from it but where to begin
    best, nothing = known.clone(), torch.zeros_like(known)
    before, low, high = (_Seen(nothing + size, nothing.clone()) for size in (0.0, 0.0, torch.inf))
    size = guess.maximum(known * (1 + tolerance)).clamp(max=most)
    rows, failures = torch.arange(len(known), device=known.device), torch.zeros_like(known)
    for _ in range(TRIALS):
        start = margin[rows]
        # what overflows is no number, and no bound
        found = margins(rows, size[rows]).nan_to_num(nan=-torch.inf).maximum(-DEEPEST * start)
        fallen, held = (start - found).clamp(min=TINY * start), found > 0
        before.take(rows[held], low.size[rows[held]], low.fallen[rows[held]])
        low.take(rows[held], size[rows[held]], fallen[held])
        high.take(rows[~held], size[rows[~held]], fallen[~held])
        best[rows[held]] = size[rows[held]]
        failures[rows] = torch.where(held, 0, failures[rows] + 1)
        now, one, two, top = best[rows], before.of(rows), low.of(rows), high.of(rows)
        onwards = two.end(start, torch.where(one.size > 0, one.power(two), STEEPNESS).clamp(*POWERS))
        between = two.end(start, two.power(top).clamp(min=POWERS[0]))
        middle = (between * onwards.minimum(top.size).maximum(between)).sqrt()
        inside, below = top.size.isfinite(), two.size > 0
        end = torch.where(inside, torch.where(below, middle, top.end(start, STEEPER)), onwards)
        end = torch.where(below & (failures[rows] > 1), (two.size * top.size).sqrt(), end)
        ended = (now >= most) | (top.size <= now * (1 + tolerance))
        # where the margin is as good as used up
        ended |= below & (end <= now * (1 + tolerance))
        upper = torch.where(inside, now + 0.9 * (top.size - now), now * GROWTH)
        following = (end * (1 - tolerance / 3)).maximum(now * (1 + tolerance / 3)).minimum(upper)
        size[rows] = following.clamp(max=most)
        rows = rows[~ended]
        if len(rows) == 0:
            break
    return best


@dataclass
class _Seen:
    """Sizes that were tried, and by how much the margins had fallen there, one a row."""

    size: Tensor
    fallen: Tensor

    def take(self, rows: Tensor, size: Tensor, fallen: Tensor) -> None:
        """Puts others in the place of some."""
        self.size[rows], self.fallen[rows] = size, fallen

    def of(self, rows: Tensor) -> _Seen:
        """Some of them."""
        return _Seen(self.size[rows], self.fallen[rows])

    def power(self, other: _Seen) -> Tensor:
        """The power of the size that falls by as much at both."""
        return (other.fallen / self.fallen).log() / (other.size / self.size).log()

    def end(self, margin: Tensor, power: Tensor | float) -> Tensor:
        """Where a margin is used up that falls with a power of the size."""
        return self.size * (margin / self.fallen) ** (1 / power)


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
