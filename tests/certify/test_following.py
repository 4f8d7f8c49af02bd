"""The search for the largest ball that expensive bounds can prove: near enough, few trials, never beyond."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from absynth.certify.bounds.search import TRIALS, follow

MOST = 30.0
TOLERANCE = 0.01


def search(falls: Callable[[Tensor], Tensor], margin: float, guess: float, known: float = 0.0) -> list[float]:
    """The sizes that were tried, the answer last."""
    tried: list[float] = []

    def margins(rows: Tensor, sizes: Tensor) -> Tensor:
        assert rows.tolist() == [0]
        tried.append(float(sizes))
        return margin - falls(sizes)

    numbers = (torch.tensor([value], dtype=torch.float64) for value in (margin, guess, known))
    answer = follow(margins, *numbers, MOST, TOLERANCE)
    return [*tried, float(answer)]


@settings(max_examples=60)
@given(
    power=st.floats(1.0, 5.0),
    steeper=st.floats(1.0, 3.0),
    end=st.floats(0.05, 5.0),
    share=st.floats(0.1, 3.0),
    margin=st.floats(0.1, 20.0),
)
def test_margins_that_fall_ever_more_steeply(
    power: float, steeper: float, end: float, share: float, margin: float
) -> None:
    def falls(sizes: Tensor) -> Tensor:
        part = sizes / end
        return margin * (part**power + part ** (steeper * power)) / 2

    *tried, answer = search(falls, margin, share * end)
    assert answer in tried and answer <= end
    assert answer >= end * (1 - 2 * TOLERANCE)
    assert len(tried) <= 10


@settings(max_examples=60)
@given(end=st.floats(0.05, 5.0), share=st.floats(0.1, 3.0), deep=st.sampled_from([1.0, 1e9, math.nan]))
def test_a_wall_is_found(end: float, share: float, deep: float) -> None:
    """The margin does not fall at all until there is none."""

    def falls(sizes: Tensor) -> Tensor:
        return torch.where(sizes <= end, 0.0, 1 + deep)

    *tried, answer = search(falls, 1.0, share * end)
    assert answer <= end
    assert answer in tried
    assert len(tried) <= TRIALS
    assert answer >= end * 0.8


def test_what_is_known_is_the_least_answer() -> None:
    *tried, answer = search(lambda sizes: 2 * torch.ones_like(sizes), 1.0, 0.1, known=0.5)
    assert answer == 0.5
    assert tried == [pytest.approx(0.505)]


def test_nothing_that_can_be_proven() -> None:
    *tried, answer = search(lambda sizes: 2 * torch.ones_like(sizes), 1.0, 0.1)
    assert answer == 0
    assert len(tried) <= TRIALS


def test_the_whole_cube() -> None:
    *_, answer = search(torch.zeros_like, 1.0, 0.1)
    assert answer == MOST


def test_rows_do_not_disturb_each_other() -> None:
    ends = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)

    def margins(rows: Tensor, sizes: Tensor) -> Tensor:
        return 1 - (sizes / ends[rows]) ** 2

    ones = torch.ones(3, dtype=torch.float64)
    together = follow(margins, ones, 0.3 * ones, 0 * ones, MOST, TOLERANCE)
    for row, end in enumerate(ends.tolist()):
        alone = search(lambda sizes, end=end: (sizes / end) ** 2, 1.0, 0.3)[-1]  # type: ignore[misc]
        assert float(together[row]) == alone
