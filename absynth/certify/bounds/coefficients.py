"""The coefficients of linear functions of a node's values, many functions at a time.

What a convolution computes in one place depends on a small patch of what it reads. So the coefficients of a
map are those of patches, one a place, and stay so on the way back through convolutions and functions of
single numbers, until a patch is as large as the map. Functions of a whole map have a single place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from absynth.certify.bounds.nodes import Activation, Affine, Convolution, Network, Scaled


@dataclass(frozen=True)
class Patches:
    """Where the patches of the places lie in a map.

    Attributes:
        places: Rows and columns of places.
        size: Rows and columns of a patch.
        stride: From one patch to the next, in both directions.
        padding: How far the first one begins above and left of the map.
    """

    places: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def cut(self, values: Tensor) -> Tensor:
        """The patches of maps (batch, channel, height, width), 0 where they reach beyond.

        Returns:
            Shape (batch, place, 1, height, width, channel), height and width of a patch.
        """
        pads: list[int] = []
        for axis in (1, 0):
            before = self.padding[axis]
            pads += [before, self._extent(axis) - before - values.shape[2 + axis]]
        cut = functional.pad(values, pads)
        cut = cut.unfold(2, self.size[0], self.stride[0]).unfold(3, self.size[1], self.stride[1])
        return cut.permute(0, 2, 3, 4, 5, 1).flatten(1, 2)[:, :, None].contiguous()

    def lay_out(self, patches: Tensor, height: int, width: int) -> Tensor:
        """The whole maps of patches, 0 elsewhere.

        Args:
            patches: Shape (batch, place, row, height, width, channel); place may be 1 if all are alike.
            height: Rows of a map.
            width: Columns of a map.

        Returns:
            Shape (batch, 1, place · row, height, width, channel).
        """
        batch, _, rows = patches.shape[:3]
        full = [max(self.padding[axis] + (height, width)[axis], self._extent(axis)) for axis in range(2)]
        laid = patches.new_zeros(batch, *self.places, rows, *full, patches.shape[-1])
        boxes = patches.expand(-1, math.prod(self.places), -1, -1, -1, -1).unflatten(1, self.places)
        for row in range(self.places[0]):
            for column in range(self.places[1]):
                top, left = row * self.stride[0], column * self.stride[1]
                place = laid[:, row, column, :, top : top + self.size[0], left : left + self.size[1]]
                place.copy_(boxes[:, row, column])
        top, left = self.padding
        return laid[..., top : top + height, left : left + width, :].flatten(1, 3)[:, None]

    def behind(self, node: Convolution) -> Patches:
        """The patches of what a convolution reads for these."""
        kernel = node.weight.shape[2:]
        axes = range(2)
        return Patches(
            self.places,
            _both((self.size[axis] - 1) * node.stride[axis] + kernel[axis] for axis in axes),
            _both(self.stride[axis] * node.stride[axis] for axis in axes),
            _both(self.padding[axis] * node.stride[axis] + node.padding[axis] for axis in axes),
        )

    def covers(self, shape: tuple[int, ...]) -> bool:
        """Whether a patch is no smaller than a map (channel, height, width)."""
        return math.prod(self.size) >= shape[1] * shape[2]

    def _extent(self, axis: int) -> int:
        return (self.places[axis] - 1) * self.stride[axis] + self.size[axis]


def _both(values: Iterable[int]) -> tuple[int, int]:
    """Two numbers as a tuple of two."""
    first, second = values
    return first, second


def is_plain(node: Affine) -> bool:
    """Whether a map is a convolution that patches can go through."""
    return isinstance(node, Convolution) and node.groups == 1 and node.dilation == (1, 1)


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of a node's values.

    Attributes:
        tensor: Shape (batch, place, row, height, width, channel) of patches for a map, and else (batch, 1,
            row, *shape). Batch and place may be 1 for what they share.
        shape: Of the node.
        patches: Where the patches lie; None if the node is no map.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    patches: Patches | None = None

    @classmethod
    def of_rows(cls, rows: Tensor) -> Coefficients:
        """From coefficients of shape (batch, row, *shape)."""
        shape = tuple(rows.shape[2:])
        if len(shape) == 3:
            return cls(rows.permute(0, 1, 3, 4, 2)[:, None], shape, Patches((1, 1), _both(shape[1:])))
        return cls(rows[:, None], shape)

    def rows(self) -> Tensor:
        """The coefficients of whole nodes, shape (batch, place · row, *shape)."""
        whole = self.whole().tensor[:, 0]
        return whole.permute(0, 1, 4, 2, 3) if self.patches is not None else whole

    def whole(self) -> Coefficients:
        """The same with one place, whose patch is the map."""
        if self.patches is None:
            return self
        whole = Patches((1, 1), _both(self.shape[1:]))
        if self.patches == whole:
            return self
        return Coefficients(self.patches.lay_out(self.tensor, *self.shape[1:]), self.shape, whole)

    def local(self, values: Tensor) -> Tensor:
        """Values of the node in the form of the coefficients.

        Args:
            values: Shape (batch, *shape), or of functions of whole nodes (batch, row, *shape).
        """
        if values.ndim == len(self.shape) + 2:
            return Coefficients.of_rows(values).tensor
        return values[:, None, None] if self.patches is None else self.patches.cut(values)

    def plus(self, other: Coefficients) -> Coefficients:
        """The sum of two functions of the same node."""
        if self.patches == other.patches:
            return replace(self, tensor=self.tensor + other.tensor)
        first, second = self.whole(), other.whole()
        return replace(first, tensor=first.tensor + second.tensor)

    def back(self, network: Network, node: Affine) -> list[Coefficients]:
        """The coefficients of a node's parents."""
        shapes = network.shapes(node)
        if self.patches is not None and is_plain(node):
            assert isinstance(node, Convolution)
            grown = Coefficients(_spread(self.tensor, node), shapes[0], self.patches.behind(node))
            assert grown.patches is not None
            return [grown.whole() if grown.patches.covers(shapes[0]) else grown]
        if self.patches is not None and isinstance(node, Scaled):
            factor = self.patches.cut(node.factor.expand(self.shape)[None])
            return [replace(self, tensor=self.tensor * factor)]
        rows = self.rows()
        parts = node.transpose(rows.flatten(0, 1), shapes)
        return [Coefficients.of_rows(part.unflatten(0, rows.shape[:2])) for part in parts]


