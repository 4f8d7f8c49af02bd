"""Stores on local and remote file systems: the same files, each whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from torch import nn

from absynth.errors import AbsynthError
from absynth.evaluate.folders import open_folder
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.progress import Progress

PRESET = Preset(("one",), "quick", {"l2": ("fgm",), "linf": ("fgsm",)}, 4, 10, shard=2)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, Path | str]]:
    yield {
        "path": tmp_path / "path",
        "file": f"{(tmp_path / 'file').as_uri()}/",
        "memory": "memory://results",
    }
    memory = fsspec.filesystem("memory")
    if memory.exists("/results"):
        memory.rm("/results", recursive=True)


def load_model(_: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def contents(place: Path | str) -> dict[str, bytes]:
    """Every file but the seconds, by its name within the place."""
    files, root = fsspec.core.url_to_fs(str(place))
    names = [path.removeprefix(root).lstrip("/") for path in files.find(root)]
    return {name: files.cat_file(f"{root}/{name}") for name in names if not name.startswith("seconds")}


def test_a_benchmark_leaves_the_same_files_everywhere(
    places: dict[str, Path | str], progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {}
    for kind, place in places.items():
        results[kind] = run_benchmark(PRESET, ResultStore(place), progress, load_model=load_model)
    assert results["path"].records == results["file"].records == results["memory"].records
    assert contents(places["path"]) == contents(places["file"]) == contents(places["memory"])
    assert len(contents(places["memory"])) == 3 * 4 + 1 + 2  # of 4 tasks each; clean, smallest
    for kind, place in places.items():
        monkeypatch.setattr(ResultStore, "put", lambda *_: pytest.fail("this was done already"))
        again = run_benchmark(PRESET, ResultStore(place), progress, load_model=load_model)
        assert again == results[kind]


def test_a_write_that_dies_leaves_what_was_there(
    places: dict[str, Path | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(places["file"])
    folder.write("kind/name", b"first")

    def dies(self: LocalFileSystem, path: str, value: bytes, **_: object) -> None:
        with self.open(path, "wb") as file:
            file.write(value[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", dies)
        with pytest.raises(KeyboardInterrupt):
            folder.write("kind/name", b"second")
        with pytest.raises(KeyboardInterrupt):
            folder.write("kind/other", b"third")
    assert folder.read("kind/name") == b"first"
    assert not folder.has("kind/other")
    assert list(contents(places["file"])) == ["kind/name"]
    folder.write("kind/name", b"second")
    assert folder.read("kind/name") == b"second"


def test_an_object_store_gets_a_file_by_a_single_put(
    places: dict[str, Path | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    puts: list[str] = []
    put = MemoryFileSystem.pipe_file

    def counts(self: MemoryFileSystem, path: str, value: bytes, **options: object) -> None:
        puts.append(path)
        put(self, path, value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", counts)
    folder = open_folder(places["memory"])
    folder.write("kind/name", b"all")
    assert puts == ["/results/kind/name"]
    assert folder.read("kind/name") == b"all"
    with pytest.raises(FileNotFoundError):
        folder.read("kind/other")


def test_a_place_that_takes_nothing_is_named(
    places: dict[str, Path | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("Access denied.\nAsk for it.")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuses)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuses)
    folder = open_folder(places["memory"])
    with pytest.raises(
        AbsynthError, match=r"^memory://results/kind/name cannot be written \(Access denied\);"
    ):
        folder.write("kind/name", b"all")
    with pytest.raises(OSError, match=r"^Access denied$"):
        folder.read("kind/name")


def test_damage_is_named_by_its_url(places: dict[str, Path | str], progress: Progress) -> None:
    store = ResultStore(places["memory"])
    result = run_benchmark(PRESET, store, progress, load_model=load_model)
    memory, first = fsspec.filesystem("memory"), result.tasks[0]
    memory.pipe_file(f"/results/records/{first.key}.parquet", b"no parquet")
    with pytest.raises(AbsynthError, match=rf"memory://results/records/{first.key}\.parquet is damaged"):
        store.records([first])
    for path in memory.find("/results/adversarials"):
        memory.rm(path)
    with pytest.raises(AbsynthError, match=r"The images memory://results/adversarials/.* cannot be read"):
        store.adversarials(result.tasks[1])


def test_a_url_that_nothing_opens() -> None:
    with pytest.raises(AbsynthError, match=r"Results cannot be kept at .* give a folder, or a URL"):
        open_folder("nowhere://bucket/results")


def test_where_results_are(tmp_path: Path) -> None:
    assert open_folder(tmp_path / "a").location == str((tmp_path / "a").resolve())
    assert open_folder("memory://results/").location == "memory://results"
