"""Tests of what the attacks along the gradient spend on images that are finished."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from absynth.attacks.gradient_descent import ProjectedGradient, smallest_radius
from absynth.attacks.target import Target


class Ball(nn.Module):
    """Class 0 within a distance of the middle of the box, class 1 beyond it."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, images: Tensor) -> Tensor:
        distance = (images - 0.5).flatten(1).square().sum(1).clamp(min=1e-12).sqrt()
        return torch.stack([self.radius - distance, distance - self.radius], dim=1)


def images_near_the_middle() -> Tensor:
    return 0.5 + 0.05 * torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def test_an_image_leaves_the_batch_when_its_radius_is_known() -> None:
    images, labels = images_near_the_middle(), torch.zeros(4, dtype=torch.int64)
    attack = ProjectedGradient("bim", "l2", steps=4, runs=40, relative_step=0.5)
    patient = replace(attack, tolerance=0.0)(Ball(1.0), images, labels)
    result = attack(Ball(1.0), images, labels)
    assert result.success.all()
    assert bool((result.queries < patient.queries / 3).all())
    torch.testing.assert_close(result.distances, patient.distances, rtol=attack.tolerance, atol=0)


def test_only_images_without_a_radius_are_asked_about_a_larger_one() -> None:
    images = images_near_the_middle()
    direction = torch.zeros_like(images)
    direction[:, :, 0, 0] = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None]
    target = Target(Ball(0.6), torch.zeros(4, dtype=torch.int64))

    def path(radius: Tensor) -> Tensor:
        return images + radius[:, None, None, None] * direction

    radius, found = smallest_radius(target, path, torch.full((4,), 8.0), bisections=0)
    assert found.tolist() == [True, True, False, False]
    assert bool((radius[:2] <= 1).all())
    assert target.queries[:2].max() < 8
    assert target.queries[2:].tolist() == [10, 10]
