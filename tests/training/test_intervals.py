"""Interval bounds against corners, samples and closed forms, and the loss made of them."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.models.cnn import IntervalCNN
from absynth.training.batch_norm import with_batch_norm
from absynth.training.intervals import (
    IntervalLoss,
    Intervals,
    ball,
    between,
    bound_logits,
    certain,
    initialise_for_intervals,
    propagate,
    worst_logits,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corners(values: int) -> Tensor:
    return torch.tensor(list(product((-1.0, 1.0), repeat=values)), dtype=torch.float64)


@pytest.fixture
def trained(make_images: Callable[..., Tensor]) -> nn.Sequential:
    """A network with batch norm that has seen some images, in evaluation mode and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        chain = with_batch_norm(IntervalCNN(4).layers).double()
    chain(make_images(16).double())
    return chain.eval()


def test_one_fully_connected_layer_is_bounded_exactly() -> None:
    layer = nn.Linear(6, 5).double()
    centres, radii = random(3, 6), random(3, 6, seed=1).abs()
    found = propagate([layer], Intervals(centres, radii))
    ends = layer(centres[:, None] + corners(6) * radii[:, None])
    torch.testing.assert_close(found.highest, ends.amax(1))
    torch.testing.assert_close(found.lowest, ends.amin(1))


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2, "padding": 1}, {"groups": 2}, {"dilation": 2, "padding": 2, "bias": False}]
)
def test_one_convolution_is_bounded_exactly(settings: dict[str, Any]) -> None:
    """Every bound is taken at the corner that the signs of its own row of weights point to."""
    layer = nn.Conv2d(2, 4, 3, **settings).double()
    centres, radii = random(1, 2, 5, 5), random(1, 2, 5, 5, seed=1).abs()
    found = propagate([layer], Intervals(centres, radii))
    jacobian = torch.autograd.functional.jacobian(layer, centres).flatten(0, 3).flatten(1)
    towards = jacobian.sign().view(-1, 2, 5, 5)
    own = torch.arange(len(towards))
    for sign, bound in ((1, found.highest), (-1, found.lowest)):
        ends = layer(centres + sign * towards * radii).flatten(1)[own, own]
        torch.testing.assert_close(bound.flatten(), ends)


def test_a_monotone_chain_of_one_value_is_bounded_exactly() -> None:
    chain = [nn.Linear(1, 1).double(), nn.ReLU(), nn.Linear(1, 1).double(), nn.ReLU()]
    centres, radii = random(20, 1), random(20, 1, seed=1).abs()
    found = propagate(chain, Intervals(centres, radii))
    ends = nn.Sequential(*chain)(torch.stack([centres - radii, centres + radii]))
    torch.testing.assert_close(found.highest, ends.amax(0))
    torch.testing.assert_close(found.lowest, ends.amin(0))


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.4])
def test_no_sample_leaves_the_intervals(
    trained: nn.Sequential, make_images: Callable[..., Tensor], epsilon: float
) -> None:
    images = (make_images(4, seed=5).double() * 1.6 - 0.3).clamp(0, 1)
    for depth in range(1, len(trained) + 1):
        found = propagate(trained[:depth], ball(images, epsilon))
        for seed in range(20):
            noise = random(*images.shape, seed=seed)
            steps = noise.sign() if seed % 2 else 2 * noise.sigmoid() - 1
            values = trained[:depth]((images + epsilon * steps).clamp(0, 1))
            assert (values <= found.highest + 1e-9).all()
            assert (values >= found.lowest - 1e-9).all()


