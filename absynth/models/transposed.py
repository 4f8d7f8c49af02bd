"""Transposed convolutions that are fast on a CPU, for decoders that only synthesise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MANY = 24
"""Images from which on one pass an entry of the kernel over all of them is the faster way to add them up."""


class FastConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution without padding, computed by matrix products and plain convolutions.

    An input of one pixel is a vector: one matrix product. Any other is, where autograd records, the ordinary
    transposed convolution, as the backward pass of that is the faster. Where it does not,

    - a single output channel at stride 1 is a matrix product, whose columns are added up where they overlap;
    - anything else is its sub-pixel form (Shi et al. 2016, arXiv 1609.07009): one convolution whose output
      channels are the pixels of a stride × stride block, put in their places afterwards.
    """

    _known_kernels: tuple[Tensor, int, Tensor] | None = None

    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The same as that of ``nn.ConvTranspose2d``, up to rounding."""
        recorded = torch.is_grad_enabled() and (inputs.requires_grad or self.weight.requires_grad)
        if recorded and inputs.shape[2:] != (1, 1):
            return super().forward(inputs, output_size)
        assert self.bias is not None
        return self.linear(inputs) + self.bias[:, None, None]

    def linear(self, inputs: Tensor) -> Tensor:
        """The layer without its bias, for images and tangents that autograd does not watch."""
        batch, _, height, width = inputs.shape
        _, outputs, *kernel = self.weight.shape
        if height == width == 1:
            return (inputs.flatten(1) @ self._matrix()).view(batch, *kernel, outputs).permute(0, 3, 1, 2)
        stride = self.stride[0]
        size = [(side - 1) * stride + taps for side, taps in zip((height, width), kernel, strict=True)]
        if outputs == stride == 1:
            return self._add_columns(inputs, size)
        kernels = self._subpixel_kernels()
        blocks = functional.conv2d(inputs, kernels, padding=(kernels.shape[2] - 1, kernels.shape[3] - 1))
        rows, across = blocks.shape[2:]
        pixels = blocks.permute(0, 2, 3, 1).reshape(batch, rows, across, stride, stride, outputs)
        image = pixels.transpose(2, 3).reshape(batch, rows * stride, across * stride, outputs)
        return image[:, : size[0], : size[1]].permute(0, 3, 1, 2)

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

    def _subpixel_kernels(self) -> Tensor:
        """Kept from call to call, as making them takes longer than the convolution of a single image."""
        weight = self.weight.detach()
        if weight.is_inference():  # such tensors do not count their changes
            return self._make_kernels(weight)
        known = self._known_kernels
        # The weights that the kernels came from are kept too, so that no others can have their address.
        if known is None or known[0].data_ptr() != weight.data_ptr() or known[1] != weight._version:
            known = self._known_kernels = (weight, weight._version, self._make_kernels(weight))
        return known[2]

    def _make_kernels(self, weight: Tensor) -> Tensor:
        height, width = weight.shape[2:]
        stride = self.stride[0]
        padded = functional.pad(weight, (0, -width % stride, 0, -height % stride))
        taps = padded.unflatten(3, (-1, stride)).unflatten(2, (-1, stride)).flip(2, 4)
        kernels: Tensor = taps.permute(3, 5, 1, 0, 2, 4).flatten(0, 2)
        return kernels.contiguous(memory_format=torch.channels_last)
