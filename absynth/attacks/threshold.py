"""An attack on models behind a threshold at ½: which values to move across it, and no others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from absynth.attacks.base import Attack
from absynth.attacks.batch import Mask, Scalars
from absynth.attacks.line_search import bisect
from absynth.attacks.pointwise import reset_pixels
from absynth.attacks.target import Loss, Target, margin_loss, misclassified
from absynth.models.cnn import Binarized
from absynth.norms import Norm
from absynth.shapes import Images, Labels, Logits

Flips = Bool[Tensor, "batch channel height width"]
LEAST_COST = 1e-6
"""Of moving a value across the threshold: one that lies on it costs a rounding."""

FIRST_GROWTH = 1.25
"""Of the budget in every step before the first adversarial."""

EXCHANGES = 10
"""Flips that are tried for cheaper ones after a round in L1."""

LONGEST_COVER = 8
"""Values that take the place of one at the most."""

SLACK = 1e-4
"""Relative, so that a sum of costs which equals the budget but for rounding stays within."""


def is_bright(images: Images) -> Flips:
    """Where a value is above the threshold, as :func:`absynth.models.cnn.binarize` sees it."""
    return images > 0.5


def across_threshold(images: Images, bright: Flips) -> Images:
    """The nearest images whose values are on the given sides of the threshold.

    Args:
        images: In [0, 1].
        bright: Which values are to be above ½; the others are to be at most ½.

    >>> bright = torch.tensor([[[[False, True, False]]]])
    >>> across_threshold(torch.tensor([[[[0.2, 0.9, 0.9]]]]), bright)
    tensor([[[[0.2000, 0.9000, 0.5000]]]])
    """
    half = torch.full((), 0.5, dtype=images.dtype, device=images.device)
    moved = torch.where(bright, half.nextafter(torch.ones_like(half)), half)
    return torch.where(is_bright(images) == bright, images, moved)


def towards(rival: Labels) -> Loss:
    """The loss logit_rival − logit_label, for the rival class of each image."""

    def loss(logits: Logits, labels: Labels) -> Scalars:
        return (logits.gather(1, rival[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)

    return loss


@dataclass(frozen=True)
class Threshold(Attack):
    """Chooses values to flip by the gradient behind the threshold, and moves each just across ½.

    Flipping value i of a binary image b changes the margin by a_i = g_i (1 − 2b_i), to first order in the
    model behind the threshold, g its gradient there; the straight-through gradient of
    :class:`~absynth.models.cnn.Binarized` is just that. It costs c_i, which is 1 in L0, abs(x_i − ½) in L1
    and Linf and its square in L2. Every step averages the a_i of the points so far and flips the values of
    the largest a_i / c_i that a budget pays for; in Linf all of a_i > 0 and c_i within the budget. Until a
    first adversarial is found the budget is what a linear model would need, or more; then it follows the
    boundary as in :class:`~absynth.attacks.fast_minimum_norm.FastMinimumNorm`. A linear model is solved but
    for the last value in L1 and L2, where costs differ.

    There is a round for each of the likeliest rival classes, from the clean image towards that class, and a
    last one from the best so far towards any. After each, flips are taken back while the image stays
    adversarial: in Linf from the most expensive on, else as in the Pointwise attack. In L1, where
    costs differ most, single flips are then exchanged for cheaper ones that do as much, to first order.

    Attributes:
        name: Name in suites and records.
        norm: Any of the four; its own L0 cost counts every channel of a pixel.
        steps: Forward and backward passes of a round.
        rivals: Rounds towards a class each.
        momentum: Weight of the average in the next one.
        max_queries: For taking back flips, each round.
    """

    name: str
    norm: Norm
    steps: int = 30
    rivals: int = 3
    momentum: float = 0.75
    max_queries: int = 100

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm."""
        return {
            "steps": self.steps,
            "rivals": self.rivals,
            "momentum": self.momentum,
            "max_queries": self.max_queries,
        }

    def applies_to(self, model: nn.Module) -> bool:
        """Whether the model has a threshold in front."""
        return isinstance(model, Binarized)

    def run(self, target: Target, images: Images) -> Images:
        """Follows the boundary from flip to flip, once for each rival and once more for all."""
        best, found = images.clone(), torch.zeros_like(target.labels, dtype=torch.bool)
        with torch.no_grad():
            logits = target(images)
        own = nn.functional.one_hot(target.labels, logits.shape[1]).bool()
        rivals = logits.masked_fill(own, -torch.inf).argsort(dim=1, descending=True)[:, :-1]
        for rival in rivals[:, : self.rivals].T:
            best, found = self._round(target, images, images, best, found, towards(rival))
        best, _ = self._round(target, images, best, best, found, margin_loss)
        return best

    def _round(
        self, target: Target, images: Images, start: Images, best: Images, found: Mask, loss: Loss
    ) -> tuple[Images, Mask]:
        costs = _costs(images, self.norm)
        flipped = across_threshold(images, ~is_bright(images))
        sign = torch.where(is_bright(images), -1.0, 1.0).to(images.dtype)
        best_cost = self._total(costs, best != images).masked_fill(~found, torch.inf)
        points, budget = start, self._total(costs, start != images)
        average = torch.zeros_like(images)
        for step in range(self.steps):
            gamma = 0.01 + 0.09 * (1 + math.cos(math.pi * step / self.steps)) / 2
            slope = target.slope(points, loss)
            flips = points != images
            cost = self._total(costs, flips)
            better = slope.adversarial & (cost < best_cost)
            best = torch.where(better[:, None, None, None], points, best)
            best_cost = torch.where(better, cost, best_cost)

            gain = sign * slope.gradient
            need = (gain * flips).flatten(1).sum(dim=1) - slope.loss
            wanted = torch.maximum(budget, self._linear_cost(costs, gain, need))
            grown = torch.where(best_cost.isfinite(), (1 + gamma) * wanted, FIRST_GROWTH * wanted)
            budget = torch.where(slope.adversarial, best_cost, grown).minimum((1 - gamma) * best_cost)
            scale = gain.abs().flatten(1).sum(dim=1).clamp(min=LEAST_COST)
            average = self.momentum * average + gain / scale[:, None, None, None]
            points = torch.where(self._affordable(costs, average, budget), flipped, images)
        found = best_cost.isfinite()
        return self._take_back(target, images, best, found), found

    def _take_back(self, target: Target, images: Images, best: Images, found: Mask) -> Images:
        if self.norm != "linf":
            best = reset_pixels(target, images, best, found, self.max_queries)
            return self._exchange(target, images, best, found) if self.norm == "l1" else best
        rows = found.nonzero().squeeze(1)
        if len(rows) == 0:
            return best
        clean, far = images[rows], best[rows]
        costs = _costs(clean, "linf")

        def path(position: Scalars) -> Images:
            return torch.where(costs <= position[:, None, None, None], far, clean)

        start = costs.flatten(1).amax(dim=1)
        position = bisect(target.select(rows), path, torch.zeros_like(start), start, steps=20)
        return best.index_copy(0, rows, path(position))

    def _exchange(self, target: Target, images: Images, best: Images, found: Mask) -> Images:
        """Takes one flip back for cheaper ones that do as much, the most expensive flip first."""
        rows = found.nonzero().squeeze(1)
        if len(rows) == 0:
            return best
        part, clean, current = target.select(rows), images[rows], best[rows]
        costs = _costs(clean, self.norm).flatten(1)
        flipped = across_threshold(clean, ~is_bright(clean)).flatten(1)
        sign = torch.where(is_bright(clean), -1.0, 1.0).to(images.dtype).flatten(1)
        tried = torch.zeros(len(rows), dtype=torch.int64, device=images.device)
        for _ in range(EXCHANGES):
            flips = (current != clean).flatten(1)
            order = costs.where(flips, -torch.inf).argsort(dim=1, descending=True)
            dearest = order.gather(1, tried.clamp(max=order.shape[1] - 1)[:, None])
            left = tried < flips.sum(dim=1)
            without = flips.scatter(1, dearest, value=False)
            points = torch.where(without, flipped, clean.flatten(1)).view_as(clean)
            slope = part.slope(points, margin_loss)
            free = ~flips & (costs < costs.gather(1, dearest))
            gains = (sign * slope.gradient.flatten(1)).where(free, 0).clamp(min=0)
            added = _cover(costs, gains, -slope.loss)
            cheaper = (costs * added).sum(dim=1) < costs.gather(1, dearest).squeeze(1)
            points = torch.where(without | added, flipped, clean.flatten(1)).view_as(clean)
            better = left & cheaper & misclassified(part(points), part.labels)
            current = torch.where(better[:, None, None, None], points, current)
            tried = torch.where(better, 0, tried + 1)
        return best.index_copy(0, rows, current)

    def _total(self, costs: Images, flips: Flips) -> Scalars:
        paid = (costs * flips).flatten(1)
        return paid.amax(dim=1) if self.norm == "linf" else paid.sum(dim=1)

    def _order(self, costs: Images, gain: Images) -> tuple[Tensor, Tensor]:
        """The order in which values are flipped, and what is paid once each of them is."""
        flat = costs.flatten(1)
        if self.norm == "linf":
            order = flat.argsort(dim=1)
            return order, flat.gather(1, order)
        order = (gain.flatten(1) / flat).argsort(dim=1, descending=True)
        return order, flat.gather(1, order).cumsum(dim=1)

    def _linear_cost(self, costs: Images, gain: Images, need: Scalars) -> Scalars:
        """What it takes to raise the margin by ``need`` if the gains add up; all of them if they do not."""
        useful = gain.clamp(min=0)
        order, paid = self._order(costs, useful)
        short = useful.flatten(1).gather(1, order).cumsum(dim=1) < need[:, None]
        last = short.sum(dim=1, keepdim=True).clamp(max=short.shape[1] - 1)
        return paid.gather(1, last).squeeze(1)

    def _affordable(self, costs: Images, gain: Images, budget: Scalars) -> Flips:
        """The flips of most gain for their cost that the budget pays for."""
        limit = (1 + SLACK) * budget[:, None, None, None]
        # what alone is beyond the budget would bar all that comes after it
        order, paid = self._order(costs, torch.where(costs <= limit, gain, -torch.inf))
        within = paid <= limit.flatten(1)
        flips = torch.zeros_like(within).scatter(1, order, within).view_as(costs)
        return flips & (gain > 0)


