"""Attacks beside exact radii: figures that can be counted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.standings import exact_radii, standings
from absynth.evaluate.store import Record
from absynth.evaluate.tasks import Preset, Task, find_preset
from absynth.norms import Norm
from absynth.report.standings import standing_tables

RADII = [1.0, 2.0, 4.0, 0.0, 5.0]
"""Of five images; the fourth is wrong from the start, and the gap of the fifth is open."""

CERTIFICATES = [
    CertificateRecord(
        index, 0, int(radius == 0), "l2", radius, "pairs", exact=index != 4, gap=0.0 if index != 4 else 1.0
    )
    for index, radius in enumerate(RADII)
]
FOUND = {
    "near": [1.0, 2.01, 4.2, 0.0, 5.0],
    "far": [1.05, 3.0, math.inf, 0.0, math.inf],
    "exact": [1.0, 2.0, 4.0, 0.0, math.inf],
}


def record(attack: str, index: int, distance: float, norm: Norm = "l2") -> Record:
    return Record("m", "w", norm, attack, "{}", "d", 0, index, 0, distance, queries=10 * (index + 1))


@pytest.fixture
def result() -> BenchmarkResult:
    """Two attacks and the search of the certificate, whose tasks took 5, 10 and 15 seconds."""
    preset = Preset(("m",), "quick", {"l2": tuple(FOUND)}, 5, 5)
    records = [
        record(name, index, found) for name, every in FOUND.items() for index, found in enumerate(every)
    ]
    tasks = [Task("m", "w", "l2", name, "{}", "d", "h", (0, 1, 2, 3, 4), 0) for name in FOUND]
    seconds = {task.key: 5.0 * (number + 1) for number, task in enumerate(tasks)}
    return BenchmarkResult(preset, {"m": 1.0}, {"m": "w"}, tasks, records, seconds)


def test_what_is_exact() -> None:
    assert exact_radii(CERTIFICATES) == {("l2", 0): 1.0, ("l2", 1): 2.0, ("l2", 2): 4.0}
    assert exact_radii([replace(CERTIFICATES[0], gap=None)]) == {}
    assert exact_radii([replace(CERTIFICATES[0], gap=0.5)]) == {}


def test_figures_counted_by_hand(result: BenchmarkResult) -> None:
    near, far, every = standings(result, {"m": CERTIFICATES})
    assert [one.attack for one in (near, far, every)] == ["near", "far", "all"]
    assert [one.images for one in (near, far, every)] == [3, 3, 3]
    assert [one.success for one in (near, far, every)] == [1, pytest.approx(2 / 3), 1]
    # of 1, 1.005 and 1.05; of 1.05, 1.5 and infinity
    assert [one.ratio for one in (near, far, every)] == [pytest.approx(1.005), 1.5, pytest.approx(1.005)]
    assert [one.within_one for one in (near, far, every)] == pytest.approx([2 / 3, 0, 2 / 3])
    assert [one.within_ten for one in (near, far, every)] == pytest.approx([1, 1 / 3, 1])
    assert [one.queries for one in (near, far, every)] == [20, 20, 40]
    assert [one.seconds for one in (near, far, every)] == [1, 2, 3]


def test_fewer_images_and_many_failures(result: BenchmarkResult) -> None:
    few = [one for one in result.records if one.attack != "far" or one.index in (1, 2)]
    _, far, every = standings(replace(result, records=few), {"m": CERTIFICATES})
    assert (far.images, far.success, far.ratio) == (2, 0.5, math.inf)
    assert every.images == 2
    text = StringIO()
    for table in standing_tables(standings(replace(result, records=few), {"m": CERTIFICATES})):
        Console(file=text, width=120).print(table)
    assert "∞" in text.getvalue() and "1.005" in text.getvalue() and "within 10 %" in text.getvalue()


def test_a_distance_below_the_truth_is_an_error(result: BenchmarkResult) -> None:
    wrong = [*result.records, record("too-good", 1, 1.999)]
    with pytest.raises(
        AbsynthError, match="too-good found an adversarial of image 1 of m at the l2 distance"
    ):
        standings(replace(result, records=wrong), {"m": CERTIFICATES})


def test_certificates_that_do_not_fit(result: BenchmarkResult) -> None:
    with pytest.raises(AbsynthError, match="no records of other"):
        standings(result, {"other": CERTIFICATES})
    with pytest.raises(AbsynthError, match="have no exact radius of an image that was attacked"):
        standings(result, {"m": [replace(one, exact=False) for one in CERTIFICATES]})


def test_the_preset_has_every_attack_in_every_norm() -> None:
    preset = find_preset("attacks")
    assert set(preset.norms) == {"l2", "l1", "linf", "l0"}
    assert {"ddn", "auto-attack", "exact", "foolbox-ddn"} <= set(preset.attacks["l2"])


def test_the_command_line(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "none.parquet").write_text("nothing")
    assert "none.parquet" in fails("bench", "--certificates", f"cnn={tmp_path / 'none.parquet'}")


def test_in_l0_the_truth_is_a_pixel_more_than_the_radius() -> None:
    certificate = CertificateRecord(3, 1, 1, "l0", 12.0, "polytope", True, gap=1.0)
    left_open = CertificateRecord(4, 1, 1, "l0", 12.0, "polytope", True, gap=2.0)
    assert exact_radii([certificate, left_open]) == {("l0", 3): 13.0}
