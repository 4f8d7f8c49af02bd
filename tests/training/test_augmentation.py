import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from absynth.training.augmentation import Perturbation, augment, distort


def centroids(images: Tensor) -> Tensor:
    """The centre of mass of each image's light, in pixels (row, column)."""
    mass = images.sum((1, 2, 3))
    places = torch.arange(28.0)
    rows = (images.sum((1, 3)) * places).sum(1) / mass
    columns = (images.sum((1, 2)) * places).sum(1) / mass
    return torch.stack([rows, columns], dim=1)


def dots(count: int, row: float, column: float) -> Tensor:
    places = torch.arange(28.0)
    blob = (-((places[:, None] - row) ** 2 + (places - column) ** 2) / 4).exp()
    return blob.expand(count, 1, 28, 28)


def test_shape_and_range_are_kept(make_images: Callable[..., Tensor]) -> None:
    images = make_images(20)
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert 0 <= moved.min() < moved.max() <= 1
    assert augment(torch.zeros(2, 1, 28, 28), torch.Generator()).abs().max() == 0


def test_each_image_moves_by_its_own_amount() -> None:
    moved = centroids(augment(dots(40, 13.5, 13.5), torch.Generator().manual_seed(0)))
    assert torch.cdist(moved, moved).fill_diagonal_(9).min() > 1e-3


def test_the_centre_moves_by_at_most_one_pixel_each_way() -> None:
    shifts = centroids(augment(dots(400, 13.5, 13.5), torch.Generator().manual_seed(0))) - 13.5
    # A turn by 5 degrees and a scale of 0.95 lengthen a shift of 1 along each axis to at most this.
    assert shifts.abs().max() < (math.cos(math.radians(5)) + math.sin(math.radians(5))) / 0.95
    assert (shifts.amax(dim=0) > 0.9).all()
    assert (shifts.amin(dim=0) < -0.9).all()
    assert shifts.mean(dim=0).abs().max() < 0.1


def test_turns_and_sizes_stay_within_five_degrees_and_five_percent() -> None:
    pairs = torch.stack([dots(300, 13.5, 6.5), dots(300, 13.5, 20.5)])
    left, right = (centroids(augment(images, torch.Generator().manual_seed(1))).double() for images in pairs)
    vectors = right - left
    lengths = vectors.norm(dim=1) / 14
    angles = torch.atan2(vectors[:, 0], vectors[:, 1]).rad2deg()
    assert 1 / 1.05 - 0.005 < lengths.min() < 0.965
    assert 1.035 < lengths.max() < 1 / 0.95 + 0.005
    assert 4.5 < angles.max() < 5.2
    assert -5.2 < angles.min() < -4.5


@pytest.mark.parametrize("count", [1, 2, 7])
def test_half_a_batch_is_bent_and_the_rest_left(make_images: Callable[..., Tensor], count: int) -> None:
    images = make_images(count)
    bent = distort(images, torch.Generator().manual_seed(0))
    assert bent.shape == images.shape
    assert 0 <= bent.min() < bent.max() <= 1
    changed = (bent != images).flatten(1).any(dim=1)
    assert changed.tolist() == [row < count // 2 for row in range(count)]


def test_bending_moves_light_by_a_pixel_or_so_and_each_image_by_its_own_map() -> None:
    moved = centroids(distort(dots(400, 13.5, 9.0), torch.Generator().manual_seed(0))[:200])
    shifts = moved - torch.tensor([13.5, 9.0])
    assert 0.2 < shifts.std() < 1
    assert shifts.mean(dim=0).abs().max() < 0.2
    assert torch.cdist(moved, moved).fill_diagonal_(9).min() > 1e-4


@pytest.mark.parametrize("change", [augment, distort])
def test_the_generator_decides(make_images: Callable[..., Tensor], change: Perturbation) -> None:
    images, state = make_images(3), torch.random.get_rng_state()
    first, second = (change(images, torch.Generator().manual_seed(5)) for _ in range(2))
    other = change(images, torch.Generator().manual_seed(6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
