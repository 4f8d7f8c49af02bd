"""The Pointwise attack: no pixel is left that could be reset, and no query is wasted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import absynth
from absynth.attacks.noise import escalate
from absynth.attacks.pointwise import Pointwise, move_pixels, reset_pixels, thin_noise
from absynth.attacks.target import Target
from absynth.data import load_dataset
from absynth.norms import distance

SIDE = 6


def wiggly_model(seed: int) -> nn.Sequential:
    """A network for which resetting one pixel can make another needed, or free again."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 12), nn.Tanh(), nn.Linear(12, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def resettable(model: nn.Module, images: Tensor, adversarials: Tensor, labels: Tensor) -> int:
    """How many single pixels could still be reset, over all images, by brute force."""
    count = 0
    for image, adversarial, label in zip(images, adversarials, labels, strict=True):
        for row, column in (image != adversarial).any(dim=0).nonzero().tolist():
            trial = adversarial.clone()
            trial[:, row, column] = image[:, row, column]
            count += int(model(trial[None]).argmax() != label)
    return count


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), images_seed=st.integers(0, 10**6), count=st.integers(1, 5))
def test_no_single_pixel_can_be_reset(seed: int, images_seed: int, count: int) -> None:
    model = wiggly_model(seed)
    images = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(images_seed))
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
        result = Pointwise("pointwise", "l0", repetitions=2)(model, images, labels, seed=seed)
        found = result.success
        assert resettable(model, images[found], result.adversarials[found], labels[found]) == 0


def test_colour_pixels_are_reset_whole() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    images = torch.rand(4, 3, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    result = Pointwise("pointwise", "l0")(model, images, labels)
    changed = images != result.adversarials
    assert torch.equal(changed.any(dim=1).sum(dim=(1, 2)).double(), result.distances)
    assert resettable(model, images[result.success], result.adversarials[result.success], labels) == 0


class OnePixel(nn.Module):
    """Changes its decision exactly when the first pixel is bright."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.full_like(images[:, 0, 0, 0], 0.5), images[:, 0, 0, 0]], dim=1)


def test_group_testing_finds_the_one_needed_pixel_in_few_queries() -> None:
    images, adversarials = torch.zeros(3, 1, 20, 20), torch.ones(3, 1, 20, 20)
    labels, success = torch.zeros(3, dtype=torch.int64), torch.tensor([True, True, False])
    target = Target(OnePixel(), labels)
    result = reset_pixels(target, images, adversarials, success, max_queries=1000)
    assert distance(images, result, "l0").tolist() == [1, 1, 400]
    assert (target.queries[:2] <= 40).all()
    assert target.queries[2] == 0


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), channels=st.sampled_from([1, 3]), queries=st.integers(0, 60))
def test_thinned_noise_is_still_noise_that_fools_the_model(seed: int, channels: int, queries: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * SIDE * SIDE, 3)).requires_grad_(False)
    images = torch.rand(6, channels, SIDE, SIDE)
    target = Target(model, model(images).argmax(dim=1))
    start = escalate(target, images, "salt-and-pepper", levels=4)
    asked = target.queries.clone()
    thinned = thin_noise(target, images, start.images, start.success, queries)
    assert (target.queries - asked <= queries * start.success).all()
    assert target.is_adversarial(thinned)[start.success].all()
    assert torch.equal(thinned[~start.success], start.images[~start.success])
    assert (distance(images, thinned, "l0") <= distance(images, start.images, "l0")).all()
    changed = thinned != images
    assert ((thinned[changed] == 0) | (thinned[changed] == 1)).all()
    # a pixel is perturbed in all channels alike
    values = torch.where(changed.any(dim=1, keepdim=True), thinned, 0.0)
    assert torch.equal(values, values[:, :1].expand_as(values))


def test_thinning_saves_pixels_for_few_queries() -> None:
    images, labels = (values[:40] for values in load_dataset("mnist", "test"))
    model = absynth.load("cnn")
    plain = Pointwise("pointwise", "l0", repetitions=1, exchanges=0)(model, images, labels)
    thinned = Pointwise("pointwise", "l0", repetitions=1)(model, images, labels)
    both = plain.success & thinned.success
    assert thinned.distances[both].mean() < 0.8 * plain.distances[both].mean()
    assert thinned.queries[both].double().mean() < 1.5 * plain.queries[both].double().mean()


def test_queries_are_limited() -> None:
    images, adversarials = torch.zeros(2, 1, 20, 20), torch.ones(2, 1, 20, 20)
    target = Target(OnePixel(), torch.zeros(2, dtype=torch.int64))
    result = reset_pixels(target, images, adversarials, torch.ones(2, dtype=torch.bool), max_queries=3)
    assert target.queries.tolist() == [3, 3]
    assert target.is_adversarial(result).all()


def test_values_move_to_the_boundary() -> None:
    images, adversarials = torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3)
    target = Target(OnePixel(), torch.zeros(2, dtype=torch.int64))
    moved = move_pixels(target, images, adversarials, torch.ones(2, dtype=torch.bool), max_queries=1000)
    assert target.is_adversarial(moved).all()
    torch.testing.assert_close(
        distance(images, moved, "l2"), torch.full((2,), 0.5).double(), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_more_repetitions_come_closer(norm: str) -> None:
    model = wiggly_model(3)
    images = torch.rand(8, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    once = Pointwise("pointwise", norm, repetitions=1)(model, images, labels)
    often = Pointwise("pointwise", norm, repetitions=8)(model, images, labels)
    assert often.distances.nan_to_num(posinf=99).mean() < once.distances.nan_to_num(posinf=99).mean()
    assert often.queries.sum() > 4 * once.queries.sum()


def test_an_image_that_cannot_beat_the_limit_is_given_up() -> None:
    images, adversarials = torch.zeros(2, 1, 20, 20), torch.ones(2, 1, 20, 20)
    target, success = Target(OnePixel(), torch.zeros(2, dtype=torch.int64)), torch.tensor([True, True])
    result = reset_pixels(target, images, adversarials, success, 1000, limit=torch.tensor([1.0, 2.0]))
    assert distance(images, result, "l0")[1] == 1
    assert target.is_adversarial(result).all()
    assert target.queries[0] <= target.queries[1]
