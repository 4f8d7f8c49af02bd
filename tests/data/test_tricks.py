"""Files that are traps: what unpacks to too much, paths that lead elsewhere, pictures that are no files."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from absynth.data import readers
from absynth.data.folders import read_image_folder
from absynth.data.readers import read_npz, unpack
from absynth.errors import AbsynthError

SQUARE = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_compressed_file_that_holds_too_much_is_refused_before_it_is_unpacked(
    pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "UNPACKED_AT_ONCE", 2**10)
    monkeypatch.setattr(readers, "MOST_UNPACKED", 2**20)
    assert len(unpack(pack(bytes(2**20)), "images")) == 2**20
    with pytest.raises(AbsynthError, match=r"images unpacks to more than .* store it without compression"):
        unpack(pack(bytes(2**20 + 1)), "images")


def test_an_npz_that_holds_too_much_is_refused_and_an_uncompressed_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MOST_UNPACKED", 2**10)
    arrays = {"images": np.zeros((2, 28, 28), np.uint8), "labels": [0, 1]}
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    with pytest.raises(AbsynthError, match=r"packed\.npz unpacks to more than"):
        read_npz(tmp_path / "packed.npz")
    np.savez(tmp_path / "plain.npz", **arrays)
    assert len(read_npz(tmp_path / "plain.npz").images) == 2


def test_a_header_that_promises_terabytes_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    about = np.lib.format.header_data_from_array_1_0(SQUARE) | {"shape": (10**6, 10**4, 10**4)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    with pytest.raises(AbsynthError, match="cannot be read; give an undamaged"):
        read_npz(tmp_path / "liar.npz")


def test_names_in_an_npz_that_lead_elsewhere_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.npz"
    np.savez(path, images=SQUARE[None], labels=[0])
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../evil.npy", f"{tmp_path}/evil.npy", "C:\\evil.npy"):
            archive.writestr(name, b"evil")
    assert len(read_npz(path).images) == 1
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.npz", "inner"]


def test_links_in_an_image_folder_neither_loop_nor_hang(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    (folder / "7").mkdir(parents=True)
    Image.fromarray(SQUARE).save(folder / "7" / "a.png")
    (tmp_path / "secret.txt").write_text("no picture")
    (folder / "7" / "loop").symlink_to(folder)
    (folder / "7" / "folder.png").symlink_to(folder)
    (folder / "7" / "itself.png").symlink_to(folder / "7" / "itself.png")
    (folder / "7" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    (folder / "7" / "secret.png").symlink_to(tmp_path / "secret.txt")
    (folder / "7" / "noise.png").symlink_to("/dev/urandom")
    os.mkfifo(folder / "7" / "pipe.png")
    dataset = read_image_folder(folder)
    assert len(dataset.images) == 1
    assert len(dataset.remarks) == 6
    assert all(remark.startswith("Skipped: ") for remark in dataset.remarks)
    assert not any("no picture" in remark.removeprefix("Skipped: ") for remark in dataset.remarks)
