"""Named data sets and paths through the front door."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image

from absynth.data import CATALOG, datasets, load_dataset, read_dataset
from absynth.errors import AbsynthError

IMAGES = np.arange(2 * 784, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)
LABELS = np.array([3, 7], dtype=np.uint8)


def idx(array: ndarray) -> bytes:
    header = (0x800 + array.ndim).to_bytes(4, "big")
    return header + b"".join(extent.to_bytes(4, "big") for extent in array.shape) + array.tobytes()


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_mnist_comes_with_the_package(
    split: str, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path / "empty"))
    images, labels = load_dataset("MNIST", split)
    assert images.shape == (count, 1, 28, 28)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(10))
    again, _ = load_dataset("mnist", split)
    again.zero_()
    assert images.any(), "two callers must not share memory"


def test_a_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    with pytest.raises(
        AbsynthError, match=r"t10k-images-idx3-ubyte\.xz of this installation is missing or damaged"
    ):
        load_dataset("mnist", "test")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/t10k-images-idx3-ubyte.xz").write_bytes(idx(IMAGES))
    with pytest.raises(AbsynthError, match="install absynth anew"):
        load_dataset("mnist", "test")


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_what_is_not_fetched_names_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path))
    with pytest.raises(AbsynthError, match=f"run 'absynth data fetch {name}'"):
        load_dataset(name, "test")


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_what_is_fetched_is_read(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contents = idx(IMAGES), idx(LABELS)
    if name == "kmnist":
        contents = gzip.compress(contents[0]), gzip.compress(contents[1])
    entry = CATALOG[name]
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    files = replace(entry.splits["test"], images_sha256=hashes[0], labels_sha256=hashes[1])
    monkeypatch.setitem(CATALOG, name, replace(entry, splits={**entry.splits, "test": files}))
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / files.images).write_bytes(contents[0])
    (tmp_path / name / files.labels).write_bytes(contents[1])
    dataset = read_dataset(name, "test")
    assert dataset.labels.tolist() == [3, 7]
    assert dataset.class_names == entry.class_names


@pytest.mark.parametrize(
    "names",
    [
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("test-images-idx3-ubyte.gz", "test-labels-idx1-ubyte.gz"),
    ],
)
def test_a_folder_of_idx_files(names: tuple[str, str], tmp_path: Path) -> None:
    for name, array in zip(names, (IMAGES, LABELS), strict=True):
        (tmp_path / name).write_bytes(gzip.compress(idx(array)) if name.endswith("gz") else idx(array))
    images, labels = load_dataset(tmp_path, "test")
    assert torch.equal(images[:, 0], torch.from_numpy(IMAGES.astype(np.float32) / 255))
    assert labels.tolist() == [3, 7]
    (tmp_path / names[1]).unlink()
    with pytest.raises(AbsynthError, match="holds the images of the test split but not its labels"):
        load_dataset(tmp_path, "test")


def test_a_missing_split_is_told(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    assert load_dataset(str(tmp_path), "train")[1].tolist() == [3, 7]
    with pytest.raises(
        AbsynthError, match="holds no test split; its files are called t10k-images-idx3-ubyte"
    ):
        load_dataset(tmp_path, "test")


def test_npz_and_picture_folders(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    assert read_dataset(tmp_path / "set.npz", "train").labels.tolist() == [3, 7]
    for folder in ("train/a", "test/a", "test/b"):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "pictures" / folder / "0.png")
    assert read_dataset(tmp_path / "pictures", "test").class_names == ("a", "b")
    # a class that one split lacks must not renumber the others
    assert read_dataset(tmp_path / "pictures", "train").class_names == ("a", "b")
    assert read_dataset(tmp_path / "pictures/test", "train").class_names == ("a", "b")


def test_every_mistake_in_the_asking_is_told(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="There is no split 'validation'; choose one of train, test"):
        load_dataset("mnist", "validation")
    with pytest.raises(
        AbsynthError, match="There is no data set 'cifar'; choose one of mnist, fashion-mnist, kmnist"
    ):
        load_dataset("cifar", "test")
    (tmp_path / "set.txt").write_text("1")
    with pytest.raises(AbsynthError, match=r"set\.txt is not a data set"):
        load_dataset(tmp_path / "set.txt", "test")
    with pytest.raises(AbsynthError, match="65x20 pixels were asked for; models take sides from 16 to 64"):
        read_dataset("mnist", "test", size=(65, 20))
    with pytest.raises(AbsynthError, match="holds no pictures"):
        (tmp_path / "empty").mkdir()
        load_dataset(tmp_path / "empty", "test")


def test_the_import_is_light() -> None:
    code = f"""
import sys, types, torch, jaxtyping
package = types.ModuleType("absynth")  # stands in for the package, whose own imports are not at issue
package.__path__ = [{str(Path(datasets.__file__).parents[1])!r}]
sys.modules["absynth"] = package
before = set(sys.modules)
import absynth.data
print({{"pooch", "scipy", "PIL", "requests"}} & (set(sys.modules) - before))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
