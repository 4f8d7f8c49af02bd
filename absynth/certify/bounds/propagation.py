"""Bounds of everything that a network computes within a ball: intervals, and linear bounds back to the image.

- **Intervals** (Gowal et al. 2018, arXiv 1810.12715) go forward: an affine map takes a middle and a radius,
  the radius with absolute weights; a non-decreasing function takes both ends.
- **CROWN** (Zhang et al. 2018, arXiv 1811.00866) goes backward: a linear function of a node's values is one
  of its parents' values, through an affine map by its transpose, and through a function of single numbers by
  a line below it where the coefficient is positive and one above it elsewhere. What arrives at the image is
  minimised over the ball. The lines hold in an interval, so the values before every such function are bounded
  first, front to back.

Rounding (notation in :mod:`absynth.rounding`). Let a be the computed coefficients of a node v = W u + b, and
let the coefficients of u be computed from them. They differ from aW by at most γ |a||W|, so what they make of
u differs by at most γ |a||W||u|, and the largest |u| is known. That is taken off, at every node, with as many
roundings as its sums have terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from absynth.certify.bounds.ball import Ball
from absynth.certify.bounds.coefficients import Coefficients, numbers_a_row, single_values
from absynth.certify.bounds.curves import Lines
from absynth.certify.bounds.nodes import Activation, Affine, Network
from absynth.rounding import gamma

AT_ONCE = 2**19
"""Coefficients that are computed together: few enough to stay near the processor."""

SPARE = 16
"""Roundings beside those of the sums."""


@dataclass(frozen=True)
class Interval:
    """Bounds of a node's values.

    Attributes:
        low: Shape (batch, *shape).
        high: The same.
    """

    low: Tensor
    high: Tensor

    @property
    def largest(self) -> Tensor:
        """The largest absolute value."""
        return self.low.abs().maximum(self.high.abs())


@dataclass(frozen=True)
class Propagation:
    """What is known of a network's values within some balls.

    Attributes:
        network: The network.
        ball: The balls.
        intervals: Of each node, in the order of the nodes.
    """

    network: Network
    ball: Ball
    intervals: list[Interval] = field(default_factory=list)
    _known: dict[tuple[object, ...], Tensor] = field(default_factory=dict)
    _lines: dict[int, Lines] = field(default_factory=dict)

    def lower_bound(
        self,
        index: int,
        start: Coefficients,
        *,
        straight: bool,
        choices: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Lower bounds of linear functions of a node's values, shape (batch, place · row).

        Args:
            index: Of the node.
            start: The functions.
            straight: Whether to go through functions of single numbers by lines; else their intervals are
                taken.
            choices: Which line below to take of each such node, shape (batch, row, *shape).
        """
        pending = {index: start}
        total = self.ball.image.new_zeros(len(self.ball.image), 1)
        for number in range(index, -1, -1):
            coefficients = pending.pop(number, None)
            if coefficients is None:
                continue
            node = self.network.nodes[number]
            if isinstance(node, Affine):
                found = self._through_affine(number, node, coefficients)
                parts = coefficients.back(self.network, node)
            elif isinstance(node, Activation) and straight:
                choice = None if choices is None else choices[number]
                passed, found = self._along(number, node, coefficients, choice)
                parts = [passed]
            elif isinstance(node, Activation):
                found, parts = self._within(number, coefficients), []
            else:
                found, parts = self._at_image(coefficients), []
            for parent, part in zip(node.parents if parts else (), parts, strict=True):
                pending[parent] = pending[parent].plus(part) if parent in pending else part
            total = total + found.flatten(1)
        return total

    def _through_affine(self, number: int, node: Affine, coefficients: Coefficients) -> Tensor:
        """The part of an affine map's constant, less what rounding can do."""

        def reach() -> Tensor:
            most = node.reach(*[self.intervals[parent].largest for parent in node.parents])
            return most * gamma(2 * node.terms + node.size + SPARE, most.dtype)

        found = -_dot(coefficients.tensor.abs(), self._local("reach", number, coefficients, reach))
        if (bias := node.bias) is not None:
            constant = self._local("bias", number, coefficients, lambda: bias.expand(node.shape)[None])
            found = found + _dot(coefficients.tensor, constant)
        return found

    def _along(
        self, number: int, node: Activation, coefficients: Coefficients, choice: Tensor | None
    ) -> tuple[Coefficients, Tensor]:
        """What goes on behind a function of single numbers, and the part of the lines' values at 0.

        A coefficient takes the line below where it is positive, and else the one above: a·(lower + upper) / 2
        + abs(a)·(lower − upper) / 2.
        """
        before = self.intervals[node.parents[0]]

        def lines() -> Lines:
            if choice is not None:
                return node.curve.lines(before.low[:, None], before.high[:, None], choice)
            if number not in self._lines:
                self._lines[number] = node.curve.lines(before.low, before.high)
            return self._lines[number]

        def spread() -> Tensor:
            one = lines()
            largest = before.largest if choice is None else before.largest[:, None]
            reach = one.lower_shift.abs().maximum(one.upper_shift.abs())
            reach = reach + one.lower.abs().maximum(one.upper.abs()) * largest
            slack = gamma(node.size + SPARE, reach.dtype) * reach
            return (one.lower_shift - one.upper_shift) / 2 - slack

        def local(name: str, make: Callable[[], Tensor]) -> Tensor:
            if choice is not None:
                return coefficients.local(make())
            return self._local(name, number, coefficients, make)

        absolute = coefficients.tensor.abs()
        passed = coefficients.tensor * local("slope", lambda: (lines().lower + lines().upper) / 2)
        passed = passed + absolute * local("bend", lambda: (lines().lower - lines().upper) / 2)
        shift = local("shift", lambda: (lines().lower_shift + lines().upper_shift) / 2)
        found = _dot(coefficients.tensor, shift) + _dot(absolute, local("spread", spread))
        return Coefficients(passed, coefficients.shape, coefficients.patches), found

    def _within(self, number: int, coefficients: Coefficients) -> Tensor:
        """The least that functions of a node's values can be in its interval."""
        interval = self.intervals[number]
        slack = 2 * gamma(self.network.nodes[number].size + SPARE, interval.low.dtype)
        radius = (interval.high - interval.low) / 2 + slack * interval.largest
        found = _dot(coefficients.tensor, coefficients.local((interval.low + interval.high) / 2))
        return found - _dot(coefficients.tensor.abs(), coefficients.local(radius))

    def _at_image(self, coefficients: Coefficients) -> Tensor:
        """The least that functions of the image can be in the ball."""
        ball = self.ball
        inside = self._local("inside", 0, coefficients, lambda: torch.ones_like(ball.image[:1]))
        center = self._local("center", 0, coefficients, lambda: ball.center)
        image = self._local("image", 0, coefficients, lambda: ball.image)
        tensor = coefficients.tensor * inside
        slack = gamma(center[0, 0].numel() + SPARE, tensor.dtype) * tensor.abs().flatten(3).sum(-1)
        gain = ball.gain(-tensor.flatten(3, 4), image.flatten(3, 4))
        return _dot(tensor, center) - gain - slack

    def _local(
        self, name: str, number: int, coefficients: Coefficients, make: Callable[[], Tensor]
    ) -> Tensor:
        """Values of a node in the form of the coefficients, made once."""
        key = (name, number, coefficients.patches)
        if key not in self._known:
            self._known[key] = coefficients.local(make())
        return self._known[key]


