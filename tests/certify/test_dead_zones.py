"""Bounds on all rivals behind a clamp, from matrix products, against the half-spaces one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from absynth.certify.dead_zones import clamped_bounds, pixel_weights
from absynth.certify.front import Clamp
from absynth.certify.halfspace import crossing
from absynth.certify.search import SEEDS

CLAMP = Clamp(low=0.125, high=0.8125)
PIXELS, IMAGES, RIVALS = 60, 5, 400


def scene(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of few grey pixels, an own prototype near each, rivals, and margins."""
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.rand(IMAGES, PIXELS, generator=generator).round()
    grey = torch.rand(IMAGES, PIXELS, generator=generator)
    images = torch.where(grey < 0.2, grey * 5, shapes)
    own = (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    rivals = torch.rand(RIVALS, PIXELS, generator=generator)
    rivals = torch.where(rivals < 0.3, rivals, rivals.round())
    seen = CLAMP.see(images)
    scores = torch.cdist(seen, rivals).square() - (seen - own).square().sum(1, keepdim=True)
    return images, own, rivals, (scores / 2).clamp(min=0)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_lie_between_those_without_dead_zones_and_the_distances(seed: int) -> None:
    images, own, rivals, margins = scene(seed)
    plain = margins / (2 * torch.cdist(own, rivals))
    seeds = plain.topk(SEEDS, largest=False).indices
    bounds = clamped_bounds(
        images, own, rivals[seeds], margins.gather(1, seeds), rivals, margins, CLAMP, relative=1e-5
    )
    gradient = 2 * (rivals.double() - own.double()[:, None])
    distances = crossing(gradient, margins.double(), images.double()[:, None], "l2", CLAMP).distance
    assert bool((bounds <= distances).all())
    near = distances.topk(SEEDS, dim=1, largest=False).indices
    gained = bounds.gather(1, near) - plain.gather(1, near)
    missing = distances.gather(1, near) - bounds.gather(1, near)
    assert float(gained.mean()) > 0.4
    assert float(missing.mean()) < 0.05


def test_pixels_count_in_part_where_using_them_costs_more() -> None:
    # Black, grey, in the dead zone half way, white; the own prototype is black everywhere.
    image = torch.tensor([[0.0, 0.5, 0.0625, 1.0]]).double()
    own = torch.zeros_like(image)
    weights = pixel_weights(image, own, torch.tensor([1.0]).double(), CLAMP)[0]
    assert float(weights[1]) == 1
    # Going all the way takes the dead zone and the room that is left: the lesser of both weights counts.
    assert float(weights[0]) == pytest.approx((0.6875 / 0.8125) ** 2)
    assert float(weights[0]) < float(weights[2]) < 1
    # No move of a white pixel by less than a multiplier of this size pays for its dead zone.
    assert float(pixel_weights(image, own, torch.tensor([0.05]).double(), CLAMP)[0, 3]) == 0