def _cover(costs: Float[Tensor, "batch value"], gains: Float[Tensor, "batch value"], need: Scalars) -> Tensor:
    """Values whose gains add up to more than ``need``, at little cost; none where all of them do not.

    The best by gain for cost, as many as it takes, of which any number of the last ones may be left out for a
    single one that does as much; the cheapest of all these choices.
    """
    order = (gains / costs).argsort(dim=1, descending=True)[:, :LONGEST_COVER]
    won = gains.gather(1, order).cumsum(dim=1)
    paid = costs.gather(1, order).cumsum(dim=1)
    start = torch.zeros_like(won[:, :1])
    won, paid = torch.cat([start, won], dim=1), torch.cat([start, paid], dim=1)
    taken = torch.zeros_like(gains, dtype=torch.bool)
    best = torch.full_like(need, torch.inf)
    chosen = taken.clone()
    for count in range(order.shape[1]):
        enough = (won[:, count, None] + gains > need[:, None]) & ~taken & (gains > 0)
        cost, last = costs.where(enough, torch.inf).min(dim=1)
        better = paid[:, count] + cost < best
        best = torch.where(better, paid[:, count] + cost, best)
        chosen = torch.where(better[:, None], taken.scatter(1, last[:, None], value=True), chosen)
        taken = taken.scatter(1, order[:, count, None], value=True)
    return chosen


def _costs(images: Images, norm: Norm) -> Float[Tensor, "batch channel height width"]:
    """What it costs to move each value across the threshold; in L2 the square of the distance."""
    if norm == "l0":
        return torch.ones_like(images)
    distances = (images - 0.5).abs().clamp(min=LEAST_COST)
    return distances.square() if norm == "l2" else distances
