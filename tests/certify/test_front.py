"""What stands in front: what is seen, how far it moves, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from absynth.certify.front import BINARY, GREY, Clamp, Front, split_front
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped

FRONTS = [GREY, BINARY, Clamp(low=0.125, high=0.8125)]
STEPS = 2**10
"""Of a grid over [0, 1] that holds the ends of the clamp, ½ and the images."""

IMAGE = torch.tensor([0, 16, 128, 300, 512, 513, 832, 1000, 1024]).double() / STEPS


@pytest.mark.parametrize("front", FRONTS)
def test_room_cost_and_dead_zone_are_those_of_all_changes(front: Front) -> None:
    grid = torch.arange(STEPS + 1).double() / STEPS
    seen, start = front.see(grid), front.see(IMAGE)
    for index, value in enumerate(IMAGE.tolist()):
        for way, room, dead, cost, within in (
            (1, front.up, front.dead_up, front.cost_up, front.up_within),
            (-1, front.down, front.dead_down, front.cost_down, front.down_within),
        ):
            sizes, moves = way * (grid - value), way * (seen - start[index])
            sizes, moves = sizes[sizes >= 0], moves[sizes >= 0]
            farthest = float(moves.max())
            assert float(room(IMAGE)[index]) == farthest
            if farthest > 0:
                # A threshold's cost is an infimum, which the next point of the grid is just above.
                least = float(sizes[moves == farthest].min())
                assert 0 <= least - float(cost(IMAGE)[index]) <= 1 / STEPS
                if front != BINARY:
                    assert float(sizes[moves == 0].max()) == float(dead(IMAGE)[index])
            for size in (0.0, 0.1, 0.3, 0.6):
                most = float(moves[sizes <= size].max())
                bound = float(within(IMAGE, torch.full((1,), size).double())[index])
                assert most <= bound <= most + 1 / STEPS or (front == BINARY and bound == farthest)


@pytest.mark.parametrize("front", FRONTS)
def test_the_gradient_chooses_the_direction(front: Front) -> None:
    gradient = torch.tensor([1.0, -1.0])[torch.arange(len(IMAGE)) % 2].double()
    rising = gradient > 0
    for chosen, up, down in (
        (front.room(gradient, IMAGE), front.up(IMAGE), front.down(IMAGE)),
        (front.dead(gradient, IMAGE), front.dead_up(IMAGE), front.dead_down(IMAGE)),
        (front.cost(gradient, IMAGE), front.cost_up(IMAGE), front.cost_down(IMAGE)),
    ):
        assert torch.equal(chosen, torch.where(rising, up, down))


def test_models_and_what_stands_in_front_of_them(toolbox: Any) -> None:
    model = toolbox.random_codebook(0, classes=2, count=2, pixels=8)
    images = toolbox.random_images(0, 20, 2, 4)
    for classifier, expected in (
        (model, GREY),
        (Binarized(model), BINARY),
        (Clamped(Binarized(model), 0.2), BINARY),
        (Clamped(model, 0.0), GREY),
        (Clamped(model, 0.25), Clamp(0.25, 0.75)),
    ):
        behind, front = split_front(classifier)
        assert behind is model and front == expected
        assert torch.equal(model(front.see(images)), classifier(images))
