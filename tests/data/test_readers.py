"""IDX, .npz and picture folders: what is written comes back, and every mistake is told in one sentence."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy import ndarray
from PIL import Image

from absynth.data.folders import read_image_folder
from absynth.data.readers import parse_idx, read_idx, read_npz
from absynth.errors import AbsynthError

PLAIN: Callable[[bytes], bytes] = bytes


def idx(array: ndarray, magic: int | None = None) -> bytes:
    """``array`` as the content of an IDX file."""
    header = (magic or 0x800 + array.ndim).to_bytes(4, "big")
    return header + b"".join(extent.to_bytes(4, "big") for extent in array.shape) + array.tobytes()


def digits(count: int = 3, side: int = 28) -> tuple[ndarray, ndarray]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, side, side), dtype=np.uint8)
    return images, generator.integers(0, 10, count, dtype=np.uint8)


@pytest.mark.parametrize("compress", [PLAIN, gzip.compress, lzma.compress])
def test_idx_comes_back_plain_or_compressed(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    images, labels = digits()
    (tmp_path / "images").write_bytes(compress(idx(images)))
    (tmp_path / "labels").write_bytes(compress(idx(labels)))
    dataset = read_idx(tmp_path / "images", tmp_path / "labels", tuple("0123456789"))
    assert dataset.images.dtype == torch.float32
    assert dataset.labels.dtype == torch.int64
    assert torch.equal(dataset.images, torch.from_numpy(images.astype(np.float32)).div(255).unsqueeze(1))
    assert dataset.labels.tolist() == labels.tolist()
    assert dataset.class_names == tuple("0123456789")


@settings(max_examples=30, deadline=None)
@given(
    images=npst.arrays(np.uint8, npst.array_shapes(min_dims=3, max_dims=3, max_side=6)),
    data=st.data(),
)
def test_any_idx_comes_back(images: ndarray, data: st.DataObject) -> None:
    labels = data.draw(npst.arrays(np.uint8, len(images), elements=st.integers(0, 9)))
    dataset = parse_idx(idx(images), idx(labels), tuple("0123456789"), ("images", "labels"))
    assert (dataset.images[:, 0] * 255).round().to(torch.uint8).numpy().tolist() == images.tolist()
    assert dataset.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda content: idx(digits()[1]),
            "starts with 0x00000801; an IDX file of images starts with 0x00000803",
        ),
        (lambda content: content[:-1], "is truncated: it has 2367 bytes where 2368 are right"),
        (lambda content: content[:10], "is truncated: it has 10 bytes where 16 are right"),
        (lambda content: b"", "is truncated: it has 0 bytes where 16 are right"),
        (lambda content: content + b"!", "has too much data: 2369 bytes where 2368 are right"),
        (lambda content: gzip.compress(content)[:-9], "is truncated or damaged"),
        (lambda content: lzma.compress(content)[:-9], "is truncated or damaged"),
        (lambda content: gzip.compress(content) + b"!", "is truncated or damaged"),
        (
            lambda content: idx(digits(2)[0]),
            "holds 2 images but labels 3 labels; every image needs exactly one",
        ),
    ],
)
def test_a_spoilt_image_file_is_named(spoil: Callable[[bytes], bytes], sentence: str) -> None:
    images, labels = digits()
    with pytest.raises(AbsynthError, match=sentence) as caught:
        parse_idx(spoil(idx(images)), idx(labels), tuple("0123456789"), ("images", "labels"))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_spoilt_labels_and_empty_files_are_named() -> None:
    images, _ = digits()
    names = ("images", "labels")
    with pytest.raises(
        AbsynthError, match="labels has the label 10 at position 1; with 10 classes the labels go"
    ):
        parse_idx(idx(images), idx(np.array([0, 10, 3], np.uint8)), tuple("0123456789"), names)
    with pytest.raises(AbsynthError, match="an IDX file of labels starts with 0x00000801"):
        parse_idx(idx(images), idx(images), tuple("0123456789"), names)
    with pytest.raises(AbsynthError, match="holds no images"):
        parse_idx(idx(images[:0]), idx(np.zeros(0, np.uint8)), tuple("0123456789"), names)


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match=r"There is no file .*absent"):
        read_idx(tmp_path / "absent", tmp_path / "absent")
    with pytest.raises(AbsynthError, match="cannot be read"):
        read_idx(tmp_path, tmp_path)


def test_classes_without_names_are_called_by_their_numbers() -> None:
    images, labels = digits(3)
    names = ("images", "labels")
    dataset = parse_idx(idx(images), idx(np.array([2, 0, 11], np.uint8)), None, names)
    assert dataset.class_names == tuple(str(number) for number in range(12))
    assert not dataset.named
    assert parse_idx(idx(images), idx(labels), tuple("0123456789"), names).named
    with pytest.raises(AbsynthError, match="label 100 at position 1; with 100 classes"):
        parse_idx(idx(images), idx(np.array([0, 100, 3], np.uint8)), None, names)


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 1, 28, 28)])
@pytest.mark.parametrize("kind", ["integers", "reals"])
def test_npz_comes_back(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    images, labels = digits()
    stored = images.reshape(shape) if kind == "integers" else images.reshape(shape) / 255
    np.savez(tmp_path / "set.npz", images=stored, labels=labels, class_names=[f"c{i}" for i in range(10)])
    dataset = read_npz(tmp_path / "set.npz")
    assert torch.allclose(dataset.images[:, 0], torch.from_numpy(images.astype(np.float32) / 255))
    assert dataset.images.shape == (3, 1, 28, 28)
    assert dataset.labels.tolist() == labels.tolist()
    assert dataset.class_names[9] == "c9"


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"labels": [1]}, "has no array 'images'"),
        ({"images": np.zeros((1, 28, 28))}, "has no array 'labels'"),
        ({"images": np.zeros((1, 784)), "labels": [1]}, r"have the shape \(1, 784\)"),
        ({"images": np.zeros((1, 28, 28)), "labels": [0.5]}, "are float64 of the shape"),
        ({"images": np.zeros((1, 28, 28)), "labels": [-1]}, "has the label -1 at position 0"),
        ({"images": np.zeros((2, 28, 28)), "labels": [1]}, "holds 2 images but 'labels' in .* 1 labels"),
        ({"images": np.full((1, 28, 28), np.nan), "labels": [1]}, "not finite"),
        ({"images": np.full((1, 28, 28), 1.5), "labels": [1]}, "holds values from 0 to 1.5"),
        ({"images": np.full((1, 28, 28), -3), "labels": [1]}, "holds values from -3 to 0"),
        ({"images": np.full((1, 28, 28), "x"), "labels": [1]}, "pixels are integers or real numbers"),
        ({"images": np.array([[[None]]], dtype=object), "labels": [1]}, "cannot be read; give an undamaged"),
    ],
)
def test_a_spoilt_npz_is_named(tmp_path: Path, arrays: dict[str, ndarray], sentence: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(AbsynthError, match=sentence):
        read_npz(tmp_path / "set.npz")


def test_an_npz_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="There is no file"):
        read_npz(tmp_path / "absent.npz")
    for content in (b"", b"no archive", b"PK\x03\x04 cut off"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(AbsynthError, match="cannot be read; give an undamaged"):
            read_npz(tmp_path / "broken.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(AbsynthError, match="cannot be read; give an undamaged"):
        read_npz(tmp_path / "array.npz")


def test_an_image_folder_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    images, _ = digits(4)
    for index, name in enumerate(("zebra/a.png", "zebra/b.PNG", "ape/c.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(images[index]).save(tmp_path / name)
    Image.fromarray(np.stack([images[3]] * 3, axis=-1)).save(tmp_path / "ape/d.jpg", quality=100)
    (tmp_path / "ape/notes.txt").write_text("passed over")
    dataset = read_image_folder(tmp_path)
    assert dataset.class_names == ("ape", "zebra")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(dataset.images[[2, 3, 0], 0], torch.from_numpy(images[:3].astype(np.float32) / 255))
    assert dataset.images.shape == (4, 1, 28, 28)


def test_a_spoilt_image_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="There is no folder"):
        read_image_folder(tmp_path / "absent")
    with pytest.raises(AbsynthError, match="holds no pictures"):
        read_image_folder(tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/a.png").write_bytes(b"no picture")
    with pytest.raises(AbsynthError, match=r"a\.png cannot be read as a picture"):
        read_image_folder(tmp_path, strict=True)
    with pytest.raises(AbsynthError, match="holds no pictures that can be read"):
        read_image_folder(tmp_path)
