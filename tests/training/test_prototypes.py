"""Prototypes that are free in every pixel, and the margin that they are trained for."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.training.prototypes import BisectorLoss, FreePrototypes, bisector_distance, closest_pairs

LABELS = torch.arange(12) % 3


@pytest.fixture
def prototypes(make_images: Callable[..., Tensor]) -> FreePrototypes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FreePrototypes(make_images(12), LABELS, 3)


def test_they_start_from_images_of_their_class(
    prototypes: FreePrototypes, make_images: Callable[..., Tensor]
) -> None:
    assert prototypes.images.shape == (3, 3, 784)
    images = make_images(12).flatten(1)
    for label, own in enumerate(prototypes.images):
        found = {int((images == row).all(1).nonzero()) for row in own}
        assert len(found) == 3
        assert {int(LABELS[number]) for number in found} == {label}


def test_a_class_of_few_images_uses_them_again(make_images: Callable[..., Tensor]) -> None:
    found = FreePrototypes(make_images(3), torch.tensor([0, 1, 1]), 4).images
    assert all(torch.equal(row, found[0, 0]) for row in found[0])
    assert len(found[1].unique(dim=0)) == 2


def test_the_pairs_are_those_of_a_search_one_by_one(
    prototypes: FreePrototypes, make_images: Callable[..., Tensor]
) -> None:
    images = make_images(6, seed=5).double().flatten(1)
    table = prototypes.images.detach().double()
    own, rival = closest_pairs(table, images, LABELS[:6])
    rows = table.flatten(0, 1)
    for number, label in enumerate(LABELS[:6].tolist()):
        mine = range(3 * label, 3 * label + 3)
        best = min(mine, key=lambda k: float((images[number] - rows[k]).norm()))
        assert own[number] == best
        apart = {
            k: float(bisector_distance(images[number][None], rows[best][None], rows[k][None]))
            for k in range(9)
            if k not in mine
        }
        assert rival[number] == min(apart, key=lambda k: apart[k])


def test_at_the_distance_of_the_bisector_both_are_as_near(make_images: Callable[..., Tensor]) -> None:
    image, own, rival = make_images(3).double().flatten(1).split(1)
    distance = bisector_distance(image, own, rival)
    moved = image + distance * functional.normalize(rival - own)
    assert (moved - own).norm() == pytest.approx(float((moved - rival).norm()))
    assert float(bisector_distance(image, rival, own)) == pytest.approx(-float(distance))


def test_the_loss_is_its_formula_and_pixels_come_back_into_the_box(
    prototypes: FreePrototypes, make_images: Callable[..., Tensor]
) -> None:
    with torch.no_grad():
        prototypes.images[0, 0, :3] = torch.tensor([-0.5, 0.25, 1.5])
    images = make_images(6, seed=5)
    loss = BisectorLoss(target=2.0, sharpness=3.0)(prototypes, images, LABELS[:6], torch.Generator())
    assert prototypes.images[0, 0, :3].tolist() == [0, 0.25, 1]
    flat, rows = images.flatten(1), prototypes.images.detach().flatten(0, 1)
    own, rival = closest_pairs(prototypes.images.detach(), flat, LABELS[:6])
    distances = bisector_distance(flat, rows[own], rows[rival]).tolist()
    expected = sum(math.log1p(math.exp(3 * (2.0 - one))) / 3 for one in distances) / 6
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert prototypes.images.grad is not None
    moved = prototypes.images.grad.flatten(0, 1).abs().sum(1).nonzero()[:, 0]
    assert set(moved.tolist()) == {*own.tolist(), *rival.tolist()}


@pytest.mark.parametrize("change", [{"target": 0.0}, {"target": math.inf}, {"sharpness": math.nan}])
def test_senseless_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(AbsynthError, match="above 0"):
        BisectorLoss(**change)
