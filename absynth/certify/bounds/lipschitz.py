"""Lipschitz constants of a network in L2, and the radii that follow from them.

A change of the image by ε changes the label's logit minus a rival's by at most L ε, with a constant L of that
pair of classes, so that no change smaller than margin / L can make them meet (Tsuzuku et al. 2018, arXiv
1802.04034). The constants of layers are multiplied, those of branches that are added are added, and
everything affine behind the last function of single numbers is one matrix, of which only the difference of
two rows counts.

Every constant is an upper bound: the largest singular value of a matrix; of a convolution the largest of all
frequencies on a torus that holds its input (it is a part of the circular convolution there; Sedghi et al.
2019, arXiv 1805.10408); else the geometric mean of the largest sum of absolute weights in a row and in a
column.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from absynth.certify.bounds.coefficients import Coefficients
from absynth.certify.bounds.nodes import Activation, Affine, Convolution, Dense, Network, Reshaped
from absynth.certify.bounds.propagation import duels

UPWARDS = 1 + 1e-9
"""More than a singular value or a sum of absolute values can be off by in float64, relative to itself."""

FREQUENCIES = 2**12
"""Of more than so many frequencies a convolution's constant is not the largest; sums of weights bound it."""


def pair_constants(network: Network) -> Tensor:
    """The constants of all pairs of classes, shape (class, class − 1), in the order of :func:`duels`.

    Args:
        network: The network.
    """
    constants: list[float] = []
    for node in network.nodes:
        given = [constants[parent] for parent in node.parents]
        if isinstance(node, Affine):
            constants.append(operator_norm(network, node) * math.hypot(*given))
        elif isinstance(node, Activation):
            constants.append(node.curve.steepest * given[0])
        else:
            constants.append(1.0)
    device = _device(network)
    classes = torch.arange(network.classes, device=device)
    last = len(network.nodes) - 1
    pending = {last: Coefficients.of_rows(duels(classes, network.classes))}
    total = torch.zeros(network.classes, network.classes - 1, dtype=torch.float64, device=device)
    for number in range(last, -1, -1):
        coefficients = pending.pop(number, None)
        if coefficients is None:
            continue
        node = network.nodes[number]
        if isinstance(node, Affine):
            for parent, part in zip(node.parents, coefficients.back(network, node), strict=True):
                pending[parent] = pending[parent].plus(part) if parent in pending else part
        else:
            length = coefficients.rows().flatten(2).norm(dim=2)
            # an infinite constant of what does not count is none
            total += torch.where(length > 0, length * constants[number] * UPWARDS, 0)
    return total


def operator_norm(network: Network, node: Affine) -> float:
    """An upper bound of how much a linear map lengthens a vector, of all its parents together.

    Args:
        network: The network.
        node: The map.
    """
    if isinstance(node, Reshaped):
        return 1.0
    if isinstance(node, Dense):
        return float(torch.linalg.matrix_norm(node.weight, ord=2)) * UPWARDS
    shapes = network.shapes(node)
    device = _device(network)
    ones = [torch.ones(1, *shape, dtype=torch.float64, device=device) for shape in shapes]
    rows = node.absolute(*ones).amax()
    with torch.enable_grad():
        seen = [one.requires_grad_() for one in ones]
        columns = torch.autograd.grad(node.absolute(*seen).sum(), seen)
    bound = float((rows.detach() * torch.stack([one.amax() for one in columns]).amax()).sqrt()) * UPWARDS
    if isinstance(node, Convolution) and node.groups == 1 and node.dilation == (1, 1):
        bound = min(bound, _largest_frequency(node, shapes[0]))
    return bound


def _largest_frequency(node: Convolution, shape: tuple[int, ...]) -> float:
    """The largest singular value of all frequencies.

    A stride sorts rows and columns by their remainder into channels of their own, where the stride is 1.
    """
    weight, strides = node.weight, node.stride
    padded = [shape[1 + axis] + 2 * node.padding[axis] for axis in range(2)]
    grid = [-(-padded[axis] // strides[axis]) for axis in range(2)]
    if math.prod(grid) > FREQUENCIES:
        return math.inf
    fill = [-weight.shape[2 + axis] % strides[axis] for axis in range(2)]
    filled = functional.pad(weight, (0, fill[1], 0, fill[0]))
    sorted_kernel = filled.unflatten(2, (-1, strides[0])).unflatten(4, (-1, strides[1]))
    kernel = sorted_kernel.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    spectrum = torch.fft.fft2(kernel, s=grid)
    return float(torch.linalg.matrix_norm(spectrum.permute(2, 3, 0, 1), ord=2).amax()) * UPWARDS


def _device(network: Network) -> torch.device:
    """Where a network's weights are."""
    weights = [getattr(node, "weight", None) for node in network.nodes]
    return next((one.device for one in weights if one is not None), torch.device("cpu"))
