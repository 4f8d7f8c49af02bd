import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from absynth.inference import CodebookABS, cache
from absynth.inference.cache import fingerprint, finish_writing, remembered
from absynth.inference.codebook import draw_latents
from absynth.models.pretrained import load_folder
from absynth.models.prototypes import SMALL_CODEBOOK
from absynth.models.vae import Decoder

TENSOR = torch.arange(6.0).view(2, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path))
    monkeypatch.delenv("ABSYNTH_CODEBOOK_CACHE", raising=False)
    monkeypatch.setattr(cache, "LEAST_BYTES", 0)
    yield tmp_path / "codebooks"
    finish_writing()


class Maker:
    """Makes tensors and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"tensor": TENSOR.clone(), "more": torch.arange(3)}


def test_what_was_made_once_is_read(folder: Path) -> None:
    make = Maker()
    for _ in range(3):
        assert torch.equal(remembered("key", 24, make)["tensor"], TENSOR)
    assert make.calls == 1
    finish_writing()
    assert [path.name for path in folder.iterdir()] == ["key.safetensors"]
    remembered("key", 24, make)["tensor"].zero_()
    assert torch.equal(remembered("key", 24, make)["tensor"], TENSOR), (
        "writing to the result changed the file"
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no safetensors"])
def test_a_damaged_file_is_made_again(folder: Path, damage: str) -> None:
    make = Maker()
    remembered("key", 24, make)
    finish_writing()
    path = folder / "key.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-4],
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "empty": b"",
            "no safetensors": b"nonsense" * 20,
        }[damage]
    )
    assert torch.equal(remembered("key", 24, make)["tensor"], TENSOR)
    assert make.calls == 2
    finish_writing()
    assert path.read_bytes() == content


def test_what_changes_while_it_is_written_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Maker()

    def write_late(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        tensors["tensor"].zero_()
        save_file(tensors, path, metadata)

    monkeypatch.setattr(cache, "save_file", write_late)
    remembered("key", 24, make)
    finish_writing()
    monkeypatch.setattr(cache, "save_file", save_file)
    assert (folder / "key.safetensors").exists()
    assert torch.equal(remembered("key", 24, make)["tensor"], TENSOR)
    assert make.calls == 2


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    make = Maker()
    assert torch.equal(remembered("key", 24, make)["tensor"], TENSOR)
    assert torch.equal(remembered("key", 24, make)["tensor"], TENSOR)
    assert make.calls == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_no_error(folder: Path) -> None:
    folder.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert torch.equal(remembered("key", 24, Maker())["tensor"], TENSOR)


def test_the_variable_turns_it_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSYNTH_CODEBOOK_CACHE", "0")
    remembered("key", 24, Maker())
    assert not folder.exists()


def test_small_and_huge_tensors_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LEAST_BYTES", 20)
    monkeypatch.setattr(cache, "MOST_BYTES", 30)
    for size in (19, 31):
        remembered("key", size, Maker())
    assert not folder.exists()


def test_the_longest_unread_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered("first", 24, Maker())
    finish_writing()
    monkeypatch.setattr(cache, "MOST_BYTES", 2 * (folder / "first.safetensors").stat().st_size)
    remembered("second", 24, Maker())
    finish_writing()
    for age, name in enumerate(["second", "first"]):
        os.utime(folder / f"{name}.safetensors", (1000 + age, 1000 + age))
    remembered("second", 24, Maker())
    remembered("third", 24, Maker())
    finish_writing()
    assert sorted(path.stem for path in folder.iterdir()) == ["second", "third"]


def test_what_killed_processes_left_is_deleted(folder: Path) -> None:
    folder.mkdir()
    names = {".first-abc.safetensors": 10_000, ".tmpXYZ": 10_000, ".at-work.safetensors": 10, ".tmpABC": 10}
    for name, age in names.items():
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    remembered("second", 24, Maker())
    finish_writing()
    assert sorted(path.name for path in folder.iterdir()) == [
        ".at-work.safetensors",
        ".tmpABC",
        "second.safetensors",
    ]


def test_the_fingerprint_covers_values_types_shapes_and_recipe() -> None:
    prints = [
        fingerprint([TENSOR], "recipe"),
        fingerprint([TENSOR], "other"),
        fingerprint([TENSOR.view(3, 2)], "recipe"),
        fingerprint([TENSOR.view(torch.int32)], "recipe"),
        fingerprint([TENSOR + torch.eye(2, 3)], "recipe"),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint([TENSOR.T.contiguous().T], "recipe") == prints[0]


@pytest.mark.parametrize("count", [30, SMALL_CODEBOOK + 1])
def test_a_loaded_codebook_is_the_decoded_one_bit_for_bit(
    count: int,
    folder: Path,
    tmp_path: Path,
    make_decoder: Callable[..., Decoder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = CodebookABS([make_decoder(seed) for seed in range(2)], draw_latents(count))
    model.prepare()
    assert not folder.exists(), "only loading a model keeps anything"
    saved = model.save_pretrained(tmp_path / "model")
    load_folder(saved)
    monkeypatch.setattr(CodebookABS, "decode", None)
    monkeypatch.setattr(CodebookABS, "index", None)
    loaded = load_folder(saved)
    assert isinstance(loaded, CodebookABS)
    assert torch.equal(loaded.prototypes().images, model.prototypes().images)
    assert torch.equal(loaded.prototypes().offsets, model.prototypes().offsets)
    kept, computed = loaded.indexed(), model.indexed()
    assert kept.keys() == computed.keys()
    assert all(torch.equal(kept[name], computed[name]) for name in kept)


def test_a_codebook_that_differs_in_its_offsets_alone_is_another_one(
    folder: Path, tmp_path: Path, make_decoder: Callable[..., Decoder]
) -> None:
    decoders = [make_decoder(seed) for seed in range(2)]
    for prior_weight in (1.0, 0.5):
        model = CodebookABS(decoders, draw_latents(30), prior_weight=prior_weight)
        model.prepare()
        loaded = load_folder(model.save_pretrained(tmp_path / str(prior_weight)))
        assert isinstance(loaded, CodebookABS)
        assert torch.equal(loaded.indexed()["energies"], model.indexed()["energies"])
