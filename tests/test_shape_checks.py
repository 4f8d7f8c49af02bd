"""That types and shapes are checked in every test, and how often."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from absynth.norms import distance


def test_a_wrong_shape_is_told_at_the_first_calls_and_at_one_in_many(first_and_then: tuple[int, int]) -> None:
    first, then = first_and_then
    images, wrong = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4)
    for _ in range(first - 1):
        distance(images, images, "l2")
    with pytest.raises(TypeCheckError, match="distance"):
        distance(wrong, wrong, "l2")
    told = 0
    for _ in range(4 * then):
        try:
            distance(wrong, wrong, "l2")
        except TypeCheckError:
            told += 1
    assert told == 4


@pytest.mark.usefixtures("every_call_checked")
def test_a_test_may_have_every_call_checked() -> None:
    for _ in range(300):
        with pytest.raises(TypeCheckError, match="distance"):
            distance(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), "l2")


def test_every_test_begins_anew() -> None:
    with pytest.raises(TypeCheckError, match="distance"):
        distance(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), "l2")


def test_a_value_of_another_type_is_told() -> None:
    with pytest.raises(TypeCheckError, match="norm"):
        distance(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), 2)
