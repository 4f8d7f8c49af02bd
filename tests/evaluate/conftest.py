"""A small model that decides by prototypes, for tests of how many images are certified."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from absynth.models.prototypes import NearestNeighbour


@pytest.fixture
def neighbours() -> Callable[[int], tuple[NearestNeighbour, Tensor, Tensor]]:
    """Makes the model, so many images of eight pixels, and the classes that it gives them."""

    def make(count: int) -> tuple[NearestNeighbour, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        model = NearestNeighbour(torch.rand(30, 1, 2, 4, generator=generator), torch.arange(30) % 3)
        images = torch.rand(count, 1, 2, 4, generator=generator)
        return model, images, model(images).argmax(1)

    return make
