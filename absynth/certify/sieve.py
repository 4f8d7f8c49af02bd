"""Which rivals cannot win within a given distance: one matrix product, then a pass over the few left.

For every norm but L2 without a threshold, the largest gain within a distance d is at most

    t B + Σ_i max((2(q_i − p_i) up_i − t cost_i)⁺, (2(p_i − q_i) down_i − t cost_i)⁺)

with the budget B, the room up and down, and the cost of using all of it: for any price t ≥ 0, by Lagrangian
duality, and for the right t it is the gain of the greedy choice. Linf has t = 0 and rooms no larger than d.
Each term is convex in q_i and therefore at most its chord between q_i = 0 and q_i = 1, which makes the sum
linear in q: a matrix product for all rivals at once. Prototypes are nearly black and white, where chord and
term are the same, so that it is also a tight bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from absynth.certify.front import Front
from absynth.norms import Norm

ROWS_AT_ONCE = 256
"""Rivals of an image looked at together after the matrix product: few enough for a processor's cache."""


CHORD_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Prices tried for the chords, which are loose for grey prototypes at a price that suits the terms."""


@dataclass(frozen=True)
class Moves:
    """What can be done to each pixel of an image within a distance, and what it costs (float64).

    Attributes:
        up: Room towards 1.
        down: Room towards 0.
        up_cost: Cost of going all the way up.
        down_cost: Cost of going all the way down.
        budget: What may be spent in all.
    """

    up: Float[Tensor, "batch pixel"]
    down: Float[Tensor, "batch pixel"]
    up_cost: Float[Tensor, "batch pixel"]
    down_cost: Float[Tensor, "batch pixel"]
    budget: Float[Tensor, "batch"]

    def price(self, gradients: Float[Tensor, "batch seed pixel"]) -> Float[Tensor, "batch"]:
        """The price t at which typical rivals spend the budget: the median of the last pixel's gain per cost.

        Args:
            gradients: 2(q − p) for a few rivals an image.
        """
        rising = gradients > 0
        cost = torch.where(rising, self.up_cost[:, None], self.down_cost[:, None])
        gain = gradients.abs() * torch.where(rising, self.up[:, None], self.down[:, None])
        steepest, order = torch.where(gain > 0, gain / cost, 0).sort(dim=-1, descending=True)
        spent = cost.gather(-1, order).cumsum(-1)
        index = (spent < self.budget[:, None, None]).sum(-1, keepdim=True).clamp(max=gain.shape[-1] - 1)
        return steepest.gather(-1, index)[..., 0].median(dim=1).values.nan_to_num(posinf=0.0)


def moves_within(
    image: Float[Tensor, "batch pixel"],
    distance: Float[Tensor, "batch"],
    norm: Norm,
    front: Front,
    channels: int,
) -> Moves:
    """What can be done within a distance of each image.

    Args:
        image: Float64.
        distance: How far.
        norm: Which norm; L2 only behind a threshold.
        front: What stands between image and prototypes.
        channels: Channels of an image.
    """
    none = torch.zeros_like(image)
    if norm == "linf":
        size = distance[:, None]
        return Moves(front.up_within(image, size), front.down_within(image, size), none, none, none[:, 0])
    up, down = front.up(image), front.down(image)
    if norm == "l0":
        # A pixel's channels share its cost: (Σ gain_c − t)⁺ ≤ Σ (gain_c − t / channels)⁺.
        return Moves(up, down, none + 1 / channels, none + 1 / channels, distance)
    # A move costs no less than its share of the whole move does, which pays a dead zone once.
    up_cost, down_cost = front.cost_up(image), front.cost_down(image)
    if norm == "l1":
        return Moves(up, down, up_cost, down_cost, distance)
    return Moves(up, down, up_cost.square(), down_cost.square(), distance.square())


def chords(moves: Moves, price: Tensor, own: Float[Tensor, "batch pixel"]) -> tuple[Tensor, Tensor]:
    """The constant (batch) and the slope (batch, pixel) of the sum of chords at a price of each image."""
    fee = price[:, None]
    black = (2 * own * moves.down - fee * moves.down_cost).clamp(min=0)
    white = (2 * (1 - own) * moves.up - fee * moves.up_cost).clamp(min=0)
    return black.sum(1) + price * moves.budget, white - black


def _chord_price(
    moves: Moves, price: Tensor, own: Float[Tensor, "batch pixel"], seeds: Float[Tensor, "batch seed pixel"]
) -> Float[Tensor, "batch"]:
    """The price with the lowest chords for the seeds, between ``price`` and where no full move pays."""
    dearest = torch.maximum(moves.up_cost, moves.down_cost).amax(1)
    highest = torch.maximum(torch.where(dearest > 0, 2 / dearest, 0), price)
    trials = torch.stack([torch.lerp(price, highest, share) for share in CHORD_SHARES])
    totals = []
    for trial in trials:
        constant, slope = chords(moves, trial, own)
        totals.append(constant + (seeds @ slope[:, :, None])[:, :, 0].mean(1))
    return trials.gather(0, torch.stack(totals).argmin(0, keepdim=True))[0]


def safe_rivals(
    moves: Moves,
    own: Float[Tensor, "batch pixel"],
    seeds: Float[Tensor, "batch seed pixel"],
    rivals: Float[Tensor, "entry pixel"],
    margins: Float[Tensor, "batch entry"],
    wanted: Bool[Tensor, "batch entry"],
    rounding: Float[Tensor, "entry"],
    relative: float,
) -> Bool[Tensor, "batch entry"]:
    """Which rivals gain less than their margin within the budget.

    Args:
        moves: What can be done.
        own: One own prototype p an image, float32.
        seeds: A few typical rivals an image, float32, that the prices are set by.
        rivals: All prototypes, float32.
        margins: Lower bounds on s_q − s_p less every slack, float32.
        wanted: Which rivals are worth more than the matrix product.
        rounding: At least 4 γ Σ q for each rival.
        relative: γ of as many float32 roundings as there are pixels, and a few more.
    """
    exact_own, exact_seeds = own.double(), seeds.double()
    price = moves.price(2 * (exact_seeds - exact_own[:, None]))
    constant, slope = chords(moves, _chord_price(moves, price, exact_own, exact_seeds), exact_own)
    # Each product is at most 2 q, which `rounding` covers; the constant is rounded together with them.
    constant = constant * (1 + 4 * relative) + 4 * relative * slope.abs().sum(1)
    gains = torch.addmm(constant.float()[:, None], slope.float(), rivals.T)
    safe = gains.add_(rounding) < margins
    spent = price * moves.budget
    up_fee, down_fee = price[:, None] * moves.up_cost, price[:, None] * moves.down_cost
    for image in range(len(own)):
        rise, rise_fee = 2 * moves.up[image].float(), up_fee[image].float()
        fall, fall_fee = -2 * moves.down[image].float(), down_fee[image].float()
        # A term takes four roundings of numbers that are at most 2 and the fees.
        error = 4 * relative * float((rise_fee + fall_fee).sum() + spent[image])
        left = (~safe[image] & wanted[image]).nonzero()[:, 0]
        for entries in left.split(ROWS_AT_ONCE):
            difference = rivals[entries].sub_(own[image])
            rising = (difference * rise).sub_(rise_fee)
            terms = torch.maximum(rising, difference.mul_(fall).sub_(fall_fee), out=rising)
            gain = terms.clamp_(min=0).sum(1) + spent[image].float()
            safe[image, entries] = gain * (1 + 4 * relative) + error < margins[image, entries]
    return safe
