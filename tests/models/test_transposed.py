import pytest
import torch

from absynth.models.transposed import MANY, FastConvTranspose2d

LAYERS = pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "size"),
    [
        (8, 32, (4, 3), 1, (1, 1)),
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
    expected = layer(images)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), expected)
        assert layer(images[:0]).shape == (0, *expected.shape[1:])
    cotangents = torch.randn_like(expected)
    (gradients,) = torch.autograd.grad(expected, images, cotangents)
    torch.testing.assert_close(layer.transpose(cotangents), gradients)


def test_weights_can_be_trained() -> None:
    layer = FastConvTranspose2d(3, 2, 5, 2)
    layer(torch.rand(2, 3, 4, 4)).sum().backward()
    assert layer.weight.grad is not None