def _dot(tensor: Tensor, values: Tensor) -> Tensor:
    """Coefficients at values, both in the form of patches: shape (batch, place, row)."""
    if values.shape[2] > 1:
        return (tensor * values).flatten(3).sum(-1)
    return (tensor.flatten(3) @ values.flatten(2)[..., None])[..., 0]


def propagate(network: Network, ball: Ball, *, straight: bool, largest: int) -> Propagation:
    """Bounds the values of every node.

    Args:
        network: The network.
        ball: The balls.
        straight: Whether to tighten what is before a function of single numbers by linear bounds.
        largest: Nodes of more numbers are left as the intervals have them.
    """
    found = Propagation(network, ball)
    bent: list[bool] = []
    for index, node in enumerate(network.nodes):
        given = [found.intervals[parent] for parent in node.parents]
        bent.append(isinstance(node, Activation) or any(bent[parent] for parent in node.parents))
        if isinstance(node, Affine):
            found.intervals.append(_affine(node, given))
        elif isinstance(node, Activation):
            found.intervals.append(Interval(*node.curve.interval(given[0].low, given[0].high)))
        else:
            found.intervals.append(Interval(*ball.interval()))
        if not isinstance(node, Affine) or not _before_activation(network, index):
            continue
        # an interval is exact for one affine map of the image in Linf, and no other norm's ball is a box
        wanted = straight if bent[index] else ball.norm != "linf" or node.parents != (0,)
        if wanted and node.size <= largest:
            found.intervals[index] = _tightened(found, index, straight=straight)
    return found


