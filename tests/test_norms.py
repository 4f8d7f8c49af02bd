import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.norms import NORMS, Norm, distance, parse_norm


@pytest.mark.parametrize(("norm", "expected"), [("l2", 0.5), ("l1", 0.7), ("linf", 0.4), ("l0", 2.0)])
def test_known_distances(norm: Norm, expected: float) -> None:
    first = torch.zeros(2, 1, 2, 2)
    second = first.clone()
    second[0, 0, 0, 1] = 0.3
    second[0, 0, 1, 0] = -0.4
    result = distance(first, second, norm)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, torch.tensor([expected, 0.0]).double(), rtol=1e-6, atol=0)


def test_l0_counts_a_pixel_once_however_many_channels_differ() -> None:
    first = torch.zeros(1, 3, 2, 2)
    second = first.clone()
    second[0, :, 0, 0] = 1
    second[0, 2, 1, 1] = 1e-30
    assert distance(first, second, "l0").tolist() == [2.0]


def test_the_difference_is_taken_in_float64() -> None:
    first, second = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2**-40)
    for norm in ("l2", "l1", "linf"):
        assert distance(first, second, norm).item() == 1 - 2**-40


@pytest.mark.parametrize(("name", "norm"), [("l2", "l2"), ("Linf", "linf"), (" L0 ", "l0"), ("L1", "l1")])
def test_norms_are_known_in_any_case(name: str, norm: Norm) -> None:
    assert parse_norm(name) == norm


@pytest.mark.parametrize("name", ["", "l3", "euclidean", "l 2"])
def test_an_unknown_norm_is_refused_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(AbsynthError, match=f"no norm '{name}'.*l2, l1, linf, l0"):
        parse_norm(name)


images = st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8).map(
    lambda values: torch.tensor(values).view(1, 2, 2, 2)
)


@given(images, images, images)
def test_every_distance_is_a_metric(first: Tensor, second: Tensor, third: Tensor) -> None:
    for norm in NORMS:
        direct = distance(first, third, norm)
        assert direct <= distance(first, second, norm) + distance(second, third, norm) + 1e-12
        assert direct == distance(third, first, norm)
        assert (direct == 0) == torch.equal(first, third)


@given(images, images)
def test_the_norms_bound_one_another(first: Tensor, second: Tensor) -> None:
    l2, l1, linf, l0 = (distance(first, second, norm).item() for norm in ("l2", "l1", "linf", "l0"))
    slack = 1 + 1e-12
    assert linf <= l2 * slack
    assert l2 <= l1 * slack
    assert l2**2 <= l1 * linf * slack
    assert l1 <= 2 * l0 * linf * slack
