"""Interval bounds through a chain of layers, and a loss made of them (Gowal et al. 2018, arXiv 1810.12715).

Every value of a layer is known to lie in an interval, of centre μ and radius r. An affine layer W, b takes
them to Wμ + b and |W| r, ReLU takes both ends. What comes out holds for every change of the image within the
Linf ball that went in. Everything here is differentiable and as exact as float32 is: it is for training. A
certificate needs more care with rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.shapes import Images, Labels, Logits


@dataclass(frozen=True)
class Intervals:
    """Closed intervals, one for every value of a batch.

    Attributes:
        centres: The middles.
        radii: Half the lengths, at least 0.
    """

    centres: Float[Tensor, "batch *values"]
    radii: Float[Tensor, "batch *values"]

    @property
    def lowest(self) -> Float[Tensor, "batch *values"]:
        """The lower ends."""
        return self.centres - self.radii

    @property
    def highest(self) -> Float[Tensor, "batch *values"]:
        """The upper ends."""
        return self.centres + self.radii


def between(lowest: Float[Tensor, "batch *values"], highest: Float[Tensor, "batch *values"]) -> Intervals:
    """The intervals of the given ends."""
    return Intervals((lowest + highest) / 2, (highest - lowest) / 2)


def ball(images: Images, epsilon: float) -> Intervals:
    """All images of pixels in [0, 1] within an Linf distance ε.

    Args:
        images: Shape (batch, channel, height, width), within [0, 1].
        epsilon: ε, in units of the pixels.
    """
    return between((images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1))


def propagate(layers: Iterable[nn.Module], intervals: Intervals) -> Intervals:
    """Intervals of what a chain of layers computes from values in the given ones.

    A batch norm in training mode normalises by the mean and the variance of the centres, and keeps them for
    its running statistics (Shi et al. 2021, arXiv 2104.00805, take those of the images as they are, which
    needs another pass).

    Args:
        layers: Convolutions, fully connected layers, batch norms, ReLU and flattening.
        intervals: Of what goes in.

    Raises:
        AbsynthError: If there is a layer of another kind.
    """
    for layer in layers:
        intervals = _through(layer, intervals)
    return intervals


def _through(layer: nn.Module, intervals: Intervals) -> Intervals:
    centres, radii = intervals.centres, intervals.radii
    if isinstance(layer, nn.Linear):
        return Intervals(layer(centres), functional.linear(radii, layer.weight.abs()))
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        convolve = partial(
            functional.conv2d,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )
        return Intervals(layer(centres), convolve(radii, layer.weight.abs()))
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return _normalise(layer, intervals)
    if isinstance(layer, nn.ReLU):
        return between(intervals.lowest.relu(), intervals.highest.relu())
    if isinstance(layer, nn.Flatten):
        return Intervals(layer(centres), layer(radii))
    raise AbsynthError(
        f"Interval bounds do not pass through {type(layer).__name__}; they pass through Conv2d with padding "
        "of zeros, Linear, BatchNorm1d, BatchNorm2d, ReLU and Flatten."
    )


def _normalise(layer: nn.BatchNorm1d | nn.BatchNorm2d, intervals: Intervals) -> Intervals:
    assert layer.running_mean is not None and layer.running_var is not None
    variance = layer.running_var
    if layer.training:
        others = [dimension for dimension in range(intervals.centres.ndim) if dimension != 1]
        variance = intervals.centres.var(others, unbiased=False)
    scale = layer.weight / (variance + layer.eps).sqrt()
    shape = (-1, *[1] * (intervals.centres.ndim - 2))
    return Intervals(layer(intervals.centres), intervals.radii * scale.abs().view(shape))


def worst_logits(last: nn.Linear, intervals: Intervals, labels: Labels) -> Logits:
    """The largest lead that every class can have over the label's, which has 0 over itself.

    The last layer is merged with the difference of two logits: the bound of a difference is tighter than the
    difference of two bounds. A label is certain where all others are below 0.

    Args:
        last: The last layer.
        intervals: Of what goes into it.
        labels: The classes to hold on to.
    """
    classes = len(last.weight)
    weights = (last.weight[None] - last.weight[:, None]).flatten(0, 1)
    leads = functional.linear(intervals.centres, weights) + functional.linear(intervals.radii, weights.abs())
    leads = leads.view(-1, classes, classes) + (last.bias[None] - last.bias[:, None])
    return leads[torch.arange(len(labels), device=labels.device), labels]


@dataclass(frozen=True)
class IntervalLoss:
    """The mean cross-entropy of the worst logits within an Linf ball that grows as training goes on.

    A network that meets the full ε from the first step on settles for the same answer to every image; so ε
    rises linearly from 0 over the first part of the training.

    Attributes:
        epsilon: ε once it has grown, in units of the pixels.
        warm_up: Share of the training after which ε has its full size.
    """

    epsilon: float = 0.35
    warm_up: float = 0.4

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if not (0 < self.epsilon < 0.5 and 0 <= self.warm_up <= 1):
            raise AbsynthError(
                "Training by interval bounds needs a radius above 0 and below 0.5, at which every image can "
                f"turn grey, and a warm-up between 0 and 1; they are {self.epsilon:g} and {self.warm_up:g}."
            )

    def radius(self, share: float) -> float:
        """ε when this share of the training is done.

        >>> [IntervalLoss(epsilon=0.4, warm_up=0.5).radius(share) for share in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.2, 0.4, 0.4]
        """
        return self.epsilon if share >= self.warm_up else self.epsilon * share / self.warm_up

    def __call__(
        self, model: nn.Module, images: Images, labels: Labels, _: torch.Generator, share: float = 1.0
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            model: A sequence of layers, see :func:`propagate`, that ends with a fully connected one.
            images: Shape (batch, channel, height, width), within [0, 1].
            labels: Their classes.
            share: How much of the training is done, 0 to 1.
        """
        return functional.cross_entropy(bound_logits(model, images, labels, self.radius(share)), labels)


