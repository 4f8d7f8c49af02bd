"""Functions of one number that networks are made of, and straight lines below and above them.

All are non-decreasing, so that an interval is mapped by its ends. What rounding can do to a value or a line
is covered by moving it away from the function by a few units in the last place of the numbers that took part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Of the numbers that took part: more than a line or a value can be off by in float64."""

NARROW = 1e-9
"""Intervals narrower than this, as a part of their ends, get constants in place of lines."""

HALVES = 0.5


class Lines(NamedTuple):
    """Straight lines below and above a function in an interval.

    Attributes:
        lower: Slope of the one below.
        lower_shift: Its value at 0.
        upper: Slope of the one above.
        upper_shift: Its value at 0.
    """

    lower: Tensor
    lower_shift: Tensor
    upper: Tensor
    upper_shift: Tensor


class Curve(ABC):
    """A non-decreasing function of one number.

    Attributes:
        steepest: Its largest slope; infinite if it jumps.
    """

    steepest: float

    @abstractmethod
    def value(self, numbers: Tensor) -> Tensor:
        """The function."""

    @abstractmethod
    def _lines(self, low: Tensor, high: Tensor, choice: Tensor | None) -> Lines:
        """Lines that hold in real arithmetic."""

    def default_choice(self, low: Tensor, high: Tensor) -> Tensor:
        """Which line below is taken if none is asked for, in [0, 1]."""
        return torch.full_like(low, HALVES)

    def bends(self, low: Tensor, high: Tensor) -> Tensor:
        """Where the function may be no straight line in an interval."""
        return high > low

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The values at the ends of an interval, rounded outwards."""
        below, above = self.value(low), self.value(high)
        return below - ROUNDING * (1 + below.abs()), above + ROUNDING * (1 + above.abs())

    def lines(self, low: Tensor, high: Tensor, choice: Tensor | None = None) -> Lines:
        """Lines below and above the function in an interval, moved away by what rounding can do.

        Args:
            low: Lower ends.
            high: Upper ends.
            choice: In [0, 1]: which of the lines below to take, where there is a choice.
        """
        lower, lower_shift, upper, upper_shift = self._lines(low, high, choice)
        largest = 1 + low.abs().maximum(high.abs())
        narrow = high - low <= NARROW * largest
        below, above = self.interval(low, high)
        slack = ROUNDING * largest * (1 + lower.abs().maximum(upper.abs()))
        return Lines(
            torch.where(narrow, 0, lower),
            torch.where(narrow, below, lower_shift - slack),
            torch.where(narrow, 0, upper),
            torch.where(narrow, above, upper_shift + slack),
        )

    def _chord(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The line through the values at both ends."""
        below = self.value(low)
        slope = (self.value(high) - below) / (high - low)
        return slope, below - slope * low


