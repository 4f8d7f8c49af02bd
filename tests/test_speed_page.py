"""What docs/tools counts for the page on speed, on computations whose cost is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture
def tools(load_tool: Callable[[str, str], ModuleType]) -> Any:
    """The modules of docs/tools/speed."""
    return tuple(load_tool("speed", name) for name in ("limits", "growth", "figure"))


def test_flops_and_bytes_of_a_product_and_what_is_done_with_it(tools: Any) -> None:
    limits, _, _ = tools
    left, right = torch.rand(200, 300), torch.rand(300, 400)
    cost = limits.measure_cost(lambda: (left @ right).T.unsqueeze(0).neg(), threads=1)
    product = 4 * 200 * 400
    assert cost.flops == 2 * 200 * 300 * 400
    assert sum(cost.read.values()) == 4 * 200 * 300 + 4 * 300 * 400 + product
    assert sum(cost.written.values()) == 2 * product
    assert cost.calls == 2
    assert cost.seconds > 0
    assert {"aten::mm", "aten::neg"} <= set(cost.shares)


def test_selected_rows_and_expanded_tensors_are_no_larger_than_they_are(tools: Any) -> None:
    limits, _, _ = tools
    large, rows = torch.rand(1000, 10), torch.arange(5)
    cost = limits.measure_cost(lambda: large[rows], threads=1)
    assert cost.bytes == 2 * 4 * 5 * 10 + 8 * 5
    one = torch.rand(1, 10)
    cost = limits.measure_cost(lambda: one.expand(1000, 10).sum(), threads=1)
    assert cost.bytes == 4 * 10 + 4


def test_traffic_takes_the_speed_of_its_size(tools: Any) -> None:
    limits, _, _ = tools
    speeds = {size: float(size) for size in limits.SIZES}
    small, large = torch.rand(10), torch.rand(2**19 + 1000)
    machine = limits.Limits(peak=1.0, reading=speeds, writing=speeds)
    cost = limits.measure_cost(small.sum, threads=1)
    assert cost.traffic(machine) == pytest.approx((40 + 4) / limits.SIZES[0])
    cost = limits.measure_cost(large.sum, threads=1)
    assert cost.traffic(machine) == pytest.approx(4 * len(large) / 2**21 + 4 / limits.SIZES[0])


def test_what_was_not_measured_is_left_out_of_the_figure(tools: Any, tmp_path: Path) -> None:
    _, growth, figure = tools
    sizes = ("batch", "classes", "prototypes", "side", "latents")
    lines = {"ABS": [3.0, 2.0], "codebook": [1.0, 0.5], "FAISS": [None, None]}
    figure.draw_growth([growth.Growth(size, (10, 20), lines, {}) for size in sizes], tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(first) == ["speed.png", "speed.svg"]
    figure.draw_growth([growth.Growth(size, (10, 20), lines, {}) for size in sizes], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
