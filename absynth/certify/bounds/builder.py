"""The nodes of a network while a model is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from absynth.certify.bounds.curves import Curve, Kinked
from absynth.certify.bounds.nodes import (
    Activation,
    Arranged,
    Combined,
    Convolution,
    Dense,
    Node,
    Reshaped,
    Scaled,
)

BATCH = 2
"""Images that shapes are found out with."""


class UnboundedError(Exception):
    """Says in words what cannot be bounded in an operation that is otherwise known."""


@dataclass(frozen=True)
class Variable:
    """What depends on the images: a node.

    Attributes:
        index: Of the node.
        shape: Without the batch.
    """

    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ending:
    """Softmax or its logarithm, which leave the order of the logits as it is.

    Attributes:
        logits: What they are of.
        function: From logits to the model's answer.
    """

    logits: Variable
    function: Callable[[Tensor], Tensor]


class Largest(NamedTuple):
    """What ``max`` along an axis returns."""

    values: Variable
    indices: None = None


@dataclass
class Builder:
    """The nodes so far.

    Attributes:
        nodes: All of them.
        place: Where in the model the next one is.
    """

    nodes: list[Node] = field(default_factory=list)
    place: str = ""

    def add(self, node: Node) -> Variable:
        """One more node."""
        self.nodes.append(node)
        return Variable(len(self.nodes) - 1, node.shape)

    def bend(self, x: Variable, curve: Curve) -> Variable:
        """A function of single numbers."""
        return self.add(Activation(self.place, (x.index,), x.shape, curve))

    def arrange(
        self, function: Callable[..., Tensor], *given: Variable, bias: Tensor | None = None
    ) -> Variable:
        """A linear map without negative weights.

        Raises:
            UnboundedError: If it mixes images.
        """
        shape = self._shape(function, *given)
        terms = max(math.prod(shape), *(math.prod(one.shape) for one in given))
        parents = tuple(one.index for one in given)
        return self.add(Arranged(self.place, parents, shape, bias, function=function, terms=terms))

    def reshape(self, function: Callable[[Tensor], Tensor], x: Variable) -> Variable:
        """The same numbers in the same order.

        Raises:
            UnboundedError: If it mixes images.
        """
        shape = self._shape(function, x)
        return x if shape == x.shape else self.add(Reshaped(self.place, (x.index,), shape))

    def _shape(self, function: Callable[..., Tensor], *given: Variable) -> tuple[int, ...]:
        """The shape of what a function makes of some variables."""
        found = function(
            *(torch.zeros(BATCH, *one.shape, dtype=torch.float64, device="cpu") for one in given)
        )
        if found.ndim == 0 or len(found) != BATCH:
            raise UnboundedError("it does not treat every image by itself")
        return tuple(found.shape[1:])

    def scale(self, x: Variable, factor: Tensor, bias: Tensor | None, size: Tensor | None = None) -> Variable:
        """A factor and a constant for every number; merged into the layer before, if it is one with weights.

        Args:
            x: What is scaled.
            factor: Can be expanded to its shape.
            bias: Likewise.
            size: Absolute values of what the constant was computed from.
        """
        before = self.nodes[x.index]
        channels = factor.numel() in (1, x.shape[0]) and factor.ndim in (0, len(x.shape))
        if isinstance(before, Dense | Convolution) and channels and len(x.shape) in (1, 3):
            rows = factor.reshape(-1, *[1] * (before.weight.ndim - 1))
            weight = before.weight * rows
            none = torch.zeros_like(factor)
            old, new = (none if one is None else one for one in (before.bias, bias))
            old_size = old.abs() if before.size_of_bias is None else before.size_of_bias
            new_size = new.abs() if size is None else size
            return self.add(
                replace(
                    before,
                    place=self.place,
                    weight=weight,
                    bias=old * factor + new,
                    size_of_bias=old_size * factor.abs() + new_size,
                )
            )
        return self.add(Scaled(self.place, (x.index,), x.shape, bias, size_of_bias=size, factor=factor))

    def combine(self, x: Variable, y: Variable, sign: int) -> Variable:
        """The sum or the difference of two nodes."""
        shape = tuple(torch.broadcast_shapes(x.shape, y.shape))
        first, second = self.expand(x, shape), self.expand(y, shape)
        return self.add(Combined(self.place, (first.index, second.index), shape, sign=sign))

    def expand(self, x: Variable, shape: tuple[int, ...]) -> Variable:
        """A node repeated to a shape."""
        if x.shape == shape:
            return x
        return self.arrange(lambda values: values.expand(len(values), *shape), x)

    def maximum(self, x: Variable, y: Variable) -> Variable:
        """max(x, y) = x + relu(y − x), which linear bounds can follow."""
        return self.combine(x, self.bend(self.combine(y, x, -1), Kinked()), 1)

    def largest(self, given: list[Variable]) -> Variable:
        """The largest of several nodes, in rounds of pairs."""
        while len(given) > 1:
            pairs = [self.maximum(*pair) for pair in zip(given[::2], given[1::2], strict=False)]
            given = pairs + given[len(pairs) * 2 :]
        return given[0]
