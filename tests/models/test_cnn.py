from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.models.cnn import CNN, Binarized, IntervalCNN, SmoothedCNN, StridedCNN, binarize
from absynth.models.pretrained import PretrainedModel, load_folder

KINDS = (CNN, StridedCNN, IntervalCNN, SmoothedCNN)
Kind = Callable[..., PretrainedModel]


def test_the_network_is_the_papers() -> None:
    network = CNN()
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(5, 5), (4, 4), (3, 3), (5, 5)]
    assert [layer.stride for layer in convolutions] == [(1, 1), (2, 2), (2, 2), (1, 1)]
    assert [layer.out_channels for layer in convolutions] == [20, 70, 256, 10]
    names = [type(layer).__name__ for layer in network.layers]
    assert names == ["Conv2d", "BatchNorm2d", "ELU"] * 3 + ["Conv2d", "Flatten"]
    weights = (25 * 20 + 20) + (16 * 20 * 70 + 70) + (9 * 70 * 256 + 256) + (25 * 256 * 10 + 10)
    assert sum(weight.numel() for weight in network.parameters()) == weights + 2 * (20 + 70 + 256)


def test_the_strided_network_has_two_convolutions_and_no_batch_norm() -> None:
    network = StridedCNN()
    names = [type(layer).__name__ for layer in network.layers]
    assert names == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]
    weights = (16 * 32 + 32) + (16 * 32 * 64 + 64) + (49 * 64 * 256 + 256) + (256 * 10 + 10)
    assert sum(weight.numel() for weight in network.parameters()) == weights
    assert not list(network.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_classes(kind: Kind, make_images: Callable[..., Tensor]) -> None:
    assert kind(3).eval()(make_images(2)).shape == (2, 3)
    assert kind(3).eval()(make_images(0)).shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_the_same_logits_alone_as_in_a_batch(
    kind: Kind, make_images: Callable[..., Tensor]
) -> None:
    network, images = kind().eval(), make_images(3)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_another_size_are_refused(kind: Kind) -> None:
    with pytest.raises(AbsynthError, match=r"\(2, 3, 32, 32\).*takes \(batch, 1, 28, 28\)"):
        kind()(torch.zeros(2, 3, 32, 32))


def test_the_threshold_of_the_interval_network_leaves_black_and_white() -> None:
    network = IntervalCNN(2)
    values = torch.tensor([0.0, 0.3, 0.45, 0.475, 0.5, 0.54, 0.55, 0.56, 1.0])
    seen = network.layers[: network.front](values[:, None, None, None]).flatten()
    torch.testing.assert_close(seen, torch.tensor([0, 0, 0, 0.25, 0.5, 0.9, 1, 1, 1]), rtol=0, atol=1e-5)


def test_the_noise_that_a_network_is_for_is_kept_with_it(
    make_images: Callable[..., Tensor], tmp_path: Path
) -> None:
    network = SmoothedCNN(3, sigma=0.75).eval()
    assert network.config() == {"classes": 3, "smoothing": {"sigma": 0.75}}
    loaded = load_folder(network.save_pretrained(tmp_path))
    assert isinstance(loaded, SmoothedCNN)
    assert loaded.sigma == 0.75
    images = make_images(2)
    assert torch.equal(loaded(images), loaded(images)), "its own answer is that without noise"
    assert torch.equal(loaded(images), network(images))
    assert SmoothedCNN().sigma == 0.5


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_of_no_size_is_refused(sigma: float) -> None:
    with pytest.raises(AbsynthError, match=r"standard deviation of .*; it must be above 0"):
        SmoothedCNN(sigma=sigma)


def test_exactly_one_half_becomes_zero() -> None:
    above = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).item()
    below = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0)).item()
    assert binarize(torch.tensor([0.0, below, 0.5, above, 1.0])).tolist() == [0, 0, 0, 1, 1]
    assert binarize(torch.tensor([0.7], dtype=torch.float64)).dtype == torch.float64


def test_forward_thresholds_first(make_images: Callable[..., Tensor]) -> None:
    inner, images = CNN(4).eval(), make_images(3)
    torch.testing.assert_close(Binarized(inner)(images), inner((images > 0.5).float()), rtol=0, atol=0)


def test_the_gradient_passes_straight_through(make_images: Callable[..., Tensor]) -> None:
    inner, images = CNN(4).eval(), make_images(3).requires_grad_()
    binary = (images.detach() > 0.5).float().requires_grad_()
    weights = torch.randn(3, 4)
    (outer_gradient,) = torch.autograd.grad((Binarized(inner)(images) * weights).sum(), images)
    (inner_gradient,) = torch.autograd.grad((inner(binary) * weights).sum(), binary)
    assert inner_gradient.abs().max() > 0
    torch.testing.assert_close(outer_gradient, inner_gradient, rtol=0, atol=0)


def test_any_module_can_stand_behind_the_threshold() -> None:
    model = Binarized(nn.Flatten())
    model.prepare()
    assert model(torch.full((1, 1, 1, 2), 0.6)).tolist() == [[1.0, 1.0]]