def _spread(tensor: Tensor, node: Convolution) -> Tensor:
    """The transposed convolution of patches, without cutting off what is padding.

    One product of matrices, whose results are added up where they overlap.
    """
    outputs, inputs, height, width = node.weight.shape
    matrix = node.weight.permute(0, 2, 3, 1).reshape(outputs, -1)
    blocks = (tensor.reshape(-1, outputs) @ matrix).view(*tensor.shape[:-1], height, width, inputs)
    rows, columns = tensor.shape[3:5]
    if rows == columns == 1:
        return blocks[:, :, :, 0, 0]
    down, right = node.stride
    spread = blocks.new_zeros(
        *tensor.shape[:3], (rows - 1) * down + height, (columns - 1) * right + width, inputs
    )
    if rows * columns <= height * width:
        for row in range(rows):
            for column in range(columns):
                top, left = row * down, column * right
                spread[..., top : top + height, left : left + width, :] += blocks[:, :, :, row, column]
    else:
        for row in range(height):
            for column in range(width):
                bottom, end = row + (rows - 1) * down + 1, column + (columns - 1) * right + 1
                spread[..., row:bottom:down, column:end:right, :] += blocks[..., row, column, :]
    return spread


def numbers_a_row(network: Network, index: int) -> int:
    """How many coefficients a row of :func:`single_values` has at the most on the way back to the image."""
    shape = network.nodes[index].shape
    most = max(node.size for node in network.nodes[: index + 1])
    if len(shape) != 3:
        return most
    places, numbers, node = shape[1] * shape[2], 1, network.nodes[index]
    patches = Patches(_both(shape[1:]), (1, 1))
    while node.parents:
        parent = network.nodes[node.parents[0]]
        if isinstance(node, Convolution) and is_plain(node):
            patches = patches.behind(node)
            if patches.covers(parent.shape):
                return places * most
            numbers = max(numbers, parent.shape[0] * math.prod(patches.size))
        elif not isinstance(node, Scaled | Activation):
            return places * most
        node = parent
    return places * numbers


def single_values(shape: tuple[int, ...], rows: Tensor, like: Tensor) -> Coefficients:
    """Functions that are the values of a node themselves.

    Args:
        shape: Of the node.
        rows: Which of them: channels of a map (channel, height, width), in all places; of any other node the
            numbers of its values.
        like: A tensor of the type and on the device that they shall have.
    """
    count = shape[0] if len(shape) == 3 else math.prod(shape)
    eye = torch.zeros(len(rows), count, dtype=like.dtype, device=like.device)
    eye[torch.arange(len(rows), device=like.device), rows] = 1
    if len(shape) == 3:
        return Coefficients(eye[None, None, :, None, None], shape, Patches(_both(shape[1:]), (1, 1)))
    return Coefficients(eye.view(1, 1, -1, *shape), shape)