def bound_logits(model: nn.Module, images: Images, labels: Labels, epsilon: float) -> Logits:
    """The worst logits (:func:`worst_logits`) of images within an Linf distance ε.

    Args:
        model: A sequence of layers, see :func:`propagate`, that ends with a fully connected one.
        images: Shape (batch, channel, height, width), within [0, 1].
        labels: The classes to hold on to.
        epsilon: ε, in units of the pixels.
    """
    assert isinstance(model, nn.Sequential)
    *layers, last = model
    assert isinstance(last, nn.Linear)
    return worst_logits(last, propagate(layers, ball(images, epsilon)), labels)


@torch.no_grad()
def certain(
    model: nn.Module, images: Images, labels: Labels, epsilon: float, *, batch_size: int = 250
) -> Bool[Tensor, "batch"]:
    """Which images keep their label by interval bounds, up to the rounding of float32.

    Args:
        model: A sequence of layers in evaluation mode, see :func:`propagate`.
        images: Shape (batch, channel, height, width), within [0, 1].
        labels: Their classes.
        epsilon: Linf distance within which they are to keep it.
        batch_size: Images looked at together.
    """
    kept = [torch.zeros(0, dtype=torch.bool, device=images.device)]
    for some, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        leads = bound_logits(model, some, truth, epsilon)
        leads[torch.arange(len(truth), device=truth.device), truth] = -math.inf
        kept.append((leads < 0).all(1))
    return torch.cat(kept)


@torch.no_grad()
def initialise_for_intervals(layers: Iterable[nn.Module]) -> None:
    """Random weights that keep the length of intervals from layer to layer (Shi et al. 2021).

    Weights are drawn from N(0, 2π / n²) for n inputs of a unit, so that the mean of n |w| is 2, and ReLU
    halves the lengths. Biases are 0.

    Args:
        layers: Of the network, before training; draws from the global generator, as PyTorch's own do.
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
