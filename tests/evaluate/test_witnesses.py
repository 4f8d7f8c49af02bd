"""Witnesses beside certificates: a folder that goes on where it was, and that belongs to one model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import absynth
from absynth import check_proof
from absynth.certify.provers.bounds import Crown
from absynth.errors import AbsynthError
from absynth.evaluate import certification
from absynth.evaluate.certification import CertificateRecord, run_certification
from absynth.evaluate.tasks import choose_images
from absynth.evaluate.witnesses import TABLE, differences
from absynth.models.prototypes import NearestNeighbour
from absynth.progress import progress_display

Problem = tuple[NearestNeighbour, Tensor, Tensor]


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch, neighbours: Callable[[int], Problem]) -> Problem:
    monkeypatch.setattr(certification, "SHARD", 5)
    return neighbours(10)


def run(
    problem: Problem, proofs: Path, exact: bool = False, method: Crown | None = None
) -> list[CertificateRecord]:
    model, images, labels = problem
    with progress_display(False) as progress:
        return run_certification(
            model,
            images,
            labels,
            indices=range(10),
            norms=["l2", "linf"],
            exact=exact,
            out=None,
            progress=progress,
            method=method,
            proofs=proofs,
        )


def test_every_radius_gets_a_witness_that_is_proven(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run(problem, tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 4
    assert check_proof.main([str(tmp_path), "--out", str(tmp_path / "verdicts.csv")]) == 0
    rows = [line.split(",") for line in (tmp_path / "verdicts.csv").read_text().splitlines()[1:]]
    found = {(norm, int(index)): float.fromhex(radius) for index, _, norm, radius, *_ in rows}
    assert found == {(one.norm, one.index): one.radius for one in records if one.radius > 0}
    assert len(found) > 5


def test_two_hundred_test_images_of_a_shipped_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = absynth.load_dataset("mnist", "test")
    with progress_display(False) as progress:
        records = run_certification(
            absynth.load("codebook-abs"),
            images,
            labels,
            indices=choose_images(len(images), 200, 0),
            norms=["l2"],
            exact=False,
            out=None,
            progress=progress,
            proofs=tmp_path,
        )
    radii = [one.radius for one in records]
    assert check_proof.main([str(tmp_path)]) == 0
    count = sum(radius > 0 for radius in radii)
    assert f"{count} of {count} claims proven" in capsys.readouterr().out
    assert count > 190
    (file,) = tmp_path.glob("*.npz")
    assert file.stat().st_size < 20_000 * count


def test_files_that_are_there_stay_and_the_missing_ones_come_back(problem: Problem, tmp_path: Path) -> None:
    run(problem, tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    contents = [file.read_bytes() for file in files]
    files[0].unlink()
    files[1].write_bytes(b"of somebody else")
    run(problem, tmp_path)
    assert files[0].read_bytes() == contents[0]
    assert files[1].read_bytes() == b"of somebody else"


def test_a_folder_belongs_to_one_model(problem: Problem, tmp_path: Path) -> None:
    model, images, labels = problem
    run(problem, tmp_path)
    other = NearestNeighbour(images, labels)
    assert differences(model, tmp_path / TABLE) == ""
    assert "but the prototypes of the model have" in differences(other, tmp_path / TABLE)
    with pytest.raises(AbsynthError, match="prototypes of another model"):
        run((other, images, labels), tmp_path)


def test_what_has_no_witness_is_told(problem: Problem, tmp_path: Path) -> None:
    model, images, labels = problem
    for settings in ({"exact": True}, {"method": Crown()}):
        with pytest.raises(AbsynthError, match="leave --exact and --method out"):
            run(problem, tmp_path, **settings)  # type: ignore[arg-type]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3))
    with pytest.raises(AbsynthError, match="does not decide by prototypes"):
        run((network, images, labels), tmp_path)  # type: ignore[arg-type]
    colour = NearestNeighbour(torch.rand(6, 2, 2, 4), torch.arange(6) % 3)
    with pytest.raises(AbsynthError, match="one channel; these have 2"):
        run((colour, images.expand(-1, 2, -1, -1), labels), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AbsynthError, match="is a file; name a folder"):
        run(problem, tmp_path / "file")
    with pytest.raises(AbsynthError, match="cannot be read"):
        differences(model, tmp_path / "nothing")


def test_the_commands(problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from absynth.cli.commands import app

    problem[0].save_pretrained(tmp_path / "model")
    run(problem, tmp_path / "proofs")
    table = tmp_path / "table.safetensors"
    said = CliRunner().invoke(app, ["export", str(tmp_path / "model"), str(table)])
    assert said.exit_code == 0 and table.read_bytes() == (tmp_path / "proofs" / TABLE).read_bytes()
    asked = ["check-proof", str(tmp_path / "proofs"), "--prototypes", str(table)]
    said = CliRunner().invoke(app, [*asked, "--model", str(tmp_path / "model")])
    assert said.exit_code == 0 and "bit by bit" in said.output and "claims proven" in said.output
    table.write_bytes(table.read_bytes()[:-4] + b"\0\0\0\0")
    said = CliRunner().invoke(app, [*asked, "--model", str(tmp_path / "model")])
    assert said.exit_code == 1 and "has SHA-256" in said.output
    assert CliRunner().invoke(app, asked).exit_code == 2
