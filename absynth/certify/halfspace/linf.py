"""The closed forms in Linf, all exact: the smallest ε within which the gains reach the target.

- **Nothing in front**: the smallest ε with Σ abs(g) min(ε, room) = target.
- **Behind a clamp**: the smallest ε with Σ abs(g) min((ε − dead)⁺, room) = target.
- **Behind a threshold**: the smallest ε such that the pixels with abs(x_i − ½) ≤ ε gain enough by their
  flips, 2(q − p) from 0 to 1 and 2(p − q) from 1 to 0, never less than nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import Clamp, Grey, Threshold
from absynth.certify.halfspace.problem import Moved, Problem
from absynth.certify.halfspace.searches import bracket, first_crossing

BEYOND = 1 + 1e-5
"""Makes up for the rounding of an upper end."""


def nearest(problem: Problem) -> Moved:
    """The smallest size that reaches the target."""
    match problem.front:
        case Grey():
            return _straight(problem)
        case Clamp():
            return _beyond_dead_zones(problem)
        case Threshold():
            return _flips(problem)


def _straight(problem: Problem) -> Moved:
    """Nothing in front: the sum is concave in ε."""
    rooms = problem.rooms
    size = first_crossing(problem.slopes, problem.gains, problem.target)
    return Moved(size, torch.where(size.isinf()[..., None], rooms, torch.minimum(size[..., None], rooms)))


def _beyond_dead_zones(problem: Problem) -> Moved:
    """Behind a clamp, where the sum is not concave: a bracket of the root."""
    slopes, rooms, dead, target = problem.slopes, problem.rooms, problem.dead, problem.target
    unreachable = problem.gains.sum(-1) < target

    def reached(size: Tensor) -> tuple[Tensor, Tensor]:
        inside = size[..., None] - dead
        moving = (inside > 0) & (inside < rooms)
        return (slopes * inside.clamp(min=0).minimum(rooms)).sum(-1), (slopes * moving).sum(-1)

    # Without dead zones it takes no more, and with them no more than the widest of them in addition.
    plain = first_crossing(slopes, problem.gains, target).masked_fill(unreachable, 0)
    size = bracket(reached, plain, plain + dead.amax(-1) * BEYOND, target)
    moved = (size[..., None] - dead).clamp(min=0).minimum(rooms)
    cost = torch.where(target > 0, size, 0).masked_fill(unreachable, torch.inf)
    return Moved(cost, torch.where(unreachable[..., None], rooms, moved))


def _flips(problem: Problem) -> Moved:
    """Behind a threshold, where a size allows a flip wholly or not at all."""
    costs = problem.costs
    level = _cheapest_level(problem.gains, costs, problem.target)
    return Moved(level, problem.rooms * (costs <= level[..., None]))


def _cheapest_level(gains: Tensor, costs: Tensor, target: Tensor) -> Tensor:
    """The smallest cost level such that the gains of all pixels that cost no more reach the target.

    Between one level and the next it counts how much of the next pixel's gain is needed, so that better
    mixtures score higher though the level stays the same; :func:`next_level` takes that back.
    """
    order = costs.argsort(dim=-1)
    levels = costs.gather(-1, order).expand_as(gains)
    sorted_gains = gains.gather(-1, order.expand_as(gains))
    total = sorted_gains.cumsum(-1)
    index = (total < target[..., None]).sum(-1, keepdim=True)
    unreachable = index[..., 0] == gains.shape[-1]
    index = index.clamp(max=gains.shape[-1] - 1)
    gain = sorted_gains.gather(-1, index)[..., 0]
    share = ((target - total.gather(-1, index)[..., 0] + gain) / gain).clamp(0, 1)
    level = levels.gather(-1, index)[..., 0]
    before = torch.where(index > 0, levels.gather(-1, (index - 1).clamp(min=0)), 0)[..., 0]
    return torch.where(target > 0, before + (level - before) * share, 0).masked_fill(unreachable, torch.inf)


def next_level(
    distance: Float[Tensor, "*rows"], costs: Float[Tensor, "*#rows pixel"]
) -> Float[Tensor, "*rows"]:
    """The least cost of a flip that is not below a distance; infinite if there is none.

    Args:
        distance: Behind a threshold.
        costs: Of a flip of each pixel.
    """
    level = torch.where(costs >= distance[..., None], costs, torch.inf).amin(-1)
    return torch.where(distance > 0, level, distance)


def farthest(problem: Problem, size: float) -> Float[Tensor, "*rows"]:
    """The most that a size can gain."""
    if isinstance(problem.front, Threshold):
        return (problem.gains * (problem.costs <= size)).sum(-1)
    return (problem.slopes * problem.rooms.clamp(max=size)).sum(-1)
