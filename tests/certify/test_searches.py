"""What the closed forms look for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from absynth.certify.halfspace.searches import first_crossing, greedy, knapsack, most_gain


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), pixels=st.integers(1, 200))
def test_greedy_spends_what_it_says(seed: int, pixels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slopes, caps = torch.rand(2, 3, pixels, generator=generator).double()
    target = torch.rand(3, generator=generator).double() * (slopes * caps).sum(-1)
    target[0] = (slopes * caps)[0].sum() * 1.5
    cost, spent = greedy(slopes, caps, target)
    assert math.isinf(float(cost[0]))
    assert bool(((spent >= 0) & (spent <= caps)).all())
    assert torch.allclose((slopes * spent).sum(-1)[1:], target[1:])
    assert torch.allclose(spent.sum(-1)[1:], cost[1:])


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_the_relaxed_knapsack_is_between_nothing_and_the_cheapest_choice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gains, costs = torch.rand(2, 6, generator=generator).double()
    costs[torch.rand(6, generator=generator) < 0.3] = 0
    target = torch.rand((), generator=generator).double() * gains.sum() * 1.2
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    enough = choices @ gains >= target
    cheapest = float((choices @ costs)[enough].min()) if bool(enough.any()) else math.inf
    cost, share = (part[0] for part in knapsack(gains[None], costs[None], target[None]))
    assert float(cost) <= cheapest + 1e-9
    assert math.isinf(float(cost)) == math.isinf(cheapest)
    if math.isfinite(cheapest):
        # The last pixel is the only one used in part.
        assert float(cost) >= cheapest - float(costs.max()) - 1e-9
        assert float((share * costs).sum()) == pytest.approx(float(cost))
        assert float(share @ gains) >= float(target) - 1e-9
        assert float(most_gain(gains, costs, float(cost))) >= float(target) - 1e-9


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_the_first_crossing_is_where_the_sum_reaches_the_target(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slopes, caps = torch.rand(2, 4, 9, generator=generator).double()
    target = torch.rand(4, generator=generator).double() * caps.sum(-1)
    target[0], target[1] = caps[0].sum() * 1.1, 0
    position = first_crossing(slopes, caps, target)
    assert math.isinf(float(position[0])) and float(position[1]) == 0
    sums = torch.minimum(slopes[2:] * position[2:, None], caps[2:]).sum(-1)
    assert torch.allclose(sums, target[2:])
