"""Independent pieces of work on the cores of a processor, one core each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def one_core_each(
    work: Callable[[Item], None], items: Iterable[Item], device: torch.device | None = None
) -> None:
    """Does work for every item, for as many at a time as torch has threads, each with one thread.

    Many small operators that share their threads wait for one another at every one of them; pieces that have
    a thread each do not. What an item gives does not depend on how many threads there are.

    Args:
        work: On one item, without gradients; it writes its result where no other does.
        items: In the order in which they are begun.
        device: Where the work is done; if that is not the processor, the items are done one after another.
    """
    if device is not None and device.type != "cpu":
        with torch.no_grad():
            for item in items:
                work(item)
        return
    threads = torch.get_num_threads()

    def alone(item: Item) -> None:
        torch.set_num_threads(1)
        with torch.no_grad():
            work(item)

    try:
        with ThreadPoolExecutor(threads) as workers:
            for _ in workers.map(alone, items):
                pass
    finally:
        torch.set_num_threads(threads)
