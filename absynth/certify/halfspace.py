"""One own prototype p against one rival q: how far the image is from the half-space where q beats p.

With scores s = ‖x − p‖² + w, margin m = s_q(x) − s_p(x) and gradient g = 2(q − p), a perturbation δ leaves
the margin m − ⟨g, δ⟩. So q beats p nowhere nearer than

    distance = min ‖δ‖  subject to  ⟨g, δ⟩ ≥ m  and  x + δ ∈ [0, 1],

which is infinite where the box leaves no such δ, and 0 where m ≤ 0. Every quantity is computed so that
rounding can only make it smaller. With room_i = 1 − x_i where g_i > 0 and x_i elsewhere:

- **L2**: δ = clip(λ g, −x, 1 − x) with the smallest λ that reaches Σ abs(g) min(λ abs(g), room) = m.
- **Linf**: the smallest ε with Σ abs(g) min(ε, room) = m.
- **L1**: greedy, the pixels with the largest abs(g) first, each up to its room.
- **L0**: the fewest pixels whose gains abs(g) · room, largest first, sum to m.

Behind a threshold at ½ (``binary``) the model sees b_i = 1 where x_i > ½ and 0 elsewhere, and a change only
matters when it flips a pixel. A flip costs abs(x_i − ½), the infimum of the changes that bring it about, and
gains 2(q − p) from 0 to 1 and 2(p − q) from 1 to 0, never less than nothing. L0 and Linf are exact as before;
for L1 and L2 picking the cheapest set of flips is a knapsack, and its fractional relaxation (greedy by gain
per cost, and per squared cost) is a lower bound, not the exact distance.

Behind a clamp (:mod:`absynth.certify.front`) moving what is seen of a pixel by e costs dead_i + e. Linf is
the smallest ε with Σ abs(g) min((ε − dead)⁺, room) = m and L0 is as before, both exact. Under L1 and L2 the
dead zone is a fee that is paid once for each pixel that is used, a knapsack again. L1 takes the fractional
relaxation: gain and cost of a whole move in proportion. L2 takes the Lagrangian dual, for any λ ≥ 0

    distance² ≥ λ m − Σ_i max(0, max_{0 < e ≤ room} λ abs(g_i) e − (dead_i + e)²),

with the best λ; the inner maximum is at e = min(λ abs(g) / 2 − dead, room). Without dead zones this is the
distance itself.

The same formulas hold for a *mixture* of own prototypes with weights μ ≥ 0, Σμ = 1, whose gradient and margin
are the weighted means: where q beats every p_k it also beats their mean, so the distance to the mixture's
half-space is a lower bound on the distance to the place where q wins. :mod:`absynth.certify.polytope` looks
for the best mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import BINARY, GREY, Front
from absynth.certify.rounding import round_down
from absynth.norms import Norm
from absynth.rounding import gamma

LEAST_SQUARE = 1e-12
"""So that a multiplier can be divided by ‖g‖²; any multiplier is right."""

MOST_DOUBLINGS = 40
"""Of a multiplier, until it is too large."""

NEWTON_STEPS = 100
"""More than the steps that finish any real instance; stopping early only makes a bound smaller."""

BRACKET_STEPS = 14
"""Evaluations that narrow a root down; a wider bracket only makes a bound smaller."""

DUAL_STEPS = 8
"""The same for the best multiplier, near which the bound hardly changes."""

MULTIPLIERS = (1.15, 1.4, 1.75)
"""Shares of the multiplier without box and dead zones that :func:`dual_bound` tries."""

BEYOND = 1 + 1e-5
"""Makes up for the rounding of an upper end."""

JUST_BELOW = {torch.float32: 1 - 1e-6, torch.float64: 1 - 1e-14}
"""Where in a step towards a root to stop, so that rounding does not carry it beyond."""

TOP = 64
"""Pixels that the greedy bound looks at first, as few are ever needed; all only if these fall short."""


class Crossing(NamedTuple):
    """Where the nearest point of a half-space is.

    Attributes:
        distance: Lower bound on the distance, infinite if the box has no such point. For L0, and for Linf
            behind the threshold, the last pixel counts in part; :func:`whole` rounds up.
        step: The perturbation that gets there, of the image or, for binary input, of the binary image with
            the last flip fractional.
    """

    distance: Float[Tensor, "*rows"]
    step: Float[Tensor, "*rows pixel"]


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
) -> Crossing:
    """The cheapest z with 0 ≤ z ≤ cap and Σ slope_i z_i ≥ target: the steepest pixels first.

    Args:
        slopes: Non-negative gain per unit of cost.
        caps: The most that can be spent on each pixel.
        target: What the gain has to reach.

    Returns:
        Σ z (infinite where the target is out of reach) and z.
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
    return Crossing(cost.view_as(target), spent)


