from threading import get_ident

import pytest
import torch

from absynth.cores import one_core_each


@pytest.mark.parametrize("threads", [1, 2])
def test_every_item_is_worked_on_by_one_thread(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = torch.zeros(7)
        seen: set[tuple[int, bool]] = set()

        def work(item: int) -> None:
            seen.add((torch.get_num_threads(), torch.is_grad_enabled()))
            results[item] = item

        one_core_each(work, range(7))
        assert results.tolist() == list(range(7))
        assert seen == {(1, False)}
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_is_raised_and_the_threads_are_back() -> None:
    before = torch.get_num_threads()

    def work(item: int) -> None:
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        one_core_each(work, range(3))
    assert torch.get_num_threads() == before


def test_elsewhere_than_on_the_processor_items_are_worked_on_in_turn() -> None:
    before = torch.get_num_threads()
    seen: list[tuple[int, int, int, bool]] = []

    def work(item: int) -> None:
        seen.append((item, get_ident(), torch.get_num_threads(), torch.is_grad_enabled()))

    one_core_each(work, range(3), torch.device("meta"))
    assert seen == [(item, get_ident(), before, False) for item in range(3)]
