"""EMNIST's files under their own names: upright, and with letters for classes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from absynth.data import read_dataset
from absynth.errors import AbsynthError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 20, 20), dtype=np.uint8)


def write(folder: Path, begin: str, labels: list[int]) -> None:
    numbers = np.array(labels, np.uint8)
    header, count = struct.pack(">4i", 0x803, 6, 20, 20), struct.pack(">2i", 0x801, 6)
    (folder / f"{begin}-images-idx3-ubyte").write_bytes(header + IMAGES.tobytes())
    (folder / f"{begin}-labels-idx1-ubyte").write_bytes(count + numbers.tobytes())


def test_letters_are_set_upright_and_called_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, "emnist-letters-test", [1, 2, 26, 3, 1, 2])
    dataset = read_dataset(tmp_path, "test")
    assert torch.equal((255 * dataset.images[:, 0]).round().byte(), torch.tensor(IMAGES).transpose(1, 2))
    assert [dataset.class_names[label] for label in dataset.labels] == list("ABZCAB")
    (remark,) = dataset.remarks
    assert "turned upright, and its labels from 1 on are the classes A to Z" in remark


def test_digits_of_emnist_keep_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, "emnist-digits-train", [0, 1, 9, 3, 1, 2])
    dataset = read_dataset(tmp_path, "train")
    assert dataset.labels.tolist() == [0, 1, 9, 3, 1, 2]
    assert not dataset.named
    assert torch.equal((255 * dataset.images[:, 0]).round().byte(), torch.tensor(IMAGES).transpose(1, 2))


def test_other_names_are_taken_as_they_are_and_labels_from_1_are_told(tmp_path: Path) -> None:
    write(tmp_path, "mine-train", [1, 2, 3, 3, 1, 2])
    dataset = read_dataset(tmp_path, "train")
    assert torch.equal((255 * dataset.images[:, 0]).round().byte(), torch.tensor(IMAGES))
    assert dataset.labels.tolist() == [1, 2, 3, 3, 1, 2]
    (remark,) = dataset.remarks
    assert "labels-idx1-ubyte begin at 1: there are no images of class 0" in remark


def test_several_sets_in_one_folder_are_not_mixed_up(tmp_path: Path) -> None:
    for name in ("emnist-letters", "emnist-digits"):
        write(tmp_path, f"{name}-train", [1, 2, 3, 3, 1, 2])
    with pytest.raises(AbsynthError, match=r"several data sets \(emnist-digits, emnist-letters\); put the"):
        read_dataset(tmp_path, "train")
    write(tmp_path, "train", [0, 2, 3, 3, 1, 2])  # the usual names win
    assert read_dataset(tmp_path, "train").labels[0] == 0
