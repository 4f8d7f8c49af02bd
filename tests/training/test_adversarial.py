"""Attacked batches: the ascent against closed forms, and what is measured with it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.models.cnn import StridedCNN
from absynth.progress import Progress
from absynth.training.adversarial import Adversary, measure_robustness

Tensors = tuple[Tensor, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Two classes: class 1 where ⟨w, x⟩ > threshold."""

    def __init__(self, weights: Tensor, threshold: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1) @ self.weights - self.threshold) / 2
        return torch.stack([-score, score], dim=1)


@pytest.fixture
def linear() -> Linear:
    return Linear(torch.randn(784, generator=generator(1)))


@pytest.fixture
def data(make_images: Callable[..., Tensor]) -> Tensors:
    """Images of which many pixels are closer to the box's border than any ε below."""
    images = (make_images(12) * 1.6 - 0.3).clamp(0, 1)
    return images, torch.arange(12) % 2


def worst_case(model: Linear, data: Tensors, epsilon: float) -> Tensor:
    """Against a linear model every pixel goes as far as ball and box let it, against its label's weight."""
    images, labels = data
    direction = model.weights.detach().sign().view(1, 1, 28, 28) * (1 - 2 * labels)[:, None, None, None]
    return (images + epsilon * direction).clamp(0, 1)


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_on_a_linear_model_the_ascent_ends_at_the_worst_case(
    linear: Linear, data: Tensors, epsilon: float, steps: int
) -> None:
    attacked = Adversary(epsilon, steps)(linear, *data, generator())
    torch.testing.assert_close(attacked, worst_case(linear, data, epsilon), rtol=0, atol=1e-6)


def test_a_reach_below_the_balls_width_does_not_always_get_there(linear: Linear, data: Tensors) -> None:
    attacked = Adversary(0.3, 10, reach=1.0)(linear, *data, generator())
    assert (attacked - worst_case(linear, data, 0.3)).abs().max() > 0.1


def test_a_very_sure_answer_is_attacked_through_its_own_logit_as_well(data: Tensors) -> None:
    class Sure(nn.Module):
        """Class 0 by far, the more so the brighter the upper half; the lower half speaks for class 1."""

        def forward(self, images: Tensor) -> Tensor:
            upper, lower = images.flatten(1).tensor_split(2, dim=1)
            return torch.stack([25 + upper.mean(1), lower.mean(1)], dim=1)

    images, labels = data[0], torch.zeros_like(data[1])
    attacked = Adversary(0.1)(Sure(), images, labels, generator())
    expected = torch.cat([images[:, :, :14] - 0.1, images[:, :, 14:] + 0.1], dim=2).clamp(0, 1)
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 2.0])
def test_the_points_stay_in_the_ball_and_in_the_box(data: Tensors, epsilon: float) -> None:
    images, labels = data
    attacked = Adversary(epsilon)(StridedCNN(2), images, labels, generator())
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (attacked - images).abs().max() <= epsilon + 1e-6
    assert not attacked.requires_grad


def test_the_loss_rises_with_every_further_step(data: Tensors) -> None:
    network = StridedCNN(2)

    def loss(attacked: Tensor) -> float:
        return functional.cross_entropy(network(attacked), data[1]).item()

    step = 0.02
    losses = [
        loss(Adversary(0.1, steps, reach=step * steps / 0.1)(network, *data, generator()))
        for steps in range(1, 6)
    ]
    assert loss(data[0]) < losses[0]
    assert losses == sorted(losses)


def test_the_start_is_drawn_evenly_from_the_ball(linear: Linear) -> None:
    grey = torch.full((50, 1, 28, 28), 0.5)
    labels = torch.zeros(50, dtype=torch.int64)
    resting = Adversary(0.3, 1, reach=1e-6)
    moved = (resting(linear, grey, labels, generator()) - grey) / 0.3
    assert moved.mean().abs() < 0.02
    assert moved.square().mean() == pytest.approx(1 / 3, abs=0.01)
    assert moved.abs().max() == pytest.approx(1, abs=1e-3)
    assert torch.equal(resting(linear, grey, labels, generator()), resting(linear, grey, labels, generator()))
    assert not torch.equal(
        resting(linear, grey, labels, generator()), resting(linear, grey, labels, generator(1))
    )


def test_nothing_of_the_caller_is_changed(data: Tensors) -> None:
    network, images = StridedCNN(2), data[0].clone()
    state = torch.random.get_rng_state()
    with torch.no_grad():
        Adversary()(network, *data, generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(data[0], images)
    assert not data[0].requires_grad
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())


def test_the_radius_grows_linearly_to_its_full_size(linear: Linear, data: Tensors) -> None:
    adversary = Adversary(0.2, 4, warm_up=0.4)
    for share, radius in ((0.0, 0.0), (0.1, 0.05), (0.2, 0.1), (0.4, 0.2), (1.0, 0.2)):
        assert adversary.radius(share) == pytest.approx(radius)
        attacked = adversary(linear, *data, generator(), share)
        torch.testing.assert_close(attacked, worst_case(linear, data, radius), rtol=0, atol=1e-6)
    assert Adversary(0.2).radius(0.0) == 0.2


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"epsilon": float("nan")},
        {"steps": 0},
        {"reach": 0.0},
        {"warm_up": 1.1},
        {"warm_up": -0.1},
    ],
)
def test_senseless_adversaries_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AbsynthError, match="radius above 0, at least 1 step"):
        Adversary(**change)


def test_both_accuracies_of_a_linear_model_are_the_known_ones(progress: Progress) -> None:
    """Grey images of value v against 'brighter than ½': wrong within ε of ½ on the label's side."""
    values = torch.tensor([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    labels = (values > 0.5).long()
    labels[0] = 1
    images = values[:, None, None, None].expand(-1, 1, 28, 28)
    bright = Linear(torch.full((784,), 40 / 784), 20)
    for epsilon, attacked in ((0.01, 0.9), (0.1, 0.7), (0.2, 0.5), (0.42, 0.1)):
        found = measure_robustness(
            bright,
            images,
            labels,
            Adversary(epsilon),
            restarts=2,
            seed=0,
            progress=progress,
            batch_size=3,
        )
        assert found.clean == pytest.approx(0.9)
        assert found.attacked == pytest.approx(attacked)
    task = progress.tasks[-1]
    assert task.completed == task.total == 2
    assert task.fields["note"] == "90.0% right, 10.0% under attack"


def test_a_restart_goes_on_with_the_images_that_no_other_fooled(
    data: Tensors, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that fools the first of the images it is given, by turning it into one of the other class."""
    images = torch.arange(2.0)[data[1]][:, None, None, None].expand(-1, 1, 28, 28)
    bright = Linear(torch.full((784,), 40 / 784), 20)
    attacked: list[int] = []

    def fooling_one(_: Adversary, __: nn.Module, given: Tensor, *___: Any) -> Tensor:
        attacked.append(len(given))
        return torch.cat([1 - given[:1], given[1:]])

    monkeypatch.setattr(Adversary, "__call__", fooling_one)
    found = measure_robustness(bright, images, data[1], Adversary(), restarts=3, seed=0, progress=progress)
    assert attacked == [12, 11, 10]
    assert (found.clean, found.attacked) == (1.0, 9 / 12)
