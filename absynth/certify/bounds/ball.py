"""What a linear function can gain within a ball around an image and the box [0, 1].

What stands in front of a network (:mod:`absynth.certify.front`) belongs to the ball: it says how far what the
network sees of a value can move, and what the change of the image costs that moves it. So a clamp and a
threshold are exact in Linf and L0. In L2 and L1 the gain is bounded by Lagrange's: for every price λ ≥ 0 of a
budget b,

    max Σ gain_i(e_i)  subject to  Σ cost_i(e_i) ≤ b   is at most   λ b + Σ max (gain_i(e_i) − λ cost_i(e_i)),

which holds whatever the price, and is exact at the best one without a front.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from absynth.certify.front import Front, Grey, Threshold
from absynth.norms import Norm
from absynth.rounding import gamma

PRICE_STEPS = 8
"""Steps to the best price in L2; fewer only make a bound larger."""

MULTIPLIERS = (1.0, 0.7, 0.5, 0.35, 0.2)
"""Prices that are tried behind a front, as parts of that without dead zones."""

SMALLEST = 1e-300
"""Keeps a price above 0."""


@dataclass(frozen=True)
class Ball:
    """Balls around images, each with a size of its own.

    Attributes:
        image: x in [0, 1], float64, shape (batch, channel, height, width).
        front: What stands in front of the network.
        norm: Of the balls.
        size: Their radii, shape (batch,); whole numbers in L0.
    """

    image: Tensor
    front: Front
    norm: Norm
    size: Tensor

    def rows(self, rows: Tensor | slice) -> Ball:
        """Some of the balls."""
        return Ball(self.image[rows], self.front, self.norm, self.size[rows])

    @property
    def center(self) -> Tensor:
        """What the network sees of the images."""
        return self.front.see(self.image)

    def interval(self) -> tuple[Tensor, Tensor]:
        """The least and the largest that the network can see of each value."""
        size = self.size.view(-1, 1, 1, 1)
        if self.norm == "l0":
            moving = size >= 1
            down, up = self.front.down(self.image) * moving, self.front.up(self.image) * moving
        else:
            # no norm allows a single value to change by more
            up, down = self.front.up_within(self.image, size), self.front.down_within(self.image, size)
        seen = self.center
        return seen - down, seen + up

    def gain(self, coefficients: Tensor, image: Tensor) -> Tensor:
        """The most that a linear function of what is seen can gain, rounded up.

        Args:
            coefficients: Shape (batch, place, row, pixel, channel); 0 for what lies beside the image.
            image: Those values of x that they are for, shape (batch, place, 1, pixel, channel).
        """
        size = self.size.view(-1, 1, 1, 1, 1)
        coefficients = coefficients.expand(len(image), *coefficients.shape[1:])
        absolute = coefficients.abs()
        values = absolute.shape[-1] * absolute.shape[-2]
        # every value moves by at most 1, so that this is more than any sum of gains
        slack = 4 * gamma(values + 32, absolute.dtype) * absolute.sum((-2, -1))
        if self.norm in ("linf", "l0"):
            within = self.norm == "linf"
            up = self.front.up_within(image, size) if within else self.front.up(image)
            down = self.front.down_within(image, size) if within else self.front.down(image)
            if within:
                gains = (coefficients.clamp(min=0) * up).sum((-2, -1))
                return gains - (coefficients.clamp(max=0) * down).sum((-2, -1)) + slack
            gains = torch.where(coefficients > 0, absolute * up, absolute * down).sum(-1)
            return self._largest(gains) + slack
        # a single value cannot change by more than the size
        up, down = self.front.up_within(image, size), self.front.down_within(image, size)
        slopes, room = absolute.flatten(-2), torch.where(coefficients > 0, up, down).flatten(-2)
        dead = self.front.dead(coefficients, image).flatten(-2)
        jumps = isinstance(self.front, Threshold)
        cost = self.front.cost(coefficients, image).flatten(-2) if jumps else dead + room
        budget = self.size.view(-1, 1, 1, 1)
        if self.norm == "l1":
            best = _spend(slopes * room, cost, budget)
        elif jumps:
            best = _spend(slopes * room, cost.square(), budget.square())
        else:
            best = self._spend_squares(slopes, room, dead)
        return best * (1 + 4 * gamma(values + 32, absolute.dtype)) + slack

    def _largest(self, gains: Tensor) -> Tensor:
        """The sum of as many of the largest gains as pixels may change."""
        count = self.size.clamp(max=gains.shape[-1]).view(-1, 1, 1, 1)
        most = int(count.max()) if count.numel() else 0
        if most == 0:
            return torch.zeros_like(gains[..., 0])
        largest = gains.topk(most, -1).values
        return (largest * (torch.arange(most, device=gains.device) < count)).sum(-1)

    def _spend_squares(self, slopes: Tensor, room: Tensor, dead: Tensor) -> Tensor:
        """The most that can be gained in L2, where a change costs its square."""
        budget = self.size.square().view(-1, 1, 1, 1)
        with torch.no_grad():
            price = self._price_of_squares(slopes, room)
        if isinstance(self.front, Grey):
            moved = (slopes / (2 * price)).minimum(room)
            return (price * budget)[..., 0] + (slopes * moved - price * moved.square()).sum(-1)
        found = []
        for now in [price * share for share in MULTIPLIERS]:
            moved = (slopes / (2 * now) - dead).clamp(min=0).minimum(room)
            terms = (slopes * moved - now * (dead + moved).square()).clamp(min=0)
            found.append((now * budget)[..., 0] + terms.sum(-1))
        return torch.stack(found).amin(0)

    def _price_of_squares(self, slopes: Tensor, room: Tensor) -> Tensor:
        """The price at which the budget is spent where nothing is in front, or a higher one.

        A value moves by slope / (2 price), at most by its room. From the price without room on, values that
        reach theirs are set apart and the rest spends what is left, until no more of them do.
        """
        budget = self.size.square().view(-1, 1, 1, 1)
        length = slopes.square().sum(-1, keepdim=True).sqrt()
        price = (length / (2 * self.size.view(-1, 1, 1, 1)).clamp(min=SMALLEST)).clamp(min=SMALLEST)
        for _ in range(PRICE_STEPS):
            free = slopes < 2 * room * price
            left = budget - torch.where(free, 0, room).square().sum(-1, keepdim=True)
            squares = torch.where(free, slopes, 0).square().sum(-1, keepdim=True)
            better = (squares / (4 * left)).sqrt()
            price = torch.where((left > 0) & (better < price), better, price).clamp(min=SMALLEST)
        return price


def _spend(gains: Tensor, cost: Tensor, budget: Tensor) -> Tensor:
    """The most that can be gained where costs add up, by the price at which the budget is spent."""
    # the price may be any, so that no gradient needs to go through it
    with torch.no_grad():
        ratio = torch.where(gains > 0, gains / cost.clamp(min=SMALLEST), 0)
        sorted_ratio, order = ratio.sort(-1, descending=True)
        spent = cost.gather(-1, order).cumsum(-1)
        index = (spent < budget).sum(-1, keepdim=True)
        price = sorted_ratio.gather(-1, index.clamp(max=gains.shape[-1] - 1))
        price = torch.where(index < gains.shape[-1], price, 0)
    return (price * budget)[..., 0] + (gains - price * cost).clamp(min=0).sum(-1)
