"""Reading what benchmarks and certificates wrote."""

import pytest
import torch

import absynth
from absynth.errors import AbsynthError
from absynth.evaluate.certification import (
    CertificateRecord,
    Origin,
    check_origin,
    read_origin,
    write_certificates,
)
from absynth.report.results import check_certificates, distances, read_certificates, read_results


def test_the_smallest_of_all_attacks_counts(small_results):
    results = read_results(small_results.folder)
    assert (results.models, results.norms, results.seeds) == (("cnn", "abs"), ("l2", "l0"), (3,))
    assert results.attacks("l2") == ("boundary", "ddn")
    expected = [
        min(pair)
        for pair in zip(
            small_results.distances["cnn", "l2", "ddn"],
            small_results.distances["cnn", "l2", "boundary"],
            strict=True,
        )
    ]
    assert distances(results.smallest("cnn", "l2")).tolist() == expected
    boundary = distances(results.smallest("cnn", "l2", "boundary")).tolist()
    assert boundary == list(small_results.distances["cnn", "l2", "boundary"])


def test_the_adversarial_belongs_to_its_record(small_results):
    results = read_results(small_results.folder)
    images, _ = absynth.load_dataset("mnist", "test")
    for finding in results.smallest("abs", "l0"):
        expected = images[finding.record.index, 0].clone()
        expected[0, 0] = 1
        assert torch.equal(results.adversarial(finding), expected)


def test_the_largest_clean_sample_counts(small_results, put_records, tmp_path):
    assert read_results(small_results.folder).clean["abs"].right == 97
    put_records(tmp_path, "abs", "l2", "ddn", (1.0,) * 8)
    assert read_results(tmp_path).clean == {}


def test_other_weights_get_other_names(put_records, tmp_path):
    put_records(tmp_path, "abs", "l2", "ddn", (1.0,) * 8, weights="a" * 64)
    put_records(tmp_path, "abs", "l2", "ddn", (2.0,) * 8, weights="b" * 64)
    results = read_results(tmp_path)
    assert results.models == ("abs (aaaaaaaa)", "abs (bbbbbbbb)")
    assert distances(results.smallest("abs (bbbbbbbb)", "l2")).tolist() == [2.0] * 8


def test_two_data_sets_need_a_choice(put_records, tmp_path):
    put_records(tmp_path, "abs", "l2", "ddn", (1.0,) * 8)
    put_records(tmp_path, "abs", "l2", "fmn", (2.0,) * 8, dataset="mine")
    with pytest.raises(AbsynthError, match="mine, mnist; choose one with --data"):
        read_results(tmp_path)
    assert distances(read_results(tmp_path, "mine").smallest("abs", "l2")).tolist() == [2.0] * 8
    with pytest.raises(AbsynthError, match="no records of 'other'"):
        read_results(tmp_path, "other")


def test_what_is_missing_or_damaged_is_named(put_records, tmp_path):
    with pytest.raises(AbsynthError, match="holds no records"):
        read_results(tmp_path)
    put_records(tmp_path, "abs", "l2", "ddn", (1.0,) * 8)
    results = read_results(tmp_path)
    (images,) = (tmp_path / "adversarials").iterdir()
    images.write_bytes(b"no images")
    with pytest.raises(AbsynthError, match="missing or damaged"):
        results.adversarial(results.smallest("abs", "l2")[0])
    (record,) = (tmp_path / "records").iterdir()
    record.write_bytes(b"no records")
    with pytest.raises(AbsynthError, match=record.name):
        read_results(tmp_path)


def test_certificates_are_read_by_model(tmp_path):
    records = [CertificateRecord(index, 7, 7, "l2", 0.5 * index, "pairwise", False) for index in range(3)]
    write_certificates(records, tmp_path / "radii.parquet")
    argument = f"codebook-abs={tmp_path / 'radii.parquet'}"
    assert read_certificates([argument]) == {"codebook-abs": tuple(records)}
    assert read_certificates([]) == {}
    with pytest.raises(AbsynthError, match="an image twice"):
        read_certificates([argument, argument])
    with pytest.raises(AbsynthError, match="names no certificates"):
        read_certificates([str(tmp_path / "radii.parquet")])
    with pytest.raises(AbsynthError, match="cannot be read"):
        read_certificates([f"abs={tmp_path / 'none.parquet'}"])


def test_certificates_of_another_model_or_other_images_are_refused(tmp_path):
    path, origin = tmp_path / "radii.parquet", Origin("w" * 64, "d" * 64)
    write_certificates([CertificateRecord(0, 7, 7, "l2", 0.5, "pairwise", False)], path, origin=origin)
    arguments = [f"mine={path}"]
    assert len(read_certificates(arguments)["mine"]) == 1
    assert read_origin(path) == origin
    check_certificates(arguments, {"mine": "w" * 64}, "d" * 64)
    check_certificates(arguments, {"other": "v" * 64})
    with pytest.raises(AbsynthError, match="of another model than mine"):
        check_certificates(arguments, {"mine": "v" * 64})
    with pytest.raises(AbsynthError, match="of other images"):
        check_certificates(arguments, {"mine": "w" * 64}, "e" * 64)
    check_origin(path, origin)
    check_origin(tmp_path / "new.parquet", origin)
    for other, what in (
        (Origin("v" * 64, "d" * 64), "another model"),
        (Origin("w" * 64, "e" * 64), "other im"),
    ):
        with pytest.raises(AbsynthError, match=f"holds certificates of {what}"):
            check_origin(path, other)
    write_certificates([], tmp_path / "silent.parquet")
    assert read_origin(tmp_path / "silent.parquet") is None
    check_origin(tmp_path / "silent.parquet", origin)
