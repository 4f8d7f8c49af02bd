"""What a computation costs and what this machine can do: time, FLOPs, bytes, and where the time goes."""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
SIZES = tuple(2**power for power in range(18, 29))
"""Bytes of the tensors whose reading and writing is timed, from what any cache holds to what none does."""

PROFILED = 0.1
"""Seconds for which a computation is repeated under the profiler, but not more than MOST_PROFILED times."""

MOST_PROFILED = 200

UNTOUCHED = ("aten::_unsafe_view", "aten::empty", "aten::new_empty", "aten::lift_fresh")
"""Operators that neither read nor write what their tensors hold, besides views."""

SELECTING = ("aten::index", "aten::index_select", "aten::gather")
"""Operators that read as much of their first input as they write."""

Traffic = dict[int, int]
"""Bytes by the size, one of :data:`SIZES`, of the tensor that they belong to."""


@dataclass(frozen=True)
class Limits:
    """What this machine reaches at best.

    Attributes:
        peak: FLOP/s of the product of two matrices.
        reading: Bytes/s of a sum, by the size of the tensor.
        writing: Bytes/s of filling, by the size of the tensor.
    """

    peak: float
    reading: dict[int, float]
    writing: dict[int, float]


@dataclass(frozen=True)
class Cost:
    """What one computation took.

    Attributes:
        seconds: The shortest of several runs.
        flops: Of its matrix products and convolutions, as executed.
        read: By its operators, each of which reads its inputs.
        written: By its operators, each of which writes its outputs.
        pages: Bytes of memory that the system had to hand out first.
        calls: Of operators that touch memory.
        shares: Of the time, by operator, the largest first; the rest of it passes outside of them.
    """

    seconds: float
    flops: int
    read: Traffic
    written: Traffic
    pages: int
    calls: int
    shares: dict[str, float]

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(self.read.values()) + sum(self.written.values())

    def arithmetic(self, limits: Limits) -> float:
        """The seconds that the FLOPs take at the peak."""
        return self.flops / limits.peak

    def traffic(self, limits: Limits) -> float:
        """The seconds that the bytes take, each at the speed of a tensor of its size."""
        reading = sum(count / limits.reading[size] for size, count in self.read.items())
        return reading + sum(count / limits.writing[size] for size, count in self.written.items())


class _Counting(TorchDispatchMode):
    """Counts the bytes that operators read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[int] = Counter()
        self.written: Counter[int] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if func.is_view or name in UNTOUCHED:
            return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in SELECTING:
            inputs[0] = outputs[0]
        for tensors, counter in ((inputs, self.read), (outputs, self.written)):
            for tensor in tensors:
                size = _bytes(tensor)
                nearest = 2 ** round(math.log2(max(1, size)))
                counter[min(max(SIZES[0], nearest), SIZES[-1])] += size
        self.calls += 1
        return result


def _bytes(tensor: Tensor) -> int:
    """Of a tensor in memory, where an expanded one is smaller than it looks."""
    lengths = (length for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return tensor.element_size() * torch.Size(lengths).numel()


def seconds(work: Work, threads: int, repeats: int = 3) -> float:
    """The shortest of several runs, after one that does not count."""
    clock = time.process_time if threads == 1 else time.perf_counter
    if repeats > 1:
        work()
    times = []
    for _ in range(repeats):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def measure_limits(threads: int) -> Limits:
    """This machine's limits, by the clock of :func:`seconds`."""
    square = torch.rand(1024, 1024)
    peak = 2 * 1024**3 / seconds(lambda: square @ square, threads, 10)
    reading, writing = {}, {}
    for size in SIZES:
        buffer = torch.rand(size // 4)
        reading[size] = size / seconds(buffer.sum, threads, 10)
        writing[size] = size / seconds(buffer.zero_, threads, 10)
    return Limits(peak, reading, writing)


@torch.no_grad()
def measure_cost(work: Work, threads: int) -> Cost:
    """Times a computation, then repeats it to count and to profile."""
    spent = seconds(work, threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    with FlopCounterMode(display=False) as flops:
        work()
    with _Counting() as counted:
        work()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        started = time.perf_counter()
        for _ in range(min(MOST_PROFILED, max(1, round(PROFILED / spent)))):
            work()
        total = time.perf_counter() - started
    shares = Counter(
        {event.key: event.self_cpu_time_total / 1e6 / total for event in profiled.key_averages()}
    )
    return Cost(
        spent,
        flops.get_total_flops(),
        counted.read,
        counted.written,
        faults * resource.getpagesize(),
        counted.calls,
        dict(shares.most_common()),
    )
