"""Schedules on more cores, compared with ones that were made by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from absynth.errors import AbsynthError
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.schedule import START_SECONDS, benchmark_schedule, makespan, schedule
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.progress import Progress
from absynth.report.tables import schedule_table


def test_a_schedule_by_hand() -> None:
    """With 1 s to start, the tasks take 8, 6, 5, 4 and 3 s.

    Two cores: 8 + 4 | 6 + 5 + 3 = 14. Three: 8 | 6 + 3 | 5 + 4 = 9. Four: 8 | 6 | 5 | 4 + 3 = 8, the longest.
    """
    found = schedule([3.0, 7.0, 2.0, 5.0, 4.0], cores=(1, 2, 3, 4, 512), overhead=1.0)
    assert found.seconds == {1: 26.0, 2: 14.0, 3: 9.0, 4: 8.0, 512: 8.0}
    assert (found.tasks, found.work, found.longest, found.enough) == (5, 26.0, 8.0, 4)


def test_the_number_of_cores_that_is_enough_may_be_above_the_work_by_the_longest() -> None:
    """Of 12 s in pieces of 3, 3, 2, 2 and 2, four cores leave one a second piece: 4 s."""
    found = schedule([1.0, 2.0, 1.0, 2.0, 1.0], cores=(4, 5), overhead=1.0)
    assert found.seconds == {4: 4.0, 5: 3.0}
    assert found.enough == 5


def test_the_longest_first_is_close_to_the_best_of_all_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        seconds = torch.randint(1, 20, (6,), generator=generator).tolist()
        for cores in (2, 3):
            best = min(
                max(
                    sum(s for s, c in zip(seconds, choice, strict=True) if c == core) for core in range(cores)
                )
                for choice in product(range(cores), repeat=6)
            )
            assert best <= makespan(seconds, cores) <= (4 / 3 - 1 / (3 * cores)) * best


def load_model(name: str) -> nn.Module:
    torch.manual_seed(len(name))
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def preset(images: int, **attacks: tuple[str, ...]) -> Preset:
    return Preset(("one",), "quick", attacks, images, 10, shard=2)


def test_the_plan_of_a_benchmark_goes_by_its_first_tasks(tmp_path: Path, progress: Progress) -> None:
    store = ResultStore(tmp_path)
    whole = preset(8, l2=("fgm",), linf=("fgsm",))
    with pytest.raises(AbsynthError, match="run it with -n 2 first"):
        benchmark_schedule(whole, store, progress, load_model=load_model)
    run_benchmark(preset(2, l2=("fgm",)), store, progress, load_model=load_model)
    (path,) = (tmp_path / "seconds").iterdir()
    path.write_text('{"seconds": 1.98}')
    found = benchmark_schedule(whole, store, progress, load_model=load_model)
    assert (found.tasks, found.untimed, found.enough) == (4, 4, 4)
    assert found.seconds == pytest.approx({1: 8.0, 8: 2.0, 64: 2.0, 512: 2.0})
    assert pytest.approx(1.98 + START_SECONDS) == 2.0
    table = schedule_table(found, "results")
    cells = [list(column.cells) for column in table.columns]
    assert cells == [
        ["1", "8", "64", "512"],
        ["8.00 s", "2.00 s", "2.00 s", "2.00 s"],
        ["100%", "50%", "6%", "1%"],
    ]
    assert "which 4 cores reach" in str(table.caption)
    assert "4 tasks of attacks without a measured time left out" in str(table.caption)
