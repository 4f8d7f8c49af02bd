"""Data of one's own: any size, any number of classes, some of it broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from absynth.data import read_dataset
from absynth.data.adapt import match_classes, read_image
from absynth.data.domain import DIGITS, Domain, fit_size
from absynth.data.readers import Dataset
from absynth.data.split import Validation
from absynth.errors import AbsynthError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes in both splits and one in train alone; three sizes and a file that is no picture."""
    generator = np.random.default_rng(0)
    sizes = {
        "train/ape/a": (20, 20),
        "train/ape/b": (20, 20),
        "train/bee/a": (40, 30),
        "train/cow/a": (8, 8),
        "test/ape/a": (20, 20),
        "test/cow/a": (9, 7),
    }
    for name, size in sizes.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    (tmp_path / "train/bee/torn.png").write_bytes(b"\x89PNG torn")
    return tmp_path


def test_what_a_mac_leaves_in_an_archive_is_no_class(pictures: Path) -> None:
    before = read_dataset(pictures / "train", "train")
    (pictures / "train/__MACOSX/ape").mkdir(parents=True)
    (pictures / "train/__MACOSX/._a.png").write_bytes(b"Mac OS X")
    read = read_dataset(pictures / "train", "train")
    assert read.class_names == before.class_names == ("ape", "bee", "cow")
    assert read.labels.equal(before.labels)
    (remark,) = set(read.remarks) - set(before.remarks)
    assert "__MACOSX" in remark


def test_pictures_of_several_sizes_become_those_of_the_most_common(pictures: Path) -> None:
    dataset = read_dataset(pictures, "train")
    assert dataset.images.shape == (4, 1, 20, 20)
    assert dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.domain == Domain(("ape", "bee", "cow"), (20, 20))
    skipped, scaled = dataset.remarks
    assert "torn.png cannot be read as a picture" in skipped
    assert "2 of 4 images have other sizes (3 sizes in all); scaled to 20x20." in scaled
    untouched = np.asarray(Image.open(pictures / "train/ape/a.png"), dtype=np.float32) / 255
    assert torch.equal(dataset.images[0, 0], torch.from_numpy(untouched))


def test_a_split_that_lacks_a_class_keeps_the_numbers_of_the_others(pictures: Path) -> None:
    dataset = read_dataset(pictures, "test")
    assert dataset.class_names == ("ape", "bee", "cow")
    assert dataset.labels.tolist() == [0, 2]


def test_the_size_and_strictness_are_as_asked_for(pictures: Path) -> None:
    assert read_dataset(pictures, "test", size=(24, 33)).images.shape == (2, 1, 24, 33)
    with pytest.raises(AbsynthError, match=r"torn\.png cannot be read as a picture"):
        read_dataset(pictures, "train", strict=True)


def test_small_and_large_images_of_one_size_are_brought_into_range(tmp_path: Path) -> None:
    for side, expected in ((8, 16), (100, 64), (28, 28)):
        images = np.linspace(0, 1, 2 * side * side, dtype=np.float32).reshape(2, side, side)
        np.savez(tmp_path / "set.npz", images=images, labels=[0, 1])
        dataset = read_dataset(tmp_path / "set.npz", "train")
        assert dataset.images.shape == (2, 1, expected, expected)
        assert dataset.images.min() >= 0 and dataset.images.max() <= 1
        # a ramp stays a ramp
        assert (dataset.images[0, 0].mean(1).diff() > 0).all()
        assert len(dataset.remarks) == (side != expected)


def test_names_of_classes_must_differ(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 16, 16)), labels=[0, 1], class_names=["a", "a"])
    with pytest.raises(AbsynthError, match="hold a name twice"):
        read_dataset(tmp_path / "set.npz", "train")


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_fitted_size_is_in_range_and_keeps_what_is_in_range(height: int, width: int) -> None:
    fitted = fit_size((height, width))
    assert all(16 <= side <= 64 for side in fitted)
    if 16 <= height <= 64 and 16 <= width <= 64:
        assert fitted == (height, width)
    assert fit_size(fitted) == fitted


def labelled(names: tuple[str, ...], labels: list[int], *, named: bool = True) -> Dataset:
    return Dataset(torch.zeros(len(labels), 1, 16, 16), torch.tensor(labels), names, named=named)


def test_classes_are_matched_by_name() -> None:
    model = ("ape", "bee", "cow")
    matched = match_classes(labelled(("bee", "dog", "ape"), [0, 2, 2]), model, "it")
    assert matched.labels.tolist() == [1, 0, 0]
    assert matched.class_names == model
    with pytest.raises(AbsynthError, match=r"it has the class 'dog'.* its 3 classes are ape, bee, cow"):
        match_classes(labelled(("bee", "dog", "ape"), [0, 1]), model, "it")
    assert match_classes(labelled(("0", "1"), [1], named=False), model, "it").labels.tolist() == [1]
    with pytest.raises(AbsynthError, match="class '3'"):
        match_classes(labelled(("0", "1", "2", "3"), [3], named=False), model, "it")


def test_a_picture_is_made_a_digit_for_models_of_digits_alone(tmp_path: Path) -> None:
    paper = np.full((60, 40), 255, np.uint8)
    paper[10:50, 18:22] = 0
    Image.fromarray(paper).save(tmp_path / "bar.png")
    digit = read_image(tmp_path / "bar.png", DIGITS)
    assert digit.shape == (1, 28, 28)
    assert digit[0, 0].max() == 0, "a digit is light on dark"
    plain = read_image(tmp_path / "bar.png", Domain(("bar", "ring"), (30, 20)))
    assert plain.shape == (1, 30, 20)
    assert plain[0, 0].min() == 1
    assert plain[0, 15, 10] < 0.1


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80),
    st.floats(0, 0.99),
    st.integers(0, 5),
)
def test_the_split_is_a_partition_that_leaves_every_class_an_image(
    labels: list[int], share: float, seed: int
) -> None:
    truth = torch.tensor(labels)
    trained, held_out = Validation(share, seed).split(truth)
    assert sorted([*trained.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert set(truth[trained].tolist()) == set(labels)
    for label in set(labels):
        count = labels.count(label)
        held = int((truth[held_out] == label).sum())
        assert held == min(round(share * count), count - 1)
    again = Validation(share, seed).split(truth)
    assert torch.equal(again[1], held_out)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_senseless_share_is_refused(share: float) -> None:
    with pytest.raises(AbsynthError, match="at least 0 and below 1"):
        Validation(share)
