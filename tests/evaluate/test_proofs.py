"""What a benchmark proves beside its attacks: the library's radii, kept, resumed and read by a report."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import absynth
from absynth.errors import AbsynthError
from absynth.evaluate import runner
from absynth.evaluate.runner import BenchmarkResult, run_benchmark
from absynth.evaluate.status import benchmark_status
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.models.prototypes import NearestNeighbour
from absynth.progress import Progress, progress_display
from absynth.report.results import read_results, with_certificates

PRESET = Preset(
    models=("prototypes", "network", "unknown"),
    suite="quick",
    attacks={"l2": ("fgm",), "linf": ("fgsm",)},
    images=5,
    clean_images=10,
    shard=3,
    certify_images=5,
    fewer_certified={"crown": 2},
)


class Sorted(nn.Module):
    """What has no proof: the logits are the ten brightest pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).sort(dim=1, descending=True).values[:, :10] * torch.arange(10)


@cache
def load_model(name: str) -> nn.Module:
    images, labels = (part[-300:] for part in absynth.load_dataset("mnist", "test"))
    if name == "prototypes":
        return NearestNeighbour(images, labels)
    if name == "unknown":
        return Sorted()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(784, 10)
    flat, wanted = images.flatten(1), nn.functional.one_hot(labels, 10).float()
    layer.weight.data = torch.linalg.solve(flat.T @ flat + torch.eye(784), flat.T @ wanted).T.contiguous()
    return nn.Sequential(nn.Flatten(), layer).eval()


def run(folder: Path, preset: Preset = PRESET) -> BenchmarkResult:
    with progress_display(False) as progress:
        return run_benchmark(preset, ResultStore(folder), progress, load_model=load_model)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchmarkResult]:
    folder = tmp_path_factory.mktemp("proofs")
    return folder, run(folder)


def test_the_radii_are_those_of_the_library_for_the_attacked_images(
    finished: tuple[Path, BenchmarkResult],
) -> None:
    _, result = finished
    assert set(result.certificates) == {"prototypes", "network"}
    images, labels = absynth.load_dataset("mnist", "test")
    for model, count, method in (("prototypes", 5, "pairwise"), ("network", 2, "crown")):
        for norm in ("l2", "linf"):
            own = [one for one in result.certificates[model] if one.norm == norm]
            attacked = [one for one in result.records if (one.model, one.norm) == (model, norm)]
            indices = [one.index for one in own]
            assert indices == [one.index for one in attacked][:count]
            assert {one.method for one in own} == {method}
            expected = absynth.certify(load_model(model), images[indices], labels[indices], norm).radius
            assert [one.radius for one in own] == expected.tolist()
            found = {one.index: one.distance for one in attacked}
            assert all(one.radius <= found[one.index] for one in own)


def test_a_finished_run_proves_nothing_again_and_a_lost_piece_alone(
    finished: tuple[Path, BenchmarkResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = finished
    original, asked = runner.run_proof, []

    def noted(model: nn.Module, tasks: list, *rest: torch.Tensor) -> list:
        asked.append([task.norm for task in tasks])
        return original(model, tasks, *rest)

    monkeypatch.setattr(runner, "run_proof", noted)
    assert run(folder).certificates == result.certificates
    assert asked == []
    path = sorted((folder / "certificates").glob("*.parquet"))[0]
    content = path.read_bytes()
    path.unlink()
    assert run(folder).certificates == result.certificates
    assert [len(norms) for norms in asked] == [1]
    assert path.read_bytes() == content


def test_a_damaged_piece_is_told(finished: tuple[Path, BenchmarkResult]) -> None:
    folder, _ = finished
    path = sorted((folder / "certificates").glob("*.parquet"))[0]
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    try:
        for read in (run, read_results):
            with pytest.raises(AbsynthError, match=r"certificates.*damaged"):
                read(folder)
    finally:
        path.write_bytes(content)


def test_the_report_finds_what_was_proven(finished: tuple[Path, BenchmarkResult]) -> None:
    folder, result = finished
    found = read_results(folder)
    assert set(found.certificates) == {"prototypes", "network"}
    for model, records in found.certificates.items():
        assert sorted(records, key=repr) == sorted(result.certificates[model], key=repr)
    given = [replace(one, method="other") for one in result.certificates["network"][:1]]
    both = with_certificates(found, {"network": given, "more": given}).certificates
    assert [one.method for one in both["network"]].count("other") == 1
    assert len(both["network"]) == len(found.certificates["network"])
    assert both["more"] == tuple(given)


def test_the_status_says_what_is_left(
    finished: tuple[Path, BenchmarkResult], tmp_path: Path, progress: Progress
) -> None:
    folder, _ = finished
    for place, sentences in ((folder, []), (tmp_path, ["10 of 10", "4 of 4"])):
        statuses = benchmark_status(PRESET, ResultStore(place), progress, load_model=load_model)
        told = [remark for status in statuses for remark in status.remarks if "certificates" in remark]
        assert [" ".join(remark.split()[:3]) for remark in told] == sentences


def test_no_certificates_where_none_are_asked_for(tmp_path: Path) -> None:
    for changes in ({"certify_images": 0}, {"fewer_certified": {"crown": 0}, "models": ("network",)}):
        assert run(tmp_path, replace(PRESET, images=1, **changes)).certificates == {}
    assert not (tmp_path / "certificates").exists()


def test_counts_that_make_no_sense_are_told() -> None:
    with pytest.raises(AbsynthError, match="At least 0"):
        replace(PRESET, certify_images=-1)
    with pytest.raises(AbsynthError, match="no method 'crow'; choose one of pairs"):
        replace(PRESET, fewer_certified={"crow": 1})


def test_a_proof_that_fails_leaves_the_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AbsynthError("This cannot be bounded.")

    monkeypatch.setattr(runner, "run_proof", fail)
    result = run(tmp_path, replace(PRESET, models=("network",)))
    assert result.certificates == {}
    assert result.refused == {}
    assert "network was not certified: This cannot be bounded." in result.remarks
    assert len(result.records) == 10