def _cheapest_level(gains: Tensor, costs: Tensor, target: Tensor) -> Tensor:
    """The smallest cost level such that the gains of all pixels that cost no more reach the target.

    Between one level and the next it counts how much of the next pixel's gain is needed, so that better
    mixtures score higher though the level stays the same; :func:`whole` takes that back.
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


def _over_channels(gains: Tensor, channels: int) -> Tensor:
    """The gain of changing a pixel in all its channels, which L0 counts as one change."""
    grouped: Tensor = gains.unflatten(-1, (channels, -1)).sum(-2)
    return grouped


def crossing(
    gradient: Float[Tensor, "*rows pixel"],
    margin: Float[Tensor, "*rows"],
    image: Float[Tensor, "*#rows pixel"],
    norm: Norm,
    front: Front = GREY,
    channels: int = 1,
) -> Crossing:
    """The nearest point of the half-space ⟨g, δ⟩ ≥ m (see the top of this module).

    Works in the precision of its arguments; in float32 the bound is still sound, and a little smaller.

    Args:
        gradient: g = 2(q − p).
        margin: m.
        image: The image x in [0, 1].
        norm: Which norm measures δ.
        front: What stands between image and prototypes.
        channels: Channels of an image, outermost in ``pixel``; L0 counts a pixel once whatever its channels.
    """
    slopes, rooms = gradient.abs(), front.room(gradient, image)
    gains = slopes * rooms
    pixels = gains.shape[-1]
    # Each sum below is of at most `pixels` products of two rounded factors.
    target = margin - 4 * gamma(pixels + 8, gains.dtype) * gains.sum(-1)
    if norm == "l0":
        grouped = _over_channels(gains, channels)
        cost, spent = greedy(grouped, torch.ones_like(grouped), target)
        moved = rooms * spent[..., None, :].expand(*spent.shape[:-1], channels, -1).flatten(-2)
    elif front.binary:
        costs = (image - 0.5).abs().expand_as(gains)
        cost, moved = _flips(gains, costs, rooms, target, norm)
    elif front.clamps:
        dead = front.dead(gradient, image).expand_as(gains)
        cost, moved = _beyond_dead_zones(slopes, rooms, dead, target, norm)
    elif norm == "l1":
        cost, moved = greedy(slopes, rooms, target)
    else:
        root = first_crossing(slopes.square() if norm == "l2" else slopes, gains, target)
        reach = root[..., None] * slopes if norm == "l2" else root[..., None]
        moved = torch.where(root.isinf()[..., None], rooms, torch.minimum(reach, rooms))
        cost = torch.where(root.isinf(), root, (moved * (slopes > 0)).norm(dim=-1)) if norm == "l2" else root
    return Crossing(round_down(cost, pixels + 8), (moved * (slopes > 0)).copysign(gradient))


def _flips(gains: Tensor, costs: Tensor, rooms: Tensor, target: Tensor, norm: Norm) -> Crossing:
    """The same behind the threshold, where pixels flip at a cost each."""
    if norm == "linf":
        level = _cheapest_level(gains, costs, target)
        return Crossing(level, rooms * (costs <= level[..., None]))
    spent = costs.square() if norm == "l2" else costs
    free = spent == 0
    remaining = target - (gains * free).sum(-1)
    cost, flipped = greedy(torch.where(free, 0, gains / spent), spent, remaining)
    fraction = torch.where(free, 1, flipped / spent)
    return Crossing(cost.sqrt() if norm == "l2" else cost, rooms * fraction)


def _bracket(
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


def _beyond_dead_zones(slopes: Tensor, rooms: Tensor, dead: Tensor, target: Tensor, norm: Norm) -> Crossing:
    """The same behind a clamp, where a pixel costs its dead zone before it gains anything."""
    gains = slopes * rooms
    unreachable = gains.sum(-1) < target
    if norm == "l1":
        costs = dead + rooms
        rates = torch.where(rooms > 0, gains / costs, 0)
        cost, spent = greedy(rates, costs, target)
        return Crossing(cost, torch.where(rooms > 0, rooms * (spent / costs), 0))
    if norm == "linf":

        def reached(size: Tensor) -> tuple[Tensor, Tensor]:
            inside = size[..., None] - dead
            moving = (inside > 0) & (inside < rooms)
            return (slopes * inside.clamp(min=0).minimum(rooms)).sum(-1), (slopes * moving).sum(-1)

        # Without dead zones it takes no more, and with them no more than the widest of them in addition.
        plain = first_crossing(slopes, gains, target).masked_fill(unreachable, 0)
        size = _bracket(reached, plain, plain + dead.amax(-1) * BEYOND, target)
        moved = (size[..., None] - dead).clamp(min=0).minimum(rooms)
        cost = torch.where(target > 0, size, 0).masked_fill(unreachable, torch.inf)
        return Crossing(cost, torch.where(unreachable[..., None], rooms, moved))
    return _dual(slopes, rooms, dead, target, unreachable)


def _dual(slopes: Tensor, rooms: Tensor, dead: Tensor, target: Tensor, unreachable: Tensor) -> Crossing:
    """The best Lagrangian bound in L2 (see the top of this module)."""
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

    plain = 2 * first_crossing(slopes.square(), slopes * rooms, target)
    low = torch.where(unreachable, 0, plain)
    high = torch.where(unreachable, 1, 2 * low)
    for _ in range(MOST_DOUBLINGS):
        short = (evaluate(high)[0] < target) & ~unreachable
        if not short.any():
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    _bracket(evaluate, low, high, target, DUAL_STEPS)
    distance = best.sqrt().masked_fill(unreachable, torch.inf)
    moved = moves(slopes, rooms, dead, price, best_multiplier)
    return Crossing(distance, torch.where(unreachable[..., None], rooms, moved))


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
    front: Front,
) -> Float[Tensor, "*rows"]:
    """A lower bound on the L2 distance of :func:`crossing` behind a clamp, from a few multipliers alone.

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


