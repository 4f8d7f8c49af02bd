"""The closed forms in L1.

- **Nothing in front**: greedy, the pixels with the largest abs(g) first, each up to its room.
- **Behind a clamp** the dead zone is a fee that is paid once for each pixel that is used, which makes it a
  knapsack. Its fractional relaxation, with gain and cost dead_i + room_i of a whole move in proportion, is a
  lower bound, not the exact distance.
- **Behind a threshold** picking the cheapest set of flips is a knapsack as well, relaxed in the same way: a
  flip costs abs(x_i − ½) and gains 2(q − p) from 0 to 1 and 2(p − q) from 1 to 0, never less than nothing.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import Clamp, Grey, Threshold
from absynth.certify.halfspace.problem import Moved, Problem
from absynth.certify.halfspace.searches import greedy, knapsack, most_gain


def nearest(problem: Problem) -> Moved:
    """The cheapest way to reach the target."""
    match problem.front:
        case Grey():
            return Moved(*greedy(problem.slopes, problem.rooms, problem.target))
        case Clamp() | Threshold():
            cost, share = knapsack(problem.gains, problem.costs, problem.target)
            return Moved(cost, problem.rooms * share)


def farthest(problem: Problem, size: float) -> Float[Tensor, "*rows"]:
    """The most that a size can gain; an upper bound behind a threshold."""
    return most_gain(problem.gains, problem.costs, size)
