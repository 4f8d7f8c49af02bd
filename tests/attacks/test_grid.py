"""Adversarials on the grid of 8 bits: they stay adversarial, and a picture holds them as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import absynth
from absynth.attacks.grid import candidates
from absynth.errors import AbsynthError
from absynth.norms import Norm, distance


class Brightness(nn.Module):
    """Two classes by the weighted sum of the pixels, whose boundary lies off the grid."""

    def forward(self, images: Tensor) -> Tensor:
        weights = torch.linspace(0.5, 1.5, 16).to(images)
        value = images.flatten(1) @ weights / 16 - 0.4983
        return torch.stack([-value, value], dim=1)


@pytest.mark.parametrize("norm", ["l2", "l1", "linf", "l0"])
@pytest.mark.parametrize("grid", [255, 15, 3])
def test_adversarials_are_on_the_grid_and_adversarial_there(norm: Norm, grid: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, grid + 1, (8, 1, 4, 4), generator=generator) / grid
    model = Brightness()
    labels = model(images).argmax(1)
    plain = absynth.attack(model, images, labels, norm=norm, suite="quick")
    result = absynth.attack(model, images, labels, norm=norm, suite="quick", grid=grid)
    assert result.success.all()
    steps = (result.adversarials * grid).round()
    assert torch.equal(steps / grid, result.adversarials)
    assert (model(result.adversarials).argmax(1) != labels).all()
    assert torch.equal(result.distances, distance(images, result.adversarials, norm))
    # to the boundary it is no further than to the nearest adversarial of the grid
    assert (result.distances >= plain.distances * 0.99).all()
    if grid == 255 and norm == "linf":
        assert (result.distances <= plain.distances + 2 / 255).all()


def test_rounding_outwards_keeps_the_perturbation_and_what_has_not_moved() -> None:
    images = torch.tensor([0.0, 10, 20, 30, 40])[None, None, None] / 255
    adversarials = torch.tensor([0.0, 10.2, 19.8, 33.5, 33.0])[None, None, None] / 255
    nearest, outwards, *_ = candidates(images, adversarials, 255)
    assert (255 * nearest).round().flatten().tolist() == [0, 10, 20, 34, 33]
    assert (255 * outwards).round().flatten().tolist() == [0, 11, 19, 34, 33]


def test_what_rounding_takes_back_is_not_found() -> None:
    class Narrow(nn.Module):
        """Of another class only between two steps of the grid."""

        def forward(self, images: Tensor) -> Tensor:
            inside = ((images.flatten(1).mean(1) * 2 - 0.5).abs() < 0.2).float()
            return torch.stack([1 - inside, inside + 0 * images.flatten(1).sum(1)], dim=1)

    images = torch.zeros(1, 1, 2, 2)
    labels = torch.tensor([0])
    assert absynth.attack(Narrow(), images, labels, norm="linf", suite="quick").success.all()
    result = absynth.attack(Narrow(), images, labels, norm="linf", suite="quick", grid=1)
    assert not result.success.any()
    assert result.distances.isinf().all()
    assert torch.equal(result.adversarials, images)
    assert any("1 adversarials did not survive rounding" in remark for remark in result.remarks)


def test_a_grid_without_steps_is_refused() -> None:
    with pytest.raises(
        AbsynthError, match=r"steps of the grid \(255 for 8 bits\) is 0; it must be at least 1"
    ):
        absynth.attack(Brightness(), torch.zeros(1, 1, 4, 4), torch.tensor([0]), suite="quick", grid=0)


@pytest.mark.parametrize(("norm", "shift", "told"), [("l0", 1e-7, 3), ("l2", 1e-7, 0), ("l2", 1e-3, 3)])
def test_images_off_the_grid_are_told(norm: Norm, shift: float, told: int) -> None:
    images = torch.linspace(0, 255, 64).round().reshape(4, 1, 4, 4).double() / 255
    images[:3] = images[:3] * (1 - 2 * shift) + shift
    model = Brightness()
    result = absynth.attack(model, images, model(images).argmax(1), norm=norm, suite="quick", grid=255)
    remarks = [one for one in result.remarks if "not multiples of 1/255 themselves" in one]
    assert [one.partition(" ")[0] for one in remarks] == ([str(told)] if told else [])
    if told and norm == "l0":
        assert result.distances[:3].tolist() == [16, 16, 16], "rounding alone changes every pixel"
