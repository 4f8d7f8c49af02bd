"""The closed forms in L2.

- **Nothing in front**: δ = clip(λ g, −x, 1 − x) with the smallest λ that reaches
  Σ abs(g) min(λ abs(g), room) = target.
- **Behind a clamp** moving what is seen of a pixel by e costs dead_i + e, a fee that is paid once for each
  pixel that is used. The Lagrangian dual is a lower bound, for any λ ≥ 0

      distance² ≥ λ m − Σ_i max(0, max_{0 < e ≤ room} λ abs(g_i) e − (dead_i + e)²),

  with the best λ; the inner maximum is at e = min(λ abs(g) / 2 − dead, room). Without dead zones this is the
  distance itself.
- **Behind a threshold** picking the cheapest set of flips is a knapsack, and its fractional relaxation by
  gain per squared cost a lower bound, not the exact distance. A flip costs abs(x_i − ½) and gains 2(q − p)
  from 0 to 1 and 2(p − q) from 1 to 0, never less than nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import Clamp, Grey, Threshold
from absynth.certify.halfspace.problem import Moved, Problem
from absynth.certify.halfspace.searches import bracket, first_crossing, knapsack, most_gain
from absynth.certify.rounding import round_down
from absynth.rounding import gamma

LEAST_SQUARE = 1e-12
"""So that a multiplier can be divided by ‖g‖²; any multiplier is right."""

MOST_DOUBLINGS = 40
"""Of a multiplier, until it is too large."""

DUAL_STEPS = 8
"""Evaluations that narrow the best multiplier down, near which the bound hardly changes."""

MULTIPLIERS = (1.15, 1.4, 1.75)
"""Shares of the multiplier without box and dead zones that :func:`dual_bound` tries."""


def nearest(problem: Problem) -> Moved:
    """The cheapest way to reach the target."""
    match problem.front:
        case Grey():
            return _straight(problem)
        case Clamp():
            return _beyond_dead_zones(problem)
        case Threshold():
            return _flips(problem)


def _straight(problem: Problem) -> Moved:
    """Nothing in front."""
    slopes, rooms = problem.slopes, problem.rooms
    stretch = first_crossing(slopes.square(), problem.gains, problem.target)
    moved = torch.where(stretch.isinf()[..., None], rooms, (stretch[..., None] * slopes).minimum(rooms))
    return Moved(torch.where(stretch.isinf(), stretch, (moved * (slopes > 0)).norm(dim=-1)), moved)


def _flips(problem: Problem) -> Moved:
    """Behind a threshold."""
    squared, share = knapsack(problem.gains, problem.costs.square(), problem.target)
    return Moved(squared.sqrt(), problem.rooms * share)


def _beyond_dead_zones(problem: Problem) -> Moved:
    """Behind a clamp: the best Lagrangian bound."""
    slopes, rooms, dead, target = problem.slopes, problem.rooms, problem.dead, problem.target
    unreachable = problem.gains.sum(-1) < target
    price = prices(slopes, rooms, dead)
    best, best_multiplier = torch.zeros_like(target), torch.zeros_like(target)

    def evaluate(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal best, best_multiplier
        moved = moves(slopes, rooms, dead, price, multiplier)
        bound, total = _lagrangian(slopes, dead, target, multiplier, moved)
        better = bound > best
        best = torch.where(better, bound, best)
        best_multiplier = torch.where(better, multiplier, best_multiplier)
        free = (moved > 0) & (moved < rooms)
        return total, (slopes.square() * free).sum(-1) / 2

    plain = 2 * first_crossing(slopes.square(), problem.gains, target)
    low = torch.where(unreachable, 0, plain)
    high = torch.where(unreachable, 1, 2 * low)
    for _ in range(MOST_DOUBLINGS):
        short = (evaluate(high)[0] < target) & ~unreachable
        if not short.any():
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    bracket(evaluate, low, high, target, DUAL_STEPS)
    distance = best.sqrt().masked_fill(unreachable, torch.inf)
    moved = moves(slopes, rooms, dead, price, best_multiplier)
    return Moved(distance, torch.where(unreachable[..., None], rooms, moved))


def prices(slopes: Tensor, rooms: Tensor, dead: Tensor) -> Tensor:
    """The multiplier from which on each pixel is worth using in L2 behind a clamp.

    At λ abs(g) = 4 dead its move has grown as long as the dead zone; where there is less room for it, it is
    at (dead + room)² / room.

    Args:
        slopes: abs(g).
        rooms: How far what is seen of each pixel can move.
        dead: The dead zones.
    """
    return torch.where(rooms > dead, 4 * dead, (dead + rooms).square() / rooms) / slopes


def moves(slopes: Tensor, rooms: Tensor, dead: Tensor, price: Tensor, multiplier: Tensor) -> Tensor:
    """How far what is seen of each pixel moves for a multiplier of each row.

    Args:
        slopes: abs(g).
        rooms: How far it can move.
        dead: The dead zones.
        price: See :func:`prices`.
        multiplier: λ.
    """
    pull = torch.addcmul(-dead, slopes, multiplier[..., None], value=0.5)
    return torch.where(multiplier[..., None] >= price, pull.clamp(min=0).minimum(rooms), 0)


def _lagrangian(
    slopes: Tensor, dead: Tensor, target: Tensor, multiplier: Tensor, moved: Tensor
) -> tuple[Tensor, Tensor]:
    """The lower bound on the squared distance that a multiplier gives, and what its moves gain."""
    total = (slopes * moved).sum(-1)
    spent = ((dead + moved).square() * (moved > 0)).sum(-1)
    earned = multiplier * target
    # A pixel that rounding leaves out would have been worth a few roundings of what its dead zone costs.
    rounding = 4 * gamma(slopes.shape[-1] + 16, slopes.dtype) * (earned + multiplier * total + spent)
    rounding = rounding + 16 * gamma(16, slopes.dtype) * dead.square().sum(-1)
    return earned - (multiplier * total - spent) - rounding, total


def dual_bound(
    gradient: Float[Tensor, "*rows pixel"],
    margin: Float[Tensor, "*rows"],
    image: Float[Tensor, "*#rows pixel"],
    front: Clamp,
) -> Float[Tensor, "*rows"]:
    """A lower bound on the distance behind a clamp, from a few multipliers alone.

    Each is right, as any is; together they come within a few per cent of the best.

    Args:
        gradient: g = 2(q − p).
        margin: m.
        image: The image x in [0, 1].
        front: A clamp.
    """
    slopes, rooms, dead = gradient.abs(), front.room(gradient, image), front.dead(gradient, image)
    gains, squared = (slopes * rooms).sum(-1), slopes.square().sum(-1)
    target = margin - 4 * gamma(slopes.shape[-1] + 8, slopes.dtype) * gains
    straight = 2 * target.clamp(min=0) / squared.clamp(min=LEAST_SQUARE)
    price = prices(slopes, rooms, dead)
    bounds = []
    for share in MULTIPLIERS:
        moved = moves(slopes, rooms, dead, price, share * straight)
        bounds.append(_lagrangian(slopes, dead, target, share * straight, moved)[0])
    return round_down(torch.stack(bounds).amax(0).clamp(min=0).sqrt(), slopes.shape[-1] + 8)


def farthest(problem: Problem, size: float) -> Float[Tensor, "*rows"]:
    """The most that a size can gain; an upper bound behind a threshold."""
    slopes, rooms = problem.slopes, problem.rooms
    if isinstance(problem.front, Threshold):
        return most_gain(problem.gains, problem.costs.square(), size**2)
    squared_size = torch.full_like(slopes[..., 0], size**2)
    stretch = first_crossing(slopes.square(), rooms.square(), squared_size).sqrt()[..., None]
    return (slopes * torch.where(stretch.isinf(), rooms, (slopes * stretch).minimum(rooms))).sum(-1)
