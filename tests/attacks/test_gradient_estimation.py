"""Estimated gradients: exact or unbiased where the model is linear, one image apart from another, counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from absynth.attacks import find_attack
from absynth.attacks.gradient_descent import FastGradient, ProjectedGradient
from absynth.attacks.gradient_estimation import EstimatedGradient, Estimator, WithEstimatedGradient
from absynth.errors import AbsynthError
from absynth.models.asked import LOOKED_AT

SIDE = 4
VALUES = SIDE * SIDE


def linear() -> nn.Sequential:
    """In float64, so that differences cost no digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 3)).double()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, dtype=torch.float64)


def gradient(model: nn.Module, inputs: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the weighted sum of all logits."""
    inputs = inputs.clone().requires_grad_()
    (result,) = torch.autograd.grad((model(inputs) * weights).sum(), inputs)
    return result


@pytest.mark.parametrize("method", ["coordinates", "antithetic"])
def test_the_logits_are_those_of_the_model(method: str) -> None:
    model, inputs = linear(), images()
    estimated = EstimatedGradient(model, 3, method=method)
    assert torch.equal(estimated(inputs), model(inputs))
    assert torch.equal(estimated(inputs.clone().requires_grad_()), model(inputs))


@given(seed=st.integers(0, 10**6), sigma=st.floats(1e-4, 1.0))
def test_coordinates_are_exact_for_a_linear_model(seed: int, sigma: float) -> None:
    torch.manual_seed(seed)
    model, inputs, weights = linear(), images(), torch.randn(5, 3).double()
    estimated = EstimatedGradient(model, sigma=sigma, method="coordinates")
    torch.testing.assert_close(gradient(estimated, inputs, weights), gradient(model, inputs, weights))


@pytest.mark.parametrize("samples", [VALUES, 3 * VALUES])
def test_as_many_orthogonal_directions_as_values_are_exact_too(samples: int) -> None:
    model, inputs, weights = linear(), images(), torch.randn(5, 3).double()
    estimated = EstimatedGradient(model, samples)
    torch.testing.assert_close(gradient(estimated, inputs, weights), gradient(model, inputs, weights))


@pytest.mark.parametrize("samples", [1, 5, VALUES + 3])
def test_random_directions_are_right_on_average(samples: int) -> None:
    model, inputs, weights = linear(), images(2), torch.randn(2, 3).double()
    estimated = EstimatedGradient(model, samples)
    draws = torch.stack([gradient(estimated, inputs, weights) for _ in range(1000)])
    error = draws.mean(dim=0) - gradient(model, inputs, weights)
    standard_error = draws.std(dim=0) / 1000**0.5
    assert (error.abs() <= 5 * standard_error + 1e-9).all()
    assert draws.std(dim=0).amax() > 1e-3


@pytest.mark.parametrize("method", ["coordinates", "antithetic"])
def test_a_smooth_model_is_followed_closely(method: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs, weights = images(), torch.randn(5, 3).double()
    estimated = EstimatedGradient(model, VALUES, sigma=1e-4, method=method)
    torch.testing.assert_close(
        gradient(estimated, inputs, weights), gradient(model, inputs, weights), rtol=1e-4, atol=1e-6
    )


def test_images_of_a_batch_do_not_mix() -> None:
    model, inputs = linear(), images(3)
    weights = torch.zeros(3, 3).double()
    weights[1, 2] = 1.0
    result = gradient(EstimatedGradient(model, 4), inputs, weights)
    assert (result[0] == 0).all() and (result[2] == 0).all() and (result[1] != 0).any()


def test_the_directions_are_private_and_seeded() -> None:
    model, inputs, weights = linear(), images(), torch.ones(5, 3).double()
    state = torch.get_rng_state()
    first = gradient(EstimatedGradient(model, 4, seed=1), inputs, weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, gradient(EstimatedGradient(model, 4, seed=1), inputs, weights))
    assert not torch.equal(first, gradient(EstimatedGradient(model, 4, seed=2), inputs, weights))


class Counting(nn.Module):
    """Counts the images that it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.shown = 0

    def forward(self, inputs: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.shown += len(inputs)
        logits: Tensor = self.model(inputs)
        return logits


def test_queries_are_counted_and_the_model_is_never_differentiated() -> None:
    model, inputs = Counting(linear()), images()
    estimated = EstimatedGradient(model, 7)
    estimated(inputs)
    assert estimated.queries.tolist() == [1] * 5
    gradient(estimated, inputs, torch.ones(5, 3))
    assert estimated.queries.tolist() == [15] * 5
    assert model.shown == 5 + 15 * 5


def test_one_set_of_differences_serves_all_gradients_at_the_same_images() -> None:
    model, inputs = linear(), images().requires_grad_()
    estimated = EstimatedGradient(model, 7)
    logits = estimated(inputs)
    for label in range(3):
        torch.autograd.grad(logits[:, label].sum(), inputs, retain_graph=True)
    assert estimated.queries.tolist() == [15] * 5


@pytest.mark.parametrize(
    ("attack", "method"),
    [
        (FastGradient("fgm", "l2"), "coordinates"),
        (ProjectedGradient("bim", "linf", steps=3, runs=2), "antithetic"),
        (find_attack("deepfool", "l2", "quick"), "coordinates"),
    ],
)
def test_an_attack_accounts_for_every_query(attack: FastGradient, method: str) -> None:
    model = linear().float()
    inputs = images().float()
    labels = model(inputs).argmax(dim=1)

    class Blind(Counting):
        def forward(self, inputs: Tensor) -> Tensor:
            self.shown += len(inputs)
            with torch.no_grad():
                return self.model(inputs)

    counting = Blind(model)
    result = WithEstimatedGradient(attack, 4, method=method)(counting, inputs, labels)
    assert result.success.all()
    # the door looks at how the model answers two of them, which is no query of the attack
    assert int(result.queries.sum()) == counting.shown - LOOKED_AT


@pytest.mark.parametrize("method", ["coordinates", "antithetic"])
def test_every_tensor_is_made_on_the_device_of_the_images(method: str) -> None:
    model, inputs, weights = linear(), images(), torch.rand(5, 3, dtype=torch.float64)
    expected = gradient(EstimatedGradient(model, 3, method=method), inputs, weights)
    # A tensor that is made without saying where would be on this device, and could not meet the others.
    with torch.device("meta"):
        found = gradient(EstimatedGradient(model, 3, method=method), inputs, weights)
    assert torch.equal(found, expected)


def test_exact_estimates_change_nothing() -> None:
    model, inputs = linear(), images()
    labels = model(inputs).argmax(dim=1)
    plain = FastGradient("fgm", "l2")
    estimated = WithEstimatedGradient(plain, method="coordinates")
    assert (estimated.name, estimated.norm) == ("fgm-estimated", "l2")
    first, second = plain(model, inputs, labels), estimated(model, inputs, labels)
    torch.testing.assert_close(first.distances, second.distances)
    assert (second.queries == first.queries + 2 * VALUES).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"samples": 0}, "from 0 samples"),
        ({"sigma": 0.0}, "sigma above 0"),
        ({"sigma": float("nan")}, "sigma above 0"),
    ],
)
def test_bad_settings(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        Estimator(**arguments)
    with pytest.raises(AbsynthError, match=sentence):
        EstimatedGradient(linear(), **arguments)
    with pytest.raises(AbsynthError, match=sentence):
        WithEstimatedGradient(FastGradient("fgm", "l2"), **arguments)
