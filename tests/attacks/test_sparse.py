"""The sparse search: pixels that are exchanged, and few of them where gradients are of no use."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from absynth.attacks import find_attack
from absynth.attacks.sparse import SparseSearch, exchange, extreme, random_one, without_one


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_an_exchange_moves_one_pixel(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    chosen = torch.rand(4, 9) < share
    moved = exchange(chosen)
    assert torch.equal(moved.sum(dim=1), chosen.sum(dim=1))
    full = chosen.all(dim=1) | ~chosen.any(dim=1)
    assert torch.equal((moved & ~chosen).sum(dim=1), (~full).long())
    assert torch.equal(without_one(chosen).sum(dim=1), (chosen.sum(dim=1) - 1).clamp(min=0))
    assert not (without_one(chosen) & ~chosen).any()


def test_every_pixel_has_its_turn() -> None:
    chosen = torch.tensor([[True, False, True, True]]).repeat(3000, 1)
    share = random_one(chosen).float().mean(dim=0)
    torch.testing.assert_close(share, torch.tensor([1, 0, 1, 1]) / 3, atol=0.03, rtol=0)


def test_a_black_pixel_becomes_white_and_a_white_one_black() -> None:
    images = torch.tensor([0.0, 0.005, 0.995, 1.0]).view(1, 1, 1, 4)
    assert extreme(images).flatten().tolist() == [1, 1, 0, 0]
    grey = extreme(torch.full((1, 1, 40, 40), 0.5))
    assert grey.unique().tolist() == [0, 1]


class Masked(nn.Module):
    """Class 1 if at least three of the first four pixels are bright, with a margin in steps."""

    def forward(self, images: Tensor) -> Tensor:
        bright = (images.flatten(1)[:, :4] > 0.5).sum(dim=1).to(images.dtype)
        return torch.stack([torch.full_like(bright, 2.5), bright], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_finds_few_pixels_without_a_gradient(channels: int) -> None:
    images = torch.full((5, channels, 6, 6), 0.2)
    labels = torch.zeros(5, dtype=torch.int64)
    result = SparseSearch("sparse-search", queries=600)(Masked(), images, labels, seed=1)
    assert result.distances.tolist() == [3.0] * 5
    assert not find_attack("fmn", "l0")(Masked(), images, labels).success.any()


def test_finished_images_are_not_asked_about() -> None:
    class One(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = images.flatten(1)[:, 0]
            return torch.stack([torch.full_like(bright, 0.5), bright], dim=1)

    images = torch.zeros(3, 1, 4, 4)
    result = SparseSearch("sparse-search", queries=5000)(One(), images, torch.zeros(3, dtype=torch.int64))
    assert result.distances.tolist() == [1.0] * 3
    assert (result.queries < 1500).all()
