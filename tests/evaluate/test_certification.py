"""Certifying many images: pieces, resumption, and the files that come out."""

import csv
import json

import pyarrow.parquet as pq
import pytest
import torch

import absynth
from absynth.certify import Certifier
from absynth.certify.provers import sampled
from absynth.certify.provers.sampled import Majority
from absynth.certify.provers.smoothing import Smoothing
from absynth.errors import AbsynthError
from absynth.evaluate import certification
from absynth.evaluate.certification import (
    CertificateRecord,
    certify_images,
    radii,
    run_certification,
    write_certificates,
)
from absynth.norms import NORMS
from absynth.progress import progress_display
from absynth.report.certificates import certificate_tables, check_plot, closed_share, plot_certificates


@pytest.fixture
def problem(monkeypatch, neighbours):
    monkeypatch.setattr(certification, "SHARD", 5)
    return neighbours(20)


def run(problem, out, norms=("l2", "l0"), indices=tuple(range(0, 20, 2)), method=None):
    model, images, labels = problem
    with progress_display(False) as progress:
        return run_certification(
            model,
            images,
            labels,
            indices=indices,
            norms=norms,
            exact=False,
            out=out,
            progress=progress,
            method=method,
        )


def test_pieces_are_put_together_in_order(problem):
    model, images, labels = problem
    records = run(problem, None, norms=NORMS)
    rows = list(range(0, 20, 2))
    for norm in NORMS:
        expected = absynth.certify(model, images[rows], labels[rows], norm=norm)
        torch.testing.assert_close(radii(records, norm), expected.radius)
        assert [record.index for record in records if record.norm == norm] == rows
    assert bool((radii(records, "l2") > 0).all())


def test_an_interrupted_run_goes_on(problem, tmp_path, monkeypatch):
    out, calls = tmp_path / "radii.json", []

    class DiesInTheSecond(Certifier):
        def certify_in(self, *arguments, **options):
            calls.append(options)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return super().certify_in(*arguments, **options)

    monkeypatch.setattr(certification, "Certifier", DiesInTheSecond)
    with pytest.raises(KeyboardInterrupt):
        run(problem, out)
    assert not out.exists()
    records = run(problem, out)
    assert len(calls) == 3  # one piece was there already: 2 pieces, and the one that died
    assert records == run(problem, None)
    assert [path.name for path in tmp_path.iterdir()] == ["radii.json"]


def test_an_interrupted_run_of_random_copies_ends_in_the_same_bytes(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(sampled, "IMAGES_AT_ONCE", 3)
    method, norms = Smoothing(sigma=0.2, samples=300), ("l2", "l1")
    once, twice, asked = tmp_path / "once.parquet", tmp_path / "twice.parquet", []
    run(problem, once, norms, method=method)
    votes = Majority.votes

    def dies_in_the_third_piece(self, image, *arguments):
        asked.append(image)
        if len(asked) == 14:
            raise KeyboardInterrupt
        return votes(self, image, *arguments)

    monkeypatch.setattr(Majority, "votes", dies_in_the_third_piece)
    with pytest.raises(KeyboardInterrupt):
        run(problem, twice, norms, method=method)
    before = len(asked)
    records = run(problem, twice, norms, method=method)
    assert len(asked) - before < before  # the first two of four pieces were there already
    assert twice.read_bytes() == once.read_bytes()
    assert {record.confidence for record in records} == {0.999}
    assert sum(record.radius > 0 for record in records) > 8
    # pieces of other settings are others
    other = run(problem, None, norms, method=Smoothing(sigma=0.2, samples=300, seed=1))
    assert other != records


def test_a_damaged_piece_is_named(problem, tmp_path):
    model, images, labels = problem
    options = {"indices": range(8), "norms": ["l2"], "exact": False, "parts": tmp_path}
    with progress_display(False) as progress:
        certify_images(model, images, labels, progress=progress, **options)
        piece = next(tmp_path.iterdir())
        piece.write_bytes(piece.read_bytes()[:-9])
        with pytest.raises(AbsynthError, match=rf"{piece.name} cannot be read .* delete it to certify"):
            certify_images(model, images, labels, progress=progress, **options)


def test_every_format_holds_the_records(problem, tmp_path):
    records = run(problem, tmp_path / "radii.parquet")
    run(problem, tmp_path / "radii.csv")
    run(problem, tmp_path / "radii.json")
    rows = [vars(record) for record in records]
    assert pq.read_table(tmp_path / "radii.parquet").to_pylist() == rows
    assert json.loads((tmp_path / "radii.json").read_text()) == rows
    with (tmp_path / "radii.csv").open() as file:
        read = [float(row["radius"]) for row in csv.DictReader(file)]
    assert read == [record.radius for record in records]


def test_an_unknown_format_is_refused_before_the_work(problem, tmp_path):
    with pytest.raises(AbsynthError, match=r"\.parquet, \.csv, \.json"):
        certification.check_output(tmp_path / "radii.xlsx")
    with pytest.raises(AbsynthError, match="names no format of plots"):
        check_plot(tmp_path / "plot.gif")


def record(index: int, radius: float) -> CertificateRecord:
    return CertificateRecord(index, 1, 1, "l2", radius, "pairwise", False)


def test_the_table_shows_mean_median_and_shares():
    records = [record(0, 0.0), record(1, 1.0), record(2, 1.5), record(3, 2.5)]
    (table,) = certificate_tables(records, "model", "mnist")
    row = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert (row["mean"], row["median"]) == ("1.250", "1.250")
    assert (row["at 1"], row["at 1.5"], row["at 2"], row["at 3"]) == ("75.0%", "50.0%", "25.0%", "0.0%")


def test_the_tables_say_how_sure_they_are():
    sure = [record(0, 1.0)]
    for norm in ("l1", "l2", "linf"):
        sure.append(CertificateRecord(0, 1, 1, norm, 1.0, "smoothing sigma=0.5", False, confidence=0.999))
    *tables, union = certificate_tables(sure[1:], "model", "mnist")
    words = "each radius holds with a probability of 99.9 %"
    assert [table.caption for table in tables] == [f"1 images, method 'smoothing sigma=0.5', {words}"] * 3
    assert union.caption == words
    (certain,) = certificate_tables(sure[:1], "model", "mnist")
    assert certain.caption == "1 images, method 'pairwise'"


def test_the_plot_is_written(problem, tmp_path):
    plot_certificates(run(problem, None), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_gaps_are_recorded_where_they_were_looked_for(tmp_path):
    exact = CertificateRecord(0, 1, 1, "l2", 2.0, "polytope", True, gap=0.0015)
    open_ = CertificateRecord(1, 1, 1, "l2", 0.5, "polytope", True, gap=0.0015)
    write_certificates([exact, open_], tmp_path / "radii.parquet")
    assert pq.read_table(tmp_path / "radii.parquet")["gap"].to_pylist() == [0.0015, 0.0015]
    assert closed_share([exact, open_]) == 0.5
    (table,) = certificate_tables([exact, open_], "toy", "mnist")
    assert "gaps closed" in [column.header for column in table.columns]


def test_pieces_of_other_code_with_the_same_weights_are_not_gone_on_from(problem, tmp_path):
    model, images, labels = problem
    for identity in (None, "mine", "mine, edited"):
        with progress_display(False) as progress:
            certify_images(
                model,
                images,
                labels,
                indices=range(5),
                norms=["l2"],
                exact=False,
                parts=tmp_path,
                progress=progress,
                identity=identity,
            )
    assert len(list(tmp_path.iterdir())) == 3
