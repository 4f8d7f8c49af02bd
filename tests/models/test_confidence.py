import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from absynth.models.confidence import ALPHA, ETA, logits_to_probabilities, losses_to_logits


def test_the_constants_are_the_papers() -> None:
    assert (ALPHA, ETA) == (440.0, 3.9e-5)


def test_known_values() -> None:
    losses = torch.tensor([[0.0, math.log(2), math.log(4)]], dtype=torch.float64) * 784 / 440
    logits = losses_to_logits(losses, 784)
    torch.testing.assert_close(logits, -torch.tensor([[0.0, math.log(2), math.log(4)]]).double())
    likelihoods = torch.tensor([[1.0, 0.5, 0.25]], dtype=torch.float64) + 3.9e-5
    torch.testing.assert_close(logits_to_probabilities(logits), likelihoods / (1.75 + 3 * 3.9e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_underflows(dtype: torch.dtype) -> None:
    logits = torch.tensor(
        [[-1e4, -1e5, -1e30], [0.0, -1e4, -torch.inf], [-10.0, -200.0, -300.0]], dtype=dtype
    )
    probabilities = logits_to_probabilities(logits)
    third = (math.exp(-10) + ETA) / (math.exp(-10) + 3 * ETA)
    rest = ETA / (math.exp(-10) + 3 * ETA)
    expected = torch.tensor(
        [[1 / 3, 1 / 3, 1 / 3], [(1 + ETA) / (1 + 3 * ETA), *[ETA / (1 + 3 * ETA)] * 2], [third, rest, rest]],
        dtype=dtype,
    )
    torch.testing.assert_close(probabilities, expected)


def test_the_logits_keep_an_order_that_the_probabilities_lose() -> None:
    losses = torch.tensor([[3000.0, 2990.0, 3010.0]])
    logits = losses_to_logits(losses, 784)
    assert logits.argsort(descending=True).tolist() == [[1, 0, 2]]
    torch.testing.assert_close(logits_to_probabilities(logits), torch.full((1, 3), 1 / 3))


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=10))
def test_probabilities_sum_to_one_and_never_contradict_the_losses(losses: list[float]) -> None:
    values = torch.tensor([losses], dtype=torch.float64)
    probabilities = logits_to_probabilities(losses_to_logits(values, 784))
    assert abs(probabilities.sum().item() - 1) < 1e-12
    ordered = probabilities[0, values[0].argsort()]
    assert (ordered.diff() <= 1e-12).all()
