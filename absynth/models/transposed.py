"""Transposed convolutions that are fast on a CPU, for decoders that only synthesise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MANY = 24
"""Images from which on one pass an entry of the kernel over all of them is the faster way to add them up."""


class FastConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution without padding that is a matrix product where that is faster.

    An input of one pixel is a vector: one matrix product. A single output channel at stride 1 is, where
    autograd does not record, a matrix product too, whose columns are added up where they overlap. Anything
    else is a transposed convolution without a bias, which is added afterwards: given one, torch takes a way
    that is twice as slow.
    """

    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The same as that of ``nn.ConvTranspose2d``, up to rounding."""
        recorded = torch.is_grad_enabled() and (inputs.requires_grad or self.weight.requires_grad)
        if recorded and self._adds_columns and inputs.shape[2:] != (1, 1):
            return super().forward(inputs, output_size)
        assert self.bias is not None
        # in place: memory that is new to the process costs a large output more than the sum
        return self.linear(inputs).add_(self.bias[:, None, None])

    def linear(self, inputs: Tensor) -> Tensor:
        """The layer without its bias, for images and tangents that autograd does not watch."""
        batch, _, height, width = inputs.shape
        _, outputs, *kernel = self.weight.shape
        if height == width == 1:
            return (inputs.flatten(1) @ self._matrix()).view(batch, *kernel, outputs).permute(0, 3, 1, 2)
        if self._adds_columns:
            size = [side + taps - 1 for side, taps in zip((height, width), kernel, strict=True)]
            return self._add_columns(inputs, size)
        return functional.conv_transpose2d(inputs, self.weight, stride=self.stride)

    @property
    def _adds_columns(self) -> bool:
        return self.weight.shape[1] == self.stride[0] == 1

    def _add_columns(self, inputs: Tensor, size: list[int]) -> Tensor:
        """What each input pixel gives to a window of the image, and the sum of these windows."""
        batch, _, height, width = inputs.shape
        *_, rows, across = self.weight.shape
        matrix = self.weight[:, 0].flatten(1).T
        pixels = inputs.permute(0, 2, 3, 1).flatten(1, 2)
        if batch < MANY:
            return functional.fold(matrix @ pixels.mT, tuple(size), (rows, across))
        columns = (matrix @ pixels.flatten(0, 1).T).view(rows, across, batch, height, width)
        image = inputs.new_zeros(batch, *size)
        for row in range(rows):
            for column in range(across):
                image[:, row : row + height, column : column + width] += columns[row, column]
        return image[:, None]

    def transpose(self, gradients: Tensor) -> Tensor:
        """The transpose of :meth:`linear`: derivatives by the input, from those by the output."""
        if gradients.shape[2:] == self.weight.shape[2:]:
            return (gradients.permute(0, 2, 3, 1).flatten(1) @ self._matrix().T)[:, :, None, None]
        return functional.conv2d(gradients, self.weight, stride=self.stride)

    def _matrix(self) -> Tensor:
        """What an input of one pixel is multiplied by, the channels of the output last."""
        return self.weight.permute(0, 2, 3, 1).flatten(1)
