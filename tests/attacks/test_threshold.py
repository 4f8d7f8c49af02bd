"""The threshold attack on a linear model behind a threshold, whose smallest change is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from absynth.attacks import suite_attacks
from absynth.attacks.threshold import Threshold, across_threshold, is_bright
from absynth.errors import AbsynthError
from absynth.models.cnn import Binarized
from absynth.norms import NORMS, Norm

SIDE = 6


def binarized(pixels: int, classes: int, seed: int) -> Binarized:
    """A linear model of binary images, a few flips from another decision."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(pixels, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, pixels, generator=generator))
        linear.bias.copy_(-linear.weight.sum(dim=1) / 2)
        linear.bias[0] += pixels**0.5 / 2
    return Binarized(nn.Sequential(nn.Flatten(), linear)).eval()


def greedy_minimum(model: Binarized, image: Tensor, label: int, norm: Norm) -> float:
    """The true minimum in L0 and Linf of a linear model: flip by gain, or all up to a distance."""
    weight, bias = (parameter.detach().double() for parameter in model.model[1].parameters())
    best = math.inf
    bits = (image > 0.5).flatten().double()
    costs = (image.flatten().double() - 0.5).abs()
    for rival in range(len(weight)):
        if rival == label:
            continue
        slope = weight[rival] - weight[label]
        need = -float(slope @ bits + bias[rival] - bias[label])
        gains = (slope * (1 - 2 * bits)).clamp(min=0)
        order = gains.argsort(descending=True) if norm == "l0" else costs.argsort()
        for count, total in enumerate(gains[order].cumsum(0).tolist(), start=1):
            if total > need:
                best = min(best, count if norm == "l0" else float(costs[order[count - 1]]))
                break
    return best


def brute_minimum(model: Binarized, image: Tensor, label: int, norm: Norm) -> float:
    """The true minimum over all binary images."""
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=image.numel())))
    fooled = model(bits.view(-1, *image.shape)).argmax(dim=1) != label
    flips = bits[fooled].bool() != (image > 0.5).flatten()
    costs = (image.flatten().double() - 0.5).abs() * flips
    if norm == "linf":
        return float(costs.amax(dim=1).amin())
    if norm == "l0":
        return float(flips.sum(dim=1).amin())
    return float(costs.sum(dim=1).amin() if norm == "l1" else costs.square().sum(dim=1).amin().sqrt())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", ["l0", "linf"])
def test_a_linear_model_is_solved(norm: Norm, classes: int) -> None:
    model, images = binarized(SIDE * SIDE, classes, seed=1), torch.rand(8, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    result = Threshold("threshold", norm)(model, images, labels)
    minimum = [
        greedy_minimum(model, image, int(label), norm) for image, label in zip(images, labels, strict=True)
    ]
    ratios = result.distances / torch.tensor(minimum, dtype=torch.float64)
    assert ratios.amin() >= 1 - 1e-6
    assert ratios.amax() <= 1 + 1e-3


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS))
def test_few_pixels_against_all_binary_images(seed: int, norm: Norm) -> None:
    model = binarized(9, 2, seed)
    images = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    labels = model(images).argmax(dim=1)
    result = Threshold("threshold", norm)(model, images, labels)
    exact = [
        brute_minimum(model, image, int(label), norm) for image, label in zip(images, labels, strict=True)
    ]
    ratios = result.distances / torch.tensor(exact, dtype=torch.float64)
    assert ratios.amin() >= 1 - 1e-5
    assert ratios.amax() <= (2.0 if norm == "l2" else 1.5 if norm == "l1" else 1 + 1e-4)
    assert ratios.median() <= 1.1


def test_in_l1_an_expensive_flip_is_exchanged_for_cheaper_ones() -> None:
    generator = torch.Generator().manual_seed(140)
    model, images = binarized(9, 2, 140), torch.rand(6, 1, 3, 3, generator=generator)[3:4]
    labels = model(images).argmax(dim=1)
    least = brute_minimum(model, images[0], int(labels), "l1")
    assert least < 0.5 * 0.26
    assert float(Threshold("threshold", "l1")(model, images, labels).distances) <= least * (1 + 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_it_beats_attacks_that_know_nothing_of_the_threshold(norm: Norm) -> None:
    model, images = binarized(SIDE * SIDE, 3, seed=1), torch.rand(8, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    own = Threshold("threshold", norm)(model, images, labels)
    assert own.success.all()
    for other in suite_attacks("quick", norm):
        rival = other(model, images, labels)
        assert own.distances.median() <= rival.distances.median() * (1 + 1e-5), other.name


@pytest.mark.parametrize("norm", NORMS)
def test_a_pixel_moves_just_across_or_not_at_all(norm: Norm) -> None:
    model, images = binarized(SIDE * SIDE, 3, seed=2), torch.rand(8, 1, SIDE, SIDE)
    images[0] = images[0].round()
    images[1] = 0.5
    labels = model(images).argmax(dim=1)
    result = Threshold("threshold", norm, steps=10, rivals=1)(model, images, labels)
    moved = result.adversarials != images
    assert ((result.adversarials[moved] - 0.5).abs() <= 1e-6).all()
    assert (is_bright(result.adversarials) != is_bright(images))[moved].all()
    assert torch.equal(model(result.adversarials).argmax(dim=1) != labels, result.success)


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_and_colours(norm: Norm) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 3))
    model, images = Binarized(network).double(), torch.rand(6, 3, 4, 4, dtype=torch.float64)
    labels = model(images).argmax(dim=1)
    result = Threshold("threshold", norm)(model, images, labels)
    assert torch.equal(model(result.adversarials).argmax(dim=1) != labels, result.success)
    assert result.success.any()
    again = Threshold("threshold", norm)(model, images, labels)
    assert torch.equal(result.adversarials, again.adversarials)


def test_a_model_that_is_never_fooled() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1) + 0 * images.sum()

    result = Threshold("threshold", "l2")(
        Binarized(Constant()), torch.rand(3, 1, 4, 4), torch.zeros(3).long()
    )
    assert not result.success.any()


@pytest.mark.parametrize("norm", NORMS)
def test_every_tensor_is_made_on_the_device_of_the_images(norm: Norm) -> None:
    model, images = binarized(SIDE * SIDE, 3, 0), torch.rand(4, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    # A tensor that is made without saying where would be on this device, and could not meet the others.
    with torch.device("meta"):
        result = Threshold("threshold", norm).search(model, images, labels)
    found = (result.adversarials, result.distances, result.success, result.queries)
    assert {value.device.type for value in found} == {"cpu"}


def test_it_applies_only_behind_a_threshold() -> None:
    model, images = binarized(SIDE * SIDE, 2, seed=0), torch.rand(2, 1, SIDE, SIDE)
    attack = Threshold("threshold", "l2")
    assert attack.applies_to(model)
    assert not attack.applies_to(model.model)
    with pytest.raises(AbsynthError, match="'threshold' uses what a Sequential does not have"):
        attack(model.model, images, torch.zeros(2).long())


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_the_nearest_image_across(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 1, 3, 3, generator=generator).to(dtype)
    bright = torch.rand(2, 1, 3, 3, generator=generator) < 0.5
    moved = across_threshold(images, bright)
    assert torch.equal(is_bright(moved), bright)
    assert torch.equal(moved != images, is_bright(images) != bright)
    assert ((moved - 0.5).abs() <= (images - 0.5).abs() + 0.005).all()
