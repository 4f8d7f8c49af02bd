"""What a network is made of: affine maps and functions of single numbers, one after the other.

Every map says what intervals and linear bounds need of it: its linear part, the same with absolute weights,
its transpose, and how many products a sum has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

from absynth.certify.bounds.curves import Curve


@dataclass(frozen=True, eq=False)
class Node:
    """A value that is computed on the way.

    Attributes:
        place: Where in the model, for messages.
        parents: Numbers of the nodes that it is computed from.
        shape: Without the batch.
    """

    place: str
    parents: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return torch.Size(self.shape).numel()


class Input(Node):
    """The image."""


@dataclass(frozen=True, eq=False)
class Activation(Node):
    """A function of every number by itself."""

    curve: Curve


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """A linear map of one or several nodes, and a constant.

    Attributes:
        bias: The constant, whose shape can be expanded to the node's; None for 0.
        size_of_bias: The sum of the absolute values that the constant was computed from; None for its own.
        terms: The most products that a number, or a number of the transpose, is a sum of.
    """

    bias: Tensor | None = None
    size_of_bias: Tensor | None = None
    terms: int = field(default=1, kw_only=True)

    def linear(self, *values: Tensor) -> Tensor:
        """The map without its constant."""
        raise NotImplementedError

    def absolute(self, *values: Tensor) -> Tensor:
        """The map with the absolute values of its weights; here the weights are not negative."""
        return self.linear(*values)

    def transpose(self, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """The coefficients of the parents from those of the node.

        Args:
            coefficients: Shape (any number, *shape).
            shapes: Of the parents.
        """
        with torch.enable_grad():
            zeros = [
                torch.zeros(
                    len(coefficients), *shape, dtype=coefficients.dtype, device=coefficients.device
                ).requires_grad_()
                for shape in shapes
            ]
            # what is linear has the same derivative everywhere
            return torch.autograd.grad(
                self.linear(*zeros), zeros, coefficients, create_graph=coefficients.requires_grad
            )

    def reach(self, *largest: Tensor) -> Tensor:
        """The largest that the sum of the absolute values of all terms can be.

        Args:
            largest: The largest absolute values of the parents.
        """
        reach = self.absolute(*largest)
        size = self.size_of_bias
        if size is None and self.bias is not None:
            size = self.bias.abs()
        return reach if size is None else reach + size

    def forward(self, *values: Tensor) -> Tensor:
        """The values of the node."""
        result = self.linear(*values)
        return result if self.bias is None else result + self.bias


@dataclass(frozen=True, eq=False)
class Dense(Affine):
    """A matrix in the last axis."""

    weight: Tensor = field(kw_only=True)

    def linear(self, *values: Tensor) -> Tensor:
        """The product."""
        return functional.linear(values[0], self.weight)

    def absolute(self, *values: Tensor) -> Tensor:
        """The product with the absolute matrix."""
        return functional.linear(values[0], self.weight.abs())

    def transpose(self, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """The product with the matrix from the other side."""
        return (coefficients @ self.weight,)


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A convolution in two dimensions, padded with zeros."""

    weight: Tensor = field(kw_only=True)
    stride: tuple[int, int] = field(kw_only=True)
    padding: tuple[int, int] = field(kw_only=True)
    dilation: tuple[int, int] = field(kw_only=True)
    groups: int = field(kw_only=True)

    def linear(self, *values: Tensor) -> Tensor:
        """The convolution."""
        return self._convolve(values[0], self.weight)

    def absolute(self, *values: Tensor) -> Tensor:
        """The convolution with the absolute kernel."""
        return self._convolve(values[0], self.weight.abs())

    def _convolve(self, value: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(value, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """The transposed convolution."""
        size = (len(coefficients), *shapes[0])
        return (
            conv2d_input(
                size, self.weight, coefficients, self.stride, self.padding, self.dilation, self.groups
            ),
        )


@dataclass(frozen=True, eq=False)
class Scaled(Affine):
    """A factor on every number."""

    factor: Tensor = field(kw_only=True)

    def linear(self, *values: Tensor) -> Tensor:
        """The products."""
        return values[0] * self.factor

    def absolute(self, *values: Tensor) -> Tensor:
        """The products with the absolute factors."""
        return values[0] * self.factor.abs()

    def transpose(self, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """The same products."""
        return (coefficients * self.factor,)


@dataclass(frozen=True, eq=False)
class Arranged(Affine):
    """Numbers moved, left out, repeated or averaged: a linear map without negative weights."""

    function: Callable[..., Tensor] = field(kw_only=True)

    def linear(self, *values: Tensor) -> Tensor:
        """What the function makes of them."""
        return self.function(*values)


@dataclass(frozen=True, eq=False)
class Reshaped(Affine):
    """The same numbers in another shape."""

    def linear(self, *values: Tensor) -> Tensor:
        """The new shape."""
        return values[0].reshape(-1, *self.shape)

    def transpose(self, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """The old shape."""
        return (coefficients.reshape(-1, *shapes[0]),)


@dataclass(frozen=True, eq=False)
class Combined(Affine):
    """The sum of two nodes of the same shape, or their difference.

    Attributes:
        sign: 1 or −1.
    """

    sign: int = field(kw_only=True)

    def linear(self, *values: Tensor) -> Tensor:
        """The sum, or the difference."""
        return values[0] + self.sign * values[1]

    def absolute(self, *values: Tensor) -> Tensor:
        """The sum."""
        return values[0] + values[1]

    def transpose(self, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """Both signs."""
        return coefficients, self.sign * coefficients


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in the order in which they are computed: the image first, the logits last.

    Attributes:
        nodes: All of them.
        ending: From the logits to what the model answers, which has the same order.
    """

    nodes: tuple[Node, ...]
    ending: Callable[[Tensor], Tensor] | None = None

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.nodes[-1].shape[0]

    def shapes(self, node: Node) -> list[tuple[int, ...]]:
        """The shapes of a node's parents."""
        return [self.nodes[parent].shape for parent in node.parents]

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        values: list[Tensor] = []
        for node in self.nodes:
            given = [values[parent] for parent in node.parents]
            if isinstance(node, Affine):
                values.append(node.forward(*given))
            elif isinstance(node, Activation):
                values.append(node.curve.value(given[0]))
            else:
                values.append(images)
        return values[-1]
