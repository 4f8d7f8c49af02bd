"""Batch norm as a help of training alone: put into a chain of layers, then folded into its weights."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import nn


def with_batch_norm(layers: Iterable[nn.Module]) -> nn.Sequential:
    """The chain with a batch norm after every convolution and fully connected layer but the last.

    Args:
        layers: A chain that ends with a convolution or a fully connected layer; they are not copied.
    """
    chain: list[nn.Module] = []
    for layer in layers:
        chain.append(layer)
        if isinstance(layer, nn.Conv2d):
            chain.append(nn.BatchNorm2d(layer.out_channels))
        elif isinstance(layer, nn.Linear):
            chain.append(nn.BatchNorm1d(layer.out_features))
    return nn.Sequential(*chain[:-1])


@torch.no_grad()
def fold_batch_norm(layers: Iterable[nn.Module]) -> nn.Sequential:
    """A copy of the chain without batch norm that computes what the chain does in evaluation mode.

    γ (Wx + b − μ) / √(σ² + ε) + β is computed by the weights γW / √(σ² + ε) and the biases
    γ (b − μ) / √(σ² + ε) + β.

    Args:
        layers: Every batch norm comes right after a convolution or a fully connected layer with biases.
    """
    chain: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            chain.append(deepcopy(layer))
            continue
        before = chain[-1]
        assert isinstance(before, nn.Conv2d | nn.Linear) and before.bias is not None
        assert layer.running_mean is not None and layer.running_var is not None
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        before.weight.mul_(scale.view(-1, *[1] * (before.weight.ndim - 1)))
        before.bias.copy_((before.bias - layer.running_mean) * scale + layer.bias)
    return nn.Sequential(*chain)
