"""Damaged, missing and half-written files of a store."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from absynth.errors import AbsynthError
from absynth.evaluate import store as module
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Task
from absynth.report.results import read_results

TASK = Task("m", "w", "l2", "a", "{}", "mnist", "d", (7, 3), 0)
RECORDS = [Record("m", "w", "l2", "a", "{}", "mnist", 0, index, 1, index / 2, 5) for index in TASK.indices]
IMAGES = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "store")
    store.put(TASK, RECORDS, IMAGES, 1.5)
    return store


def only(store: ResultStore, kind: str) -> Path:
    (path,) = (store.folder / kind).iterdir()
    return path


def test_what_was_put_comes_back(store: ResultStore) -> None:
    assert store.records([TASK]) == RECORDS
    assert torch.equal(store.adversarials(TASK), IMAGES)
    assert store.seconds(TASK) == 1.5


def test_the_first_of_two_runs_wins(store: ResultStore) -> None:
    before = only(store, "records").read_bytes()
    store.put(TASK, [], IMAGES + 1, 2.5)
    assert only(store, "records").read_bytes() == before
    assert torch.equal(store.adversarials(TASK), IMAGES)


def test_records_stand_beside_their_own_images_whatever_another_run_adds(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResultStore, "_records_name", lambda *_: "elsewhere.parquet")
    store.put(TASK, RECORDS, IMAGES / 2, 2.5)
    monkeypatch.undo()
    assert len(list((store.folder / "adversarials").iterdir())) == 2
    assert torch.equal(store.adversarials(TASK), IMAGES)


def test_a_task_without_its_records_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    store = ResultStore(tmp_path)
    monkeypatch.setattr(module.pq, "write_table", fails)
    with pytest.raises(KeyboardInterrupt):
        store.put(TASK, RECORDS, IMAGES, 1.0)
    assert not store.has(TASK)
    assert store.records([TASK]) == []
    with pytest.raises(AbsynthError, match="holds no adversarials of a on m"):
        store.adversarials(TASK)
    monkeypatch.undo()
    store.put(TASK, RECORDS, IMAGES, 1.0)
    assert torch.equal(store.adversarials(TASK), IMAGES)


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_run_that_dies_between_two_files_leaves_the_task_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    replace, renamed = Path.replace, []

    def dies(path: Path, destination: Path) -> Path:
        if len(renamed) == survived:
            raise KeyboardInterrupt
        renamed.append(destination)
        return replace(path, destination)

    store = ResultStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            store.put(TASK, RECORDS, IMAGES, 1.0)
    assert not store.has(TASK)
    store.put(TASK, RECORDS, IMAGES, 1.0)
    assert store.records([TASK]) == RECORDS
    assert torch.equal(store.adversarials(TASK), IMAGES)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" * 5])
def test_a_damaged_record_is_named(store: ResultStore, content: bytes) -> None:
    only(store, "records").write_bytes(content)
    with pytest.raises(AbsynthError, match=rf"{TASK.key}\.parquet is damaged .* delete it"):
        store.records([TASK])


def test_records_of_another_version_are_refused_by_name(store: ResultStore) -> None:
    path = only(store, "records")
    table = pq.read_table(path).drop_columns(["adversarials"]).append_column("image", pa.array([1, 2]))
    pq.write_table(table, path)
    for read in (lambda: store.records([TASK]), lambda: read_results(Path(store.folder))):
        with pytest.raises(AbsynthError, match=rf"{path.name} was written by another version of absynth"):
            read()
        with pytest.raises(AbsynthError, match=r"adversarials: string, image: int64\); use that version"):
            read()


def test_a_flipped_bit_is_told_or_changes_nothing(store: ResultStore) -> None:
    path = only(store, "records")
    whole = path.read_bytes()
    draw, told = random.Random(0), 0
    for _ in range(300):
        place = draw.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        try:
            assert store.records([TASK]) == RECORDS
        except AbsynthError:
            told += 1
    assert told > 100


def test_records_of_other_images_are_damage(store: ResultStore) -> None:
    other = Task("m", "w", "l2", "a", "{}", "mnist", "d", (3, 7), 0)
    only(store, "records").rename(store.folder / "records" / f"{other.key}.parquet")
    with pytest.raises(AbsynthError, match="other images"):
        store.records([other])


def test_damaged_and_missing_images_are_named(store: ResultStore) -> None:
    path = only(store, "adversarials")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(AbsynthError, match=rf"{path.name} are damaged"):
        store.adversarials(TASK)
    path.unlink()
    with pytest.raises(AbsynthError, match=rf"{path.name} cannot be read"):
        store.adversarials(TASK)


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1]", b"3", b'{"seconds": "many"}', b"\xff"])
def test_damaged_seconds_are_named(store: ResultStore, content: bytes) -> None:
    only(store, "seconds").write_bytes(content)
    with pytest.raises(AbsynthError, match=rf"{TASK.key}\.json is damaged"):
        store.seconds(TASK)
    only(store, "seconds").unlink()
    assert store.seconds(TASK) is None