def margins(
    found: Propagation, labels: Tensor, *, straight: bool, choices: dict[int, Tensor] | None = None
) -> Tensor:
    """Lower bounds of the label's logit minus every other one, shape (batch, class − 1).

    Args:
        found: What is known of the balls.
        labels: Shape (batch,).
        straight: As for :meth:`Propagation.lower_bound`.
        choices: Likewise.
    """
    network = found.network
    start = Coefficients.of_rows(duels(labels, network.classes))
    return found.lower_bound(len(network.nodes) - 1, start, straight=straight, choices=choices)


def duels(labels: Tensor, classes: int) -> Tensor:
    """The coefficients of the label's logit minus every other one, shape (batch, class − 1, class)."""
    rivals = torch.arange(classes - 1, device=labels.device)[None].expand(len(labels), -1)
    rivals = rivals + (rivals >= labels[:, None])
    eye = torch.eye(classes, dtype=torch.float64, device=labels.device)
    return eye[labels][:, None] - eye[rivals]


def _affine(node: Affine, given: list[Interval]) -> Interval:
    """The interval of an affine map."""
    middles = [(one.low + one.high) / 2 for one in given]
    radii = [(one.high - one.low) / 2 for one in given]
    middle, radius = node.forward(*middles), node.absolute(*radii)
    # the middles and radii are rounded, too
    terms = gamma(node.terms + SPARE, middle.dtype)
    slack = node.reach(*[one.largest for one in given]) * 2 * terms
    return Interval(middle - radius - slack, middle + radius + slack)


def _before_activation(network: Network, index: int) -> bool:
    return any(index in node.parents for node in network.nodes if isinstance(node, Activation))


def _tightened(found: Propagation, index: int, *, straight: bool) -> Interval:
    """The interval of a node, as far as linear bounds are better."""
    network, known = found.network, found.intervals[index]
    shape = network.nodes[index].shape
    rows = _wanted_rows(network, index, known)
    step = max(1, AT_ONCE // (numbers_a_row(network, index) * len(known.low)))
    low, high = known.low.clone(), known.high.clone()
    for some in rows.split(step) if len(rows) else ():
        start = single_values(shape, some, known.low)
        opposite = Coefficients(-start.tensor, start.shape, start.patches)
        below = found.lower_bound(index, start, straight=straight)
        above = -found.lower_bound(index, opposite, straight=straight)
        for mine, new in ((low, below), (high, above)):
            if len(shape) == 3:
                mine[:, some] = (
                    new.view(len(mine), -1, len(some)).transpose(1, 2).reshape(-1, len(some), *shape[1:])
                )
            else:
                mine.view(len(mine), -1)[:, some] = new
    # what overflows is no number, and no bound
    return Interval(known.low.fmax(low), known.high.fmin(high))


def _wanted_rows(network: Network, index: int, known: Interval) -> Tensor:
    """The rows of a node whose intervals are to be tightened: not those that a function leaves straight."""
    behind = [node for node in network.nodes if isinstance(node, Activation) and index in node.parents]
    bent = torch.stack([node.curve.bends(known.low, known.high) for node in behind]).any(0).any(0)
    bent = bent.flatten(1).any(1) if bent.ndim == 3 else bent.flatten()
    return bent.nonzero()[:, 0]
