"""What the closed forms look for: roots of sums, and the cheapest way to reach one, approached from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_STEPS = 100
"""More than the steps that finish any real instance; stopping early only makes a bound smaller."""

BRACKET_STEPS = 14
"""Evaluations that narrow a root down; a wider bracket only makes a bound smaller."""

JUST_BELOW = {torch.float32: 1 - 1e-6, torch.float64: 1 - 1e-14}
"""Where in a step towards a root to stop, so that rounding does not carry it beyond."""

TOP = 64
"""Pixels that the greedy bound looks at first, as few are ever needed; all only if these fall short."""


class Spending(NamedTuple):
    """What is spent, in all and on each pixel.

    Attributes:
        cost: Infinite where the target is out of reach.
        spent: Of it on each pixel.
    """

    cost: Float[Tensor, "*rows"]
    spent: Float[Tensor, "*rows pixel"]


def first_crossing(
    slopes: Float[Tensor, "*rows pixel"], caps: Float[Tensor, "*rows pixel"], target: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """The smallest t with Σ min(slope_i t, cap_i) ≥ target, or a little less; infinite if there is none.

    The sum is concave in t, so its tangents lie above it and Newton's method from t = 0 climbs towards the
    root without passing it: every iterate is a lower bound, and after finitely many pieces it is the root.

    Args:
        slopes: Non-negative.
        caps: Non-negative.
        target: What the sum has to reach.
    """
    position = torch.zeros_like(target)
    unreachable = torch.zeros_like(target, dtype=torch.bool)
    for _ in range(NEWTON_STEPS):
        line = slopes * position[..., None]
        free = line < caps
        short = target - torch.where(free, line, caps).sum(-1)
        stride = short.clamp(min=0) / (slopes * free).sum(-1)
        unreachable |= stride.isinf()
        moving = (stride > position * torch.finfo(target.dtype).eps) & ~unreachable
        position = torch.where(moving, position + stride, position)
        if not moving.any():
            break
    return position.masked_fill(unreachable, torch.inf)


def greedy(
    slopes: Float[Tensor, "*rows pixel"], caps: Float[Tensor, "*rows pixel"], target: Float[Tensor, "*rows"]
) -> Spending:
    """The cheapest z with 0 ≤ z ≤ cap and Σ slope_i z_i ≥ target: the steepest pixels first.

    Args:
        slopes: Non-negative gain per unit of cost.
        caps: The most that can be spent on each pixel.
        target: What the gain has to reach.
    """
    spent = torch.empty_like(slopes)
    pixels = slopes.shape[-1]
    flat_slopes, flat_caps, flat_target = (
        slopes.reshape(-1, pixels),
        caps.reshape(-1, pixels),
        target.reshape(-1),
    )
    flat_spent = spent.view(-1, pixels)
    rows = torch.arange(len(flat_target), device=target.device)
    reached = torch.ones_like(flat_target, dtype=torch.bool)
    for depth in (min(TOP, pixels), pixels):
        top, order = flat_slopes[rows].topk(depth)
        limits = flat_caps[rows].gather(-1, order)
        gains = top * limits
        total = gains.cumsum(-1)
        wanted = flat_target[rows, None] - (total - gains)
        spending = torch.where(wanted > 0, (wanted / top).nan_to_num(posinf=torch.inf).minimum(limits), 0)
        flat_spent[rows] = torch.zeros_like(flat_slopes[rows]).scatter_(-1, order, spending)
        reached[rows] = total[:, -1] >= flat_target[rows]
        rows = rows[~reached[rows]]
        if len(rows) == 0:
            break
    cost = flat_spent.sum(-1).masked_fill(~reached, torch.inf)
    return Spending(cost.view_as(target), spent)


def knapsack(
    gains: Float[Tensor, "*rows pixel"], costs: Float[Tensor, "*rows pixel"], target: Float[Tensor, "*rows"]
) -> Spending:
    """The fractional relaxation of choosing pixels, each with a gain and a cost: a lower bound.

    Args:
        gains: Of using a pixel wholly, non-negative.
        costs: The same; where there is none, the pixel is used for nothing.
        target: What the gains have to reach.

    Returns:
        The cost, and the share of each pixel that is used.
    """
    free = costs == 0
    remaining = target - (gains * free).sum(-1)
    cost, spent = greedy(torch.where(free, 0, gains / costs), costs, remaining)
    return Spending(cost, torch.where(free, 1, spent / costs))


def most_gain(
    gains: Float[Tensor, "*rows pixel"], costs: Float[Tensor, "*rows pixel"], budget: float
) -> Float[Tensor, "*rows"]:
    """The inverse of :func:`knapsack`: the most that can be gained within a budget.

    Args:
        gains: Of using a pixel wholly, non-negative.
        costs: The same.
        budget: What may be spent.
    """
    order = (gains / costs).nan_to_num(nan=0.0, posinf=torch.inf).argsort(dim=-1, descending=True)
    sorted_costs, sorted_gains = costs.gather(-1, order), gains.gather(-1, order)
    before = sorted_costs.cumsum(-1) - sorted_costs
    share = ((budget - before) / sorted_costs).nan_to_num(nan=1.0, posinf=1.0).clamp(0, 1)
    return (sorted_gains * share).sum(-1)


def bracket(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
    target: Tensor,
    steps: int = BRACKET_STEPS,
) -> Tensor:
    """Where a non-decreasing function reaches a target, or a little before, from a bracket of that place.

    Steps along the tangent at the lower end, which end at once where the function is straight, take turns
    with halving.

    Args:
        evaluate: The function and its slope.
        low: Where it is not above the target.
        high: Where it is not below.
        target: What to reach.
        steps: How many.
    """
    value, slope = evaluate(low)
    for step in range(steps):
        middle = (low + high) / 2
        if step % 2 == 0:
            along = low + (target - value) / slope * JUST_BELOW[target.dtype]
            middle = torch.where((along > low) & (along < high), along, middle)
        new_value, new_slope = evaluate(middle)
        below = new_value < target
        value, slope = torch.where(below, new_value, value), torch.where(below, new_slope, slope)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low
