"""Data augmentation: small changes of the images, anew each time they are seen.

A perturbation takes a batch of images and a generator, and changes each image in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from absynth.shapes import Images

Perturbation = Callable[[Images, torch.Generator], Images]

BENDING = 5
"""Points a side of the grid that :func:`bend` moves."""

BENT_AT_ONCE = 2000
"""Images changed and encoded together."""


def augment(images: Images, generator: torch.Generator) -> Images:
    """Moves each image by its own small affine map: ±5° of rotation, ±5 % of size, ±1 pixel of shift.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the maps.
    """

    def uniform(limit: float) -> Float[Tensor, "batch"]:
        return (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * limit

    angle, scale = uniform(math.radians(5)), 1 + uniform(0.05)
    shift_x, shift_y = uniform(2 / images.shape[-1]), uniform(2 / images.shape[-2])
    rows = [
        torch.stack([angle.cos() * scale, -angle.sin() * scale, shift_x], dim=1),
        torch.stack([angle.sin() * scale, angle.cos() * scale, shift_y], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return _resample(images, grid)


def distort(images: Images, generator: torch.Generator) -> Images:
    """Writes the first half of a batch anew as :func:`bend` does, so that the real images keep their weight.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the maps.
    """
    half = len(images) // 2
    return torch.cat([bend(images[:half], generator), images[half:]]) if half else images


def bend(images: Images, generator: torch.Generator) -> Images:
    """Turns, slants, scales and bends each image by its own map.

    At most 5° of rotation, 6 % of slant, 5 % of each side's length and a shift of 0.2 pixels, then random
    displacements (half a pixel of standard deviation) on a coarse grid, smoothly interpolated, as in Simard
    et al. 2003.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the maps.
    """

    def uniform(limit: float) -> Float[Tensor, "batch"]:
        return (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * limit

    angle, slant, width, height = (
        uniform(math.radians(5)),
        uniform(0.06),
        1 + uniform(0.05),
        1 + uniform(0.05),
    )
    shift_x, shift_y = uniform(0.4 / images.shape[-1]), uniform(0.4 / images.shape[-2])
    rows = [
        torch.stack([angle.cos() * width, slant - angle.sin(), shift_x], dim=1),
        torch.stack([angle.sin(), angle.cos() * height, shift_y], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    coarse = 0.04 * torch.randn(
        len(images), 2, BENDING, BENDING, generator=generator, device=images.device, dtype=images.dtype
    )
    size = (images.shape[-2], images.shape[-1])
    bent = functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return _resample(images, grid + bent.permute(0, 2, 3, 1))


def _resample(images: Images, grid: Float[Tensor, "batch height width 2"]) -> Images:
    """The images at the points of a grid; beyond an edge, what lies at the edge, be it dark or light."""
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)