def test_the_ball_stays_within_the_range_of_pixels() -> None:
    images = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    found = ball(images, 0.3)
    expected = torch.tensor([[0.0, 0.0, 0.2, 0.7], [0.3, 0.55, 0.8, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found.lowest.flatten(), expected[0])
    torch.testing.assert_close(found.highest.flatten(), expected[1])


def test_of_a_single_image_the_intervals_are_what_the_network_computes(
    trained: nn.Sequential, make_images: Callable[..., Tensor]
) -> None:
    images = make_images(6, seed=2).double()
    for training in (False, True):
        trained.train(training)
        found = propagate(trained, between(images, images))
        torch.testing.assert_close(found.centres, trained(images))
        assert found.radii.abs().max() == 0


def test_batch_norm_in_training_goes_by_the_centres() -> None:
    layer = nn.BatchNorm2d(3, momentum=1.0).double()
    nn.init.normal_(layer.weight)
    centres, radii = 2 + 3 * random(8, 3, 4, 4), random(8, 3, 4, 4, seed=1).abs()
    found = propagate([layer], Intervals(centres, radii))
    scale = layer.weight / (centres.var((0, 2, 3), unbiased=False) + layer.eps).sqrt()
    torch.testing.assert_close(found.radii, radii * scale.abs()[:, None, None])
    assert layer.running_mean is not None
    torch.testing.assert_close(layer.running_mean, centres.mean((0, 2, 3)))


def test_the_last_layer_is_merged_with_the_differences_exactly() -> None:
    last = nn.Linear(5, 3).double()
    intervals, labels = Intervals(random(4, 5), random(4, 5, seed=1).abs()), torch.tensor([0, 2, 1, 2])
    logits = last(intervals.centres[:, None] + corners(5) * intervals.radii[:, None])
    own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    expected = (logits - own).amax(1)
    found = worst_logits(last, intervals, labels)
    torch.testing.assert_close(found, expected)
    assert (found.gather(1, labels[:, None]) == 0).all()
    through = propagate([last], intervals)
    apart = through.highest - through.lowest.gather(1, labels[:, None])
    assert (found < apart - 1e-6).all(), "two bounds apart are looser"


def test_which_linear_decisions_are_certain_is_known() -> None:
    """Grey images of value v against 'brighter than ½': certain while v is further than ε from ½."""
    values = torch.tensor([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    labels = (values > 0.5).long()
    labels[0] = 1
    images = values[:, None, None, None].expand(-1, 1, 28, 28)
    last = nn.Linear(784, 2)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[-0.5], [0.5]]).expand(-1, 784) / 784)
        last.bias.copy_(torch.tensor([0.25, -0.25]))
    model = nn.Sequential(nn.Flatten(), last)
    for epsilon, expected in ((0.01, 0.9), (0.1, 0.7), (0.2, 0.5), (0.42, 0.1)):
        found = certain(model, images, labels, epsilon, batch_size=3)
        assert found.double().mean() == pytest.approx(expected)
    assert certain(model, images[:0], labels[:0], 0.1).tolist() == []


def test_the_loss_is_that_of_the_worst_logits_in_a_growing_ball(
    trained: nn.Sequential, make_images: Callable[..., Tensor]
) -> None:
    images, labels = make_images(6, seed=2).double(), torch.arange(6) % 4
    loss, generator = IntervalLoss(epsilon=0.2, warm_up=0.4), torch.Generator()
    clean = functional.cross_entropy(trained(images), labels)
    torch.testing.assert_close(loss(trained, images, labels, generator, 0.0), clean)
    for share, radius in ((0.1, 0.05), (0.2, 0.1), (0.4, 0.2), (1.0, 0.2)):
        assert loss.radius(share) == pytest.approx(radius)
        worst = bound_logits(trained, images, labels, radius)
        found = loss(trained, images, labels, generator, share)
        torch.testing.assert_close(found, functional.cross_entropy(worst, labels))
        assert found > clean
    assert IntervalLoss(0.2, 0.0).radius(0.0) == 0.2


def test_the_gradient_is_that_of_finite_differences(
    trained: nn.Sequential, make_images: Callable[..., Tensor]
) -> None:
    images, labels = make_images(4, seed=2).double(), torch.arange(4)
    loss, generator = IntervalLoss(epsilon=0.1, warm_up=0.0), torch.Generator()
    parameters = list(trained.parameters())
    gradients = torch.autograd.grad(loss(trained, images, labels, generator), parameters)
    for seed, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        step = 1e-8 * random(*parameter.shape, seed=seed)
        with torch.no_grad():
            parameter.add_(step)
            above = loss(trained, images, labels, generator)
            parameter.sub_(2 * step)
            below = loss(trained, images, labels, generator)
            parameter.add_(step)
        torch.testing.assert_close((gradient * step).sum(), (above - below) / 2, rtol=1e-4, atol=1e-13)


def test_the_initial_weights_keep_the_length_of_the_intervals(make_images: Callable[..., Tensor]) -> None:
    lengths = {}
    for drawn in (False, True):
        network = IntervalCNN()
        layers = network.layers[network.front :]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if drawn:
                initialise_for_intervals(layers)
        given = ball(make_images(8), 0.1)
        found = propagate(layers[:-1], given)
        lengths[drawn] = (found.radii.mean() / given.radii.mean()).item()
    assert lengths[True] == pytest.approx(1, abs=0.3)
    assert lengths[False] > 10


def test_other_layers_are_refused() -> None:
    for layer in (nn.Sigmoid(), nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")):
        with pytest.raises(AbsynthError, match=f"do not pass through {type(layer).__name__}; they pass"):
            propagate([layer], ball(torch.zeros(1, 1, 4, 4), 0.1))


@pytest.mark.parametrize(
    "change", [{"epsilon": 0.0}, {"epsilon": 0.5}, {"epsilon": float("nan")}, {"warm_up": 1.1}]
)
def test_senseless_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AbsynthError, match=r"radius above 0 and below 0\.5"):
        IntervalLoss(**change)
