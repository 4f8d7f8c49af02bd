"""What each of PyTorch's operations is made of: nodes that can be bounded.

An operation is a function of a :class:`~absynth.certify.bounds.builder.Builder`, of what it was called with,
images' values as :class:`~absynth.certify.bounds.builder.Variable`, and of its settings. It returns what the
model goes on with, and raises :class:`~absynth.certify.bounds.builder.UnboundedError` if it cannot be bounded
as it was called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.certify.bounds.builder import Builder, Ending, Largest, UnboundedError, Variable
from absynth.certify.bounds.curves import Clip, Curve, Kinked, elu, softplus
from absynth.certify.bounds.nodes import Convolution, Dense


def constant(value: Any) -> Tensor:
    """A constant as float64."""
    return torch.as_tensor(value).detach().to(torch.float64)


def add(builder: Builder, x: Any, y: Any, *, alpha: Any = 1) -> Variable:
    """X + y."""
    if alpha != 1:
        raise UnboundedError("it has a factor 'alpha'")
    if isinstance(x, Variable) and isinstance(y, Variable):
        return builder.combine(x, y, 1)
    x, y = (x, y) if isinstance(x, Variable) else (y, x)
    x, shift = _meet(builder, x, y)
    return builder.scale(x, torch.ones_like(shift), shift)


def subtract(builder: Builder, x: Any, y: Any) -> Variable:
    """X − y."""
    if isinstance(x, Variable) and isinstance(y, Variable):
        return builder.combine(x, y, -1)
    if isinstance(x, Variable):
        return add(builder, x, -constant(y))
    y, shift = _meet(builder, y, x)
    return builder.scale(y, -torch.ones_like(shift), shift)


def multiply(builder: Builder, x: Any, y: Any) -> Variable:
    """X · y with a constant."""
    if isinstance(x, Variable) and isinstance(y, Variable):
        raise UnboundedError("it multiplies two values that depend on the image")
    x, y = (x, y) if isinstance(x, Variable) else (y, x)
    x, factor = _meet(builder, x, y)
    return builder.scale(x, factor, None)


def divide(builder: Builder, x: Any, y: Any) -> Variable:
    """X / y for a constant y."""
    if not isinstance(x, Variable) or isinstance(y, Variable):
        raise UnboundedError("it divides by a value that depends on the image")
    return multiply(builder, x, 1 / constant(y))


def negate(builder: Builder, x: Variable) -> Variable:
    """−x."""
    return multiply(builder, x, -1)


def absolute(builder: Builder, x: Variable) -> Variable:
    """abs(x) = relu(x) + relu(−x)."""
    return builder.combine(builder.bend(x, Kinked()), builder.bend(negate(builder, x), Kinked()), 1)


def _meet(builder: Builder, x: Variable, value: Any) -> tuple[Variable, Tensor]:
    """A variable and a constant in shapes that suit one another."""
    found = constant(value)
    if found.ndim > len(x.shape):
        if found.shape[0] != 1 or found.ndim > len(x.shape) + 1:
            raise UnboundedError("its constant differs from image to image")
        found = found[0]
    x = builder.expand(x, tuple(torch.broadcast_shapes(x.shape, found.shape)))
    return x, found.reshape(*[1] * (len(x.shape) - found.ndim), *found.shape) if found.ndim else found


def linear(builder: Builder, x: Variable, weight: Tensor, bias: Tensor | None = None) -> Variable:
    """A matrix."""
    weight = constant(weight)
    shape = (*x.shape[:-1], len(weight))
    if x.shape[-1] != weight.shape[1]:
        raise UnboundedError(f"it takes {weight.shape[1]} values and is given {x.shape[-1]}")
    bias = None if bias is None else constant(bias)
    terms = max(weight.shape)
    return builder.add(Dense(builder.place, (x.index,), shape, bias, weight=weight, terms=terms))


def _pair(value: Any) -> tuple[int, int]:
    """A number for both directions, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def conv2d(
    builder: Builder,
    x: Variable,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Variable:
    """A convolution."""
    weight = constant(weight)
    steps, spread = _pair(stride), _pair(dilation)
    if padding == "same":
        total = [spread[axis] * (weight.shape[2 + axis] - 1) for axis in range(2)]
        x = pad(builder, x, [total[1] // 2, -(-total[1] // 2), total[0] // 2, -(-total[0] // 2)])
    sides = (0, 0) if isinstance(padding, str) else _pair(padding)
    zeros = torch.zeros(1, *x.shape, dtype=torch.float64, device=weight.device)
    shape = tuple(functional.conv2d(zeros, weight, None, steps, sides, spread, groups).shape[1:])
    terms = max(len(weight), weight.shape[1]) * weight[0, 0].numel()
    return builder.add(
        Convolution(
            builder.place,
            (x.index,),
            shape,
            None if bias is None else constant(bias).view(-1, 1, 1),
            weight=weight,
            stride=steps,
            padding=sides,
            dilation=spread,
            groups=groups,
            terms=terms,
        )
    )


def conv1d(
    builder: Builder,
    x: Variable,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Variable:
    """A convolution of a map of one row."""
    row = builder.reshape(lambda values: values.unsqueeze(2), x)
    one = [value if isinstance(value, int | str) else value[0] for value in (stride, padding, dilation)]
    sides = one[1] if isinstance(one[1], str) else (0, one[1])
    done = conv2d(builder, row, weight.unsqueeze(2), bias, (1, one[0]), sides, (1, one[2]), groups)
    return builder.reshape(lambda values: values.squeeze(2), done)


def batch_norm(
    builder: Builder,
    x: Variable,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Variable:
    """Batch norm by running statistics."""
    if training or running_mean is None or running_var is None:
        raise UnboundedError("it normalises by the statistics of the batch")
    shape = (-1, *[1] * (len(x.shape) - 1))
    factor = 1 / (constant(running_var) + eps).sqrt()
    if weight is not None:
        factor = factor * constant(weight)
    shift = -constant(running_mean) * factor
    size = shift.abs()
    if bias is not None:
        shift, size = shift + constant(bias), size + constant(bias).abs()
    return builder.scale(x, factor.view(shape), shift.view(shape), size.view(shape))


def pad(
    builder: Builder, x: Variable, sides: Any, mode: str = "constant", value: float | None = 0
) -> Variable:
    """More rows and columns, of a constant or of values of the image."""
    pads = [int(side) for side in sides]
    if mode != "constant":
        return builder.arrange(lambda values: functional.pad(values, pads, mode=mode), x)
    bias = None
    if value:
        bias = functional.pad(torch.zeros(1, *x.shape, dtype=torch.float64), pads, value=value)[0]
    return builder.arrange(lambda values: functional.pad(values, pads), x, bias=bias)


def max_pool(
    builder: Builder,
    x: Variable,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Variable:
    """The largest of every window, axis by axis; a window at a rim sees the values there once more."""
    if ceil_mode or return_indices or _pair(dilation) != (1, 1):
        raise UnboundedError("only plain max pooling is known")
    axes = (1, 0) if len(x.shape) == 3 else (1,)
    kernel, sides = _pair(kernel_size), _pair(padding)
    steps = kernel if stride is None or stride == () else _pair(stride)
    pads = [side for axis in axes for side in (sides[axis], sides[axis])]
    if any(pads):
        x = builder.arrange(lambda values: functional.pad(values, pads, mode="replicate"), x)
    for axis in axes:
        place = len(x.shape) - (1 if axis == 1 else 2)
        count = (x.shape[place] - kernel[axis]) // steps[axis] + 1
        windows = [
            builder.arrange(_every(place + 1, first, count, steps[axis]), x) for first in range(kernel[axis])
        ]
        x = builder.largest(windows)
    return x


def _every(axis: int, first: int, count: int, step: int) -> Callable[[Tensor], Tensor]:
    """Takes every so many entries along an axis."""
    return lambda values: values.narrow(axis, first, (count - 1) * step + 1)[
        tuple(slice(None, None, step if one == axis else 1) for one in range(values.ndim))
    ]


def largest_along(builder: Builder, x: Variable, dim: Any = None, keepdim: bool = False) -> Variable:
    """The largest along an axis."""
    if not isinstance(dim, int):
        raise UnboundedError("give it one axis")
    axis = dim % (len(x.shape) + 1)
    if axis == 0:
        raise UnboundedError("it does not treat every image by itself")
    count = x.shape[axis - 1]
    parts = [builder.arrange(_every(axis, first, 1, 1), x) for first in range(count)]
    found = builder.largest(parts)
    return found if keepdim else builder.reshape(lambda values: values.squeeze(axis), found)


def maximum(builder: Builder, x: Any, dim: Any = None, keepdim: bool = False) -> Variable | Largest:
    """``max``: along an axis, or of two tensors."""
    if isinstance(dim, Variable):
        return builder.maximum(x, dim)
    return Largest(largest_along(builder, x, dim, keepdim))


def softmax(
    function: Callable[..., Tensor],
) -> Callable[..., Ending]:
    """Softmax, or its logarithm, of the logits."""

    def ending(builder: Builder, x: Variable, dim: Any = None, *others: Any, **options: Any) -> Ending:
        if len(x.shape) != 1 or dim not in (1, -1):
            raise UnboundedError("softmax is known only of the logits, along the axis of the classes")
        return Ending(x, lambda logits: function(logits, dim=1))

    return ending


def dropout(
    builder: Builder, x: Variable, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Variable:
    """Nothing, in evaluation mode."""
    if training:
        raise UnboundedError("it drops values at random")
    return x


def arranging(function: Callable[..., Tensor]) -> Callable[..., Variable]:
    """An operation that is a linear map of one tensor without negative weights."""
    return lambda builder, x, *others, **options: builder.arrange(
        lambda values: function(values, *others, **options), x
    )


def reshaping(function: Callable[..., Tensor]) -> Callable[..., Variable]:
    """An operation that leaves the order of the numbers as it is."""
    return lambda builder, x, *others, **options: builder.reshape(
        lambda values: function(values, *others, **options), x
    )


def bending(make: Callable[..., Curve]) -> Callable[..., Variable]:
    """A function of single numbers."""

    def bend(builder: Builder, x: Variable, *settings: Any, **options: Any) -> Variable:
        options.pop("inplace", None)
        return builder.bend(x, make(*settings, **options))

    return bend


def same(builder: Builder, x: Variable, *others: Any, **options: Any) -> Variable:
    """What changes no value."""
    return x


def joined(builder: Builder, tensors: Any, dim: int = 0) -> Variable:
    """Several tensors one after another."""
    given = list(tensors)
    if dim % (len(given[0].shape) + 1 if isinstance(given[0], Variable) else 1) == 0:
        raise UnboundedError("it does not treat every image by itself")
    if not all(isinstance(one, Variable) for one in given):
        raise UnboundedError("it joins a constant to values of the image")
    return builder.arrange(lambda *values: torch.cat(values, dim), *given)


def leaky_relu(negative_slope: float = 0.01) -> Kinked:
    """Leaky ReLU."""
    if not 0 <= negative_slope <= 1:
        raise UnboundedError(f"its slope below 0 is {negative_slope}, and must lie in [0, 1]")
    return Kinked(negative_slope)


def elu_curve(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Curve:
    """ELU."""
    if not 0 < alpha <= 1 or scale != 1 or input_scale != 1:
        raise UnboundedError(f"its factor is {alpha}, and must lie in (0, 1]")
    return elu(alpha)


def softplus_curve(beta: float = 1.0, threshold: float = 20.0) -> Curve:
    """Softplus, in real arithmetic without a threshold."""
    return softplus(beta)


def clip(min: float | None = None, max: float | None = None) -> Clip:
    """Values moved into a range."""
    low, high = (-math.inf if min is None else min), (math.inf if max is None else max)
    return Clip(float(low), float(high))


def item(builder: Builder, x: Any, index: Any) -> Any:
    """A part of a tensor that holds all images."""
    if isinstance(x, Largest):
        return x[index]
    first = index[0] if isinstance(index, tuple) and index else index
    if first not in (slice(None), Ellipsis):
        raise UnboundedError("it does not take all images")
    return builder.arrange(lambda values: values[index], x)


def convolution(builder: Builder, module: Any, x: Variable) -> Variable:
    """The layer's convolution, whatever it is padded with."""
    function = conv2d if isinstance(module, nn.Conv2d) else conv1d
    padding = module.padding
    if module.padding_mode != "zeros":
        mode = {"reflect": "reflect", "replicate": "replicate", "circular": "circular"}[module.padding_mode]
        x, padding = pad(builder, x, module._reversed_padding_repeated_twice, mode), 0
    return function(
        builder, x, module.weight, module.bias, module.stride, padding, module.dilation, module.groups
    )


def batch_norm_layer(builder: Builder, m: Any, x: Variable) -> Variable:
    return batch_norm(builder, x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)


def pad_layer(builder: Builder, m: Any, x: Variable) -> Variable:
    return pad(builder, x, m.padding, value=getattr(m, "value", 0))


def attribute(builder: Builder, x: Any, name: str) -> Any:
    """An attribute of what ``max`` returns; any other of a value that depends on the image is not known."""
    if isinstance(x, Largest) and name == "values":
        return x.values
    raise UnboundedError(f"the attribute '{name}' is not known")
