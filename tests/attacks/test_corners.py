"""The corner search: the fewest pixels where scores add up, and what it does where they do not."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from absynth.attacks.corners import CornerSearch

SIDE = 3


def fewest(model: nn.Module, image: Tensor, label: int) -> int | None:
    """The fewest pixels of one image that must be black or white for another class, by trying all."""
    flat = image.flatten()
    for count in range(flat.numel() + 1):
        for pixels in combinations(range(flat.numel()), count):
            for colours in product((0.0, 1.0), repeat=count):
                trial = flat.clone()
                trial[list(pixels)] = torch.tensor(colours)
                if int(model(trial.view(1, 1, SIDE, SIDE)).argmax()) != label:
                    return count
    return None


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_it_finds_the_fewest_pixels_of_a_linear_model(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2)).requires_grad_(False)
    images = torch.rand(2, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    result = CornerSearch("corner-search")(model, images, labels)
    for image, label, distance in zip(images, labels.tolist(), result.distances.tolist(), strict=True):
        expected = fewest(model, image, label)
        assert distance == (torch.inf if expected is None else expected)


class Pair(nn.Module):
    """Class 1 if two pixels that say little alone are both bright in every channel."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.amin(dim=1).flatten(1)
        both = bright[:, 3] * bright[:, 5]
        return torch.stack([torch.full_like(both, 0.5), both + 0.01 * bright[:, 3]], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_all_channels_are_combined(channels: int) -> None:
    images = torch.full((2, channels, 4, 4), 0.25)
    labels = torch.zeros(2, dtype=torch.int64)
    result = CornerSearch("corner-search")(Pair(), images, labels)
    assert result.distances.tolist() == [2.0, 2.0]
    changed = (result.adversarials != images).any(dim=1).flatten(1)
    assert changed.nonzero()[:, 1].tolist() == [3, 5, 3, 5]


def test_it_gives_up_after_the_most_pixels() -> None:
    images, labels = torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)
    assert not CornerSearch("corner-search", most=1)(Pair(), images, labels).success.any()
    every = CornerSearch("corner-search", candidates=32, width=2, most=2)(Pair(), images, labels)
    # the clean image, all single changes, each once more, those of two pixels after the two best, the result
    assert every.queries.item() == 1 + 16 + 16 + 2 * 15 + 1