def _pick(
    condition: Tensor, chosen: tuple[Tensor, Tensor], otherwise: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """One of two lines, number by number."""
    return torch.where(condition, chosen[0], otherwise[0]), torch.where(condition, chosen[1], otherwise[1])


@dataclass(frozen=True)
class Kinked(Curve):
    """x above 0 and a multiple of it below: ReLU, leaky ReLU.

    Attributes:
        slope: Below 0; from 0 to 1.
    """

    slope: float = 0.0
    steepest = 1.0

    def value(self, numbers: Tensor) -> Tensor:
        """The function."""
        return torch.where(numbers > 0, numbers, self.slope * numbers)

    def default_choice(self, low: Tensor, high: Tensor) -> Tensor:
        """The one with the smaller area between line and function."""
        return (high > -low).to(low)

    def bends(self, low: Tensor, high: Tensor) -> Tensor:
        """Across 0; anywhere else it is a line."""
        return (low < 0) & (high > 0)

    def _lines(self, low: Tensor, high: Tensor, choice: Tensor | None) -> Lines:
        """Below, any slope between both through 0; above, the chord."""
        share = self.default_choice(low, high) if choice is None else choice
        share = torch.where(low >= 0, 1, torch.where(high <= 0, 0, share))
        lower = self.slope + (1 - self.slope) * share
        return Lines(lower, torch.zeros_like(lower), *self._chord(low, high))


@dataclass(frozen=True)
class Clip(Curve):
    """x moved into [low, high], one of which may be infinite."""

    low: float
    high: float
    steepest = 1.0

    def value(self, numbers: Tensor) -> Tensor:
        """The function."""
        return numbers.clamp(self.low, self.high)

    def default_choice(self, low: Tensor, high: Tensor) -> Tensor:
        """The one with the smaller area between line and function."""
        return (high - self.low > self.low - low).to(low)

    def _lines(self, low: Tensor, high: Tensor, choice: Tensor | None) -> Lines:
        """Chords where the function bends the right way in the interval, and lines through a corner else."""
        chord = self._chord(low, high)
        bottom, top = low.new_tensor(self.low), low.new_tensor(self.high)
        steep = torch.where(high > top, (top - bottom) / (high - bottom), 1.0)
        lower = steep * (self.default_choice(low, high) if choice is None else choice)
        lower = torch.where(high <= bottom, 0, lower)
        below = _pick(low >= bottom, chord, (lower, bottom - lower * bottom.nan_to_num(0, 0, 0)))
        steep = torch.where(low < bottom, (top - bottom) / (top - low), 1.0)
        upper = steep * (high - top < top - low).to(low)
        upper = torch.where(low >= top, 0, upper)
        above = _pick(high <= top, chord, (upper, top - upper * top.nan_to_num(0, 0, 0)))
        return Lines(*below, *above)


@dataclass(frozen=True)
class Convex(Curve):
    """A convex function: ELU, softplus.

    Attributes:
        function: The function.
        derivative: Its slope.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    steepest = 1.0

    def value(self, numbers: Tensor) -> Tensor:
        """The function."""
        return self.function(numbers)

    def _lines(self, low: Tensor, high: Tensor, choice: Tensor | None) -> Lines:
        """Below, the tangent at a point, by default the middle; above, the chord."""
        point = low + (high - low) * (HALVES if choice is None else choice)
        slope = self.derivative(point)
        return Lines(slope, self.function(point) - slope * point, *self._chord(low, high))


@dataclass(frozen=True)
class Sigmoidal(Curve):
    """A function that is convex below 0 and concave above it: the logistic function, tanh.

    Attributes:
        function: The function.
        derivative: Its slope, largest at 0.
        steepest: The slope at 0.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    steepest: float

    def value(self, numbers: Tensor) -> Tensor:
        """The function."""
        return self.function(numbers)

    def _lines(self, low: Tensor, high: Tensor, choice: Tensor | None) -> Lines:
        """Chord and tangent on one side of 0; across it, the smaller slope of both ends through each of them.

        Between the ends the slope is nowhere smaller than at one of them.
        """
        chord = self._chord(low, high)
        point = low + (high - low) * (HALVES if choice is None else choice)
        slope = self.derivative(point)
        tangent = slope, self.function(point) - slope * point
        least = self.derivative(low).minimum(self.derivative(high))
        from_low = least, self.function(low) - least * low
        from_high = least, self.function(high) - least * high
        below = _pick(high <= 0, tangent, _pick(low >= 0, chord, from_low))
        above = _pick(low >= 0, tangent, _pick(high <= 0, chord, from_high))
        return Lines(*below, *above)


@dataclass(frozen=True)
class Step(Curve):
    """1 above a threshold, and 0 elsewhere."""

    threshold: float
    steepest = float("inf")

    def value(self, numbers: Tensor) -> Tensor:
        """The function."""
        return (numbers > self.threshold).to(numbers)

    def _lines(self, low: Tensor, high: Tensor, choice: Tensor | None) -> Lines:
        """Constants."""
        flat = torch.zeros_like(low)
        return Lines(flat, self.value(low), flat, self.value(high))


def elu(alpha: float) -> Convex:
    """ELU, which is convex for a factor of at most 1."""
    return Convex(
        lambda x: torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0))),
        lambda x: torch.where(x > 0, 1.0, alpha * torch.exp(x.clamp(max=0))),
    )


def softplus(beta: float) -> Convex:
    """log(1 + exp(beta x)) / beta."""
    return Convex(
        lambda x: torch.logaddexp(x * beta, torch.zeros_like(x)) / beta, lambda x: torch.sigmoid(x * beta)
    )


SIGMOID = Sigmoidal(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x), 0.25)
TANH = Sigmoidal(torch.tanh, lambda x: 1 / torch.cosh(x.clamp(-300, 300)) ** 2, 1.0)
