"""The smallest adversarials beside exact radii: what the file has, and that a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.evaluate import certification
from absynth.evaluate.certification import CertificateRecord, run_certification
from absynth.evaluate.minima import check_adversarials
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import Norm, distance
from absynth.progress import progress_display

NORMS: tuple[Norm, ...] = ("l2", "linf", "l0")
Problem = tuple[NearestNeighbour, Tensor, Tensor]


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch, neighbours: Callable[[int], Problem]) -> Problem:
    """Ten images in pieces of three, of which the first has a wrong label."""
    monkeypatch.setattr(certification, "EXACT_SHARD", 3)
    model, images, labels = neighbours(10)
    labels[0] = (labels[0] + 1) % 3
    return model, images, labels


def run(problem: Problem, out: Path, adversarials: Path | None) -> list[CertificateRecord]:
    model, images, labels = problem
    with progress_display(False) as progress:
        return run_certification(
            model,
            images,
            labels,
            indices=range(10),
            norms=NORMS,
            exact=True,
            out=out,
            progress=progress,
            adversarials=adversarials,
        )


@pytest.mark.filterwarnings("ignore:In L0 the exact search")
def test_each_is_where_its_record_says_and_fools_the_model(problem: Problem, tmp_path: Path) -> None:
    model, images, labels = problem
    records = run(problem, tmp_path / "radii.parquet", tmp_path / "found.safetensors")
    tensors = load_file(tmp_path / "found.safetensors")
    assert set(tensors) == {f"{norm}.{name}" for norm in NORMS[:2] for name in ("adversarials", "indices")}
    for norm in NORMS[:2]:
        found, own = tensors[f"{norm}.adversarials"], [one for one in records if one.norm == norm]
        assert tensors[f"{norm}.indices"].tolist() == [one.index for one in own] == list(range(10))
        assert (model(found).argmax(1) != labels).all()
        away = torch.tensor([one.radius + (one.gap or 0) for one in own], dtype=torch.float64)
        torch.testing.assert_close(distance(images, found, norm), away, rtol=0, atol=1e-6)
        assert away[0] == 0 and (away[1:] > 0).all()


@pytest.mark.filterwarnings("ignore:In L0 the exact search")
def test_a_run_goes_on_and_finds_what_an_earlier_one_did_not_keep(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.safetensors"
    run(problem, tmp_path / "whole.parquet", whole)
    kept = certification.write_certificates

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certification, "write_certificates", stop)
    with pytest.raises(KeyboardInterrupt):
        run(problem, tmp_path / "other.parquet", None)
    with pytest.raises(KeyboardInterrupt):
        run(problem, tmp_path / "other.parquet", tmp_path / "other.safetensors")
    monkeypatch.setattr(certification, "write_certificates", kept)
    monkeypatch.setattr(certification, "_certify_piece", lambda *_: pytest.fail("this was done already"))
    run(problem, tmp_path / "other.parquet", tmp_path / "other.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() == whole.read_bytes()
    assert (tmp_path / "other.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="what --exact finds; add it"):
        check_adversarials(tmp_path / "found.safetensors", exact=False)
    with pytest.raises(AbsynthError, match="name a file that ends so"):
        check_adversarials(tmp_path / "found.npz", exact=True)
