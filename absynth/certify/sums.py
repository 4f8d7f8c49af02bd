"""The least cost of whole flips that sum to enough: a table with an entry for every small step of the sum.

Of all flips z ∈ {0, 1}, those with Σ_i a_i z_i ≥ t that cost Σ_i c_i z_i least are a knapsack problem. Here t
is divided into :data:`STEPS`, and every pull a_i is rounded up to whole steps, so that flips which reach t
reach the end of the table, too: what it says is a lower bound.

Flips from the first pixels up to one, and flips from all after it, make up the flips with or without it. So
two tables, from either end, say of each pixel what flips cost at least if it flips and if it stays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEPS = 2**14
"""Into how many steps the sum is divided; the more, the less is lost by rounding."""


class Cheapest(NamedTuple):
    """Lower bounds on the cost of flips that sum to enough, but for the rounding of float64.

    Attributes:
        least: Of all of them; infinite if there are none.
        without: Of those in which a pixel stays, one a pixel.
        within: Of those in which it flips.
    """

    least: float
    without: Array
    within: Array


def cheapest_sum(pulls: Array, costs: Array, wanted: float) -> Cheapest:
    """The least cost of flips with pulls of at least ``wanted`` in all.

    Args:
        pulls: a_i of each pixel, of any sign.
        costs: c_i ≥ 0 of each pixel.
        wanted: t.
    """
    if wanted <= 0:
        return Cheapest(0.0, np.zeros(len(costs)), costs.copy())
    useful = np.flatnonzero(pulls > 0)
    # One step more than the whole ones is rounded up, whatever the division loses.
    lengths = np.minimum(np.floor(pulls[useful] / (wanted / STEPS)) + 1, STEPS).astype(np.int64).tolist()
    prices = costs[useful].tolist()
    nothing = np.full(STEPS + 1, np.inf)
    nothing[0] = 0
    before = [nothing]
    for length, price in zip(lengths, prices, strict=True):
        before.append(_with(before[-1], length, price))
    least = float(before[-1][STEPS])
    without, within = np.full(len(costs), least), least + costs
    after = nothing
    for place in range(len(useful) - 1, -1, -1):
        length, price = lengths[place], prices[place]
        left = STEPS - length
        without[useful[place]] = (before[place] + after[::-1]).min()
        within[useful[place]] = (before[place][: left + 1] + after[left::-1]).min() + price
        after = _with(after, length, price)
    return Cheapest(least, without, within)


def _with(least: Array, length: int, price: float) -> Array:
    """A table of the least cost of every sum, with one pixel more."""
    further = np.empty_like(least)
    further[:length] = price
    further[length:] = least[: len(least) - length] + price
    return np.minimum(least, further, out=further)