def whole(
    distance: Float[Tensor, "*rows"], image: Float[Tensor, "*#rows pixel"], norm: Norm, front: Front
) -> Float[Tensor, "*rows"]:
    """Rounds up to a distance that exists: a whole number of pixels, or a cost at which some pixel flips.

    Args:
        distance: Lower bounds from :func:`crossing`, or their smallest.
        image: The image x in [0, 1].
        norm: Which norm.
        front: What stands between image and prototypes.
    """
    if norm == "l0":
        return distance.ceil()
    if norm == "linf" and front.binary:
        costs = (image - 0.5).abs()
        level = torch.where(costs >= distance[..., None], costs, torch.inf).amin(-1)
        return torch.where(distance > 0, level, distance)
    return distance


def halfspace_distance(
    gradient: Float[Tensor, "*rows pixel"],
    margin: Float[Tensor, "*rows"],
    image: Float[Tensor, "*#rows pixel"],
    norm: Norm,
    front: Front = GREY,
    channels: int = 1,
) -> Float[Tensor, "*rows"]:
    """The distance from an image to the half-space ⟨g, δ⟩ ≥ m, rounded down; a whole number for L0.

    Arguments as for :func:`crossing`.

    >>> gradient, image = torch.tensor([3.0, 4.0]).double(), torch.tensor([0.5, 0.5]).double()
    >>> halfspace_distance(gradient, torch.tensor(1.0).double(), image, "l2")
    tensor(0.2000, dtype=torch.float64)
    >>> halfspace_distance(gradient, torch.tensor(3.0).double(), image, "l0")
    tensor(2., dtype=torch.float64)
    """
    return whole(crossing(gradient, margin, image, norm, front, channels).distance, image, norm, front)


def largest_gain(
    gradient: Float[Tensor, "*rows pixel"],
    size: float,
    image: Float[Tensor, "*#rows pixel"],
    norm: Norm,
    binary: bool = False,
    channels: int = 1,
) -> Float[Tensor, "*rows"]:
    """The largest ⟨g, δ⟩ over perturbations of a given size that stay in the box: the way there, not back.

    For binary input under L1 and L2 it is an upper bound (the fractional knapsack), exact in all other cases.

    Args:
        gradient: g = 2(q − p).
        size: The size of the perturbation; a number of pixels for L0.
        image: The image x in [0, 1].
        norm: Which norm measures the size.
        binary: Whether the model looks at the image through the threshold at ½; there is no clamp.
        channels: Channels of an image, outermost in ``pixel``.

    >>> largest_gain(torch.tensor([3.0, 4.0]), 0.1, torch.tensor([0.5, 1.0]), "linf")
    tensor(0.3000)
    """
    slopes, rooms = gradient.abs(), (BINARY if binary else GREY).room(gradient, image)
    gains = slopes * rooms
    costs = (image - 0.5).abs().expand_as(gains)
    if norm == "l0":
        grouped = _over_channels(gains, channels)
        return grouped.topk(min(int(size), grouped.shape[-1])).values.sum(-1)
    if norm == "linf":
        return (gains * (costs <= size)).sum(-1) if binary else (slopes * rooms.clamp(max=size)).sum(-1)
    if norm == "l2" and not binary:
        squared_size = torch.full_like(gains[..., 0], size**2)
        stretch = first_crossing(slopes.square(), rooms.square(), squared_size).sqrt()[..., None]
        return (slopes * torch.where(stretch.isinf(), rooms, (slopes * stretch).minimum(rooms))).sum(-1)
    price = costs if binary else rooms
    price, budget = (price.square(), size**2) if norm == "l2" else (price, size)
    order = (gains / price).nan_to_num(nan=0.0, posinf=torch.inf).argsort(dim=-1, descending=True)
    prices, sorted_gains = price.gather(-1, order), gains.gather(-1, order)
    before = prices.cumsum(-1) - prices
    share = ((budget - before) / prices).nan_to_num(nan=1.0, posinf=1.0).clamp(0, 1)
    return (sorted_gains * share).sum(-1)
