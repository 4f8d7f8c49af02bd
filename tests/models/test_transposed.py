import pytest
import torch
from torch.nn import functional

from absynth.models.transposed import MANY, FastConvTranspose2d

LAYERS = pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "size"),
    [
        (8, 32, (4, 3), 1, (1, 1)),
        (6, 1, (28, 20), 1, (1, 1)),
        (32, 16, (5, 5), 2, (4, 4)),
        (16, 16, (5, 4), 2, (11, 9)),
        (16, 1, (4, 7), 1, (25, 22)),
        (3, 4, (4, 3), 1, (5, 6)),
        (3, 1, (3, 3), 2, (4, 5)),
    ],
)


@LAYERS
@pytest.mark.parametrize("count", [3, MANY])
def test_the_fast_form_is_the_transposed_convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int, size: tuple[int, int], count: int
) -> None:
    layer = FastConvTranspose2d(inputs, outputs, kernel, stride).double()
    images = torch.randn(count, inputs, *size, dtype=torch.float64, requires_grad=True)
    expected = functional.conv_transpose2d(images, layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(images), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), expected)
        assert layer(images[:0]).shape == (0, *expected.shape[1:])
    cotangents = torch.randn_like(expected)
    (gradients,) = torch.autograd.grad(expected, images, cotangents)
    torch.testing.assert_close(layer.transpose(cotangents), gradients)


@pytest.mark.parametrize("side", [1, 4])
def test_weights_can_be_trained(side: int) -> None:
    layer = FastConvTranspose2d(3, 2, 5, 2)
    images = torch.rand(2, 3, side, side)
    functional.conv_transpose2d(images, layer.weight, layer.bias, 2).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    layer.zero_grad()
    layer(images).square().sum().backward()
    found = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    assert len(found) == 2
    torch.testing.assert_close(found, expected)
