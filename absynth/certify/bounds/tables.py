"""Which of PyTorch's operations are known, by what a model calls."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.certify.bounds.curves import SIGMOID, TANH, Clip, Kinked, softplus
from absynth.certify.bounds.operations import (
    absolute,
    add,
    arranging,
    attribute,
    batch_norm,
    batch_norm_layer,
    bending,
    clip,
    conv1d,
    conv2d,
    convolution,
    divide,
    dropout,
    elu_curve,
    item,
    joined,
    largest_along,
    leaky_relu,
    linear,
    max_pool,
    maximum,
    multiply,
    negate,
    pad,
    pad_layer,
    reshaping,
    same,
    softmax,
    softplus_curve,
    subtract,
)

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    operator.add: add,
    torch.add: add,
    operator.iadd: add,
    operator.sub: subtract,
    torch.sub: subtract,
    operator.isub: subtract,
    operator.mul: multiply,
    torch.mul: multiply,
    operator.imul: multiply,
    operator.truediv: divide,
    torch.div: divide,
    operator.neg: negate,
    torch.neg: negate,
    torch.abs: absolute,
    abs: absolute,
    operator.getitem: item,
    getattr: attribute,
    functional.linear: linear,
    functional.conv2d: conv2d,
    torch.conv2d: conv2d,
    functional.conv1d: conv1d,
    torch.conv1d: conv1d,
    functional.batch_norm: batch_norm,
    functional.pad: pad,
    functional.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,
    functional.max_pool1d: max_pool,
    torch.amax: largest_along,
    torch.max: maximum,
    torch.maximum: lambda builder, x, y: builder.maximum(x, y),
    functional.relu: bending(Kinked),
    torch.relu: bending(Kinked),
    functional.relu6: bending(lambda: Clip(0.0, 6.0)),
    functional.leaky_relu: bending(leaky_relu),
    functional.elu: bending(elu_curve),
    functional.softplus: bending(softplus_curve),
    functional.sigmoid: bending(lambda: SIGMOID),
    torch.sigmoid: bending(lambda: SIGMOID),
    functional.tanh: bending(lambda: TANH),
    torch.tanh: bending(lambda: TANH),
    functional.hardtanh: bending(lambda min_val=-1.0, max_val=1.0: clip(min_val, max_val)),
    torch.clamp: bending(clip),
    torch.clip: bending(clip),
    functional.dropout: dropout,
    functional.dropout2d: dropout,
    functional.softmax: softmax(torch.softmax),
    torch.softmax: softmax(torch.softmax),
    functional.log_softmax: softmax(torch.log_softmax),
    torch.log_softmax: softmax(torch.log_softmax),
    torch.flatten: reshaping(torch.flatten),
    torch.reshape: reshaping(torch.reshape),
    torch.squeeze: reshaping(torch.squeeze),
    torch.unsqueeze: reshaping(torch.unsqueeze),
    torch.permute: arranging(torch.permute),
    torch.transpose: arranging(torch.transpose),
    torch.mean: arranging(torch.mean),
    torch.sum: arranging(torch.sum),
    functional.avg_pool2d: arranging(functional.avg_pool2d),
    torch._C._nn.avg_pool2d: arranging(functional.avg_pool2d),
    functional.adaptive_avg_pool2d: arranging(functional.adaptive_avg_pool2d),
    functional.avg_pool1d: arranging(functional.avg_pool1d),
    torch.cat: joined,
    torch.concat: joined,
}
"""By the function that a model calls."""

METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("contiguous", "clone", "detach", "to", "float", "double", "cpu", "type_as"), same),
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "div": divide,
    "neg": negate,
    "abs": absolute,
    "relu": bending(Kinked),
    "sigmoid": bending(lambda: SIGMOID),
    "tanh": bending(lambda: TANH),
    "clamp": bending(clip),
    "clip": bending(clip),
    "amax": largest_along,
    "max": maximum,
    "maximum": lambda builder, x, y: builder.maximum(x, y),
    "softmax": softmax(torch.softmax),
    "log_softmax": softmax(torch.log_softmax),
    **{
        name: reshaping(getattr(Tensor, name))
        for name in ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten")
    },
    **{name: arranging(getattr(Tensor, name)) for name in ("permute", "transpose", "mean", "sum", "expand")},
}
"""By the name of the method of a tensor that a model calls."""


MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: lambda b, m, x: linear(b, x, m.weight, m.bias),
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm_layer,
    nn.BatchNorm2d: batch_norm_layer,
    nn.Flatten: lambda b, m, x: b.reshape(m, x),
    nn.Unflatten: lambda b, m, x: b.reshape(m, x),
    nn.AvgPool1d: lambda b, m, x: b.arrange(m, x),
    nn.AvgPool2d: lambda b, m, x: b.arrange(m, x),
    nn.AdaptiveAvgPool2d: lambda b, m, x: b.arrange(m, x),
    nn.MaxPool1d: lambda b, m, x: max_pool(
        b, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.MaxPool2d: lambda b, m, x: max_pool(
        b, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.ZeroPad2d: pad_layer,
    nn.ConstantPad2d: pad_layer,
    nn.ReLU: lambda b, m, x: b.bend(x, Kinked()),
    nn.ReLU6: lambda b, m, x: b.bend(x, Clip(0.0, 6.0)),
    nn.LeakyReLU: lambda b, m, x: b.bend(x, leaky_relu(m.negative_slope)),
    nn.ELU: lambda b, m, x: b.bend(x, elu_curve(m.alpha)),
    nn.Softplus: lambda b, m, x: b.bend(x, softplus(m.beta)),
    nn.Sigmoid: lambda b, m, x: b.bend(x, SIGMOID),
    nn.Tanh: lambda b, m, x: b.bend(x, TANH),
    nn.Hardtanh: lambda b, m, x: b.bend(x, clip(m.min_val, m.max_val)),
    nn.Softmax: lambda b, m, x: softmax(torch.softmax)(b, x, m.dim),
    nn.LogSoftmax: lambda b, m, x: softmax(torch.log_softmax)(b, x, m.dim),
    **{
        kind: (lambda b, m, x: x)
        for kind in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
    },
}
"""By the layer that a model has."""
