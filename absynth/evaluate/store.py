"""Records on disk: one file a finished task, written at once or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save
from torch import Tensor

from absynth.errors import AbsynthError, first_line
from absynth.evaluate.folders import open_folder
from absynth.evaluate.tasks import Task
from absynth.norms import Norm

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("weights", pa.string()),
        ("norm", pa.string()),
        ("attack", pa.string()),
        ("settings", pa.string()),
        ("dataset", pa.string()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("distance", pa.float64()),
        ("queries", pa.int64()),
        ("adversarials", pa.string()),
    ]
)


@dataclass(frozen=True)
class Record:
    """What one attack found for one image.

    Attributes:
        model: Name of the model.
        weights: Its hash.
        norm: Of the distance.
        attack: Name.
        settings: JSON.
        dataset: Name.
        seed: Of the attack.
        index: Of the image in the test split.
        label: Its class.
        distance: To the smallest verified adversarial; 0: misclassified without an attack; inf: none found.
        queries: Images that the model was asked about.
    """

    model: str
    weights: str
    norm: Norm
    attack: str
    settings: str
    dataset: str
    seed: int
    index: int
    label: int
    distance: float
    queries: int


class ResultStore:
    """A folder of records (Parquet), adversarial images (safetensors) and the seconds of each task (JSON).

    Each file is written at once or not at all, and a task's records after its images, so a task either counts
    as done with all that belongs to it or does not count. The file of the images has the hash of its content
    in its name, and the records name the file they belong to; so several runs may write to one store, and
    even where machines compute the same task with different last bits, no record stands beside another run's
    images. The seconds differ from run to run and are kept apart: the same run gives the same records and
    images to the bit.

    What a killed run was writing stays behind under a name that begins with a dot; nothing reads it.

    Args:
        folder: Made if needed; or a URL that fsspec can open, such as "s3://bucket/results".

    Raises:
        AbsynthError: If it is a file, or a URL that cannot be used.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = folder
        self._files = open_folder(folder)

    @property
    def location(self) -> str:
        """The absolute path of the folder, or its URL."""
        return self._files.location

    def _records_name(self, task: Task) -> str:
        return f"records/{task.key}.parquet"

    def has(self, task: Task) -> bool:
        """Whether the task is done."""
        return self._files.has(self._records_name(task))

    def put(self, task: Task, records: Sequence[Record], adversarials: Tensor, seconds: float) -> None:
        """Writes a finished task, unless another run has done so already.

        Args:
            task: What was done.
            records: One an image, in the order of the task's indices.
            adversarials: Their images, in the same order.
            seconds: Wall-clock time of the whole task.
        """
        if self.has(task):
            return
        indices = torch.tensor(task.indices)
        content = save({"adversarials": adversarials.cpu().contiguous(), "indices": indices})
        name = f"{task.key}-{content_digest(content)}.safetensors"
        self.write("adversarials", name, content)
        self.put_json("seconds", task.key, {"seconds": seconds})
        rows = [vars(record) | {"adversarials": name} for record in records]
        self._files.write(self._records_name(task), to_parquet(pa.Table.from_pylist(rows, schema=SCHEMA)))

    def write(self, kind: str, name: str, content: bytes) -> None:
        """Writes a file at once or not at all.

        Args:
            kind: Folder within the store.
            name: Of the file.
            content: All of it.
        """
        self._files.write(f"{kind}/{name}", content)

    def read(self, kind: str, name: str) -> bytes:
        """What :meth:`write` wrote.

        Args:
            kind: Folder within the store.
            name: Of the file.

        Raises:
            OSError: If it cannot be read.
        """
        return self._files.read(f"{kind}/{name}")

    def has_file(self, kind: str, name: str) -> bool:
        """Whether :meth:`write` wrote this.

        Args:
            kind: Folder within the store.
            name: Of the file.
        """
        return self._files.has(f"{kind}/{name}")

    def put_json(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        """Writes a small result.

        Args:
            kind: Folder within the store.
            name: Of the file, without its ending.
            value: Of plain JSON values.
        """
        self.write(kind, f"{name}.json", (json.dumps(dict(value)) + "\n").encode())

    def get_json(self, kind: str, name: str) -> dict[str, Any] | None:
        """What :meth:`put_json` wrote; None if there is no such file.

        Args:
            kind: Folder within the store.
            name: Of the file, without its ending.

        Raises:
            AbsynthError: If the file is damaged.
        """
        file = f"{kind}/{name}.json"
        try:
            return dict(json.loads(self._files.read(file).decode()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise self.damaged(file, error) from None

    def get_numbers(self, kind: str, name: str, keys: Sequence[str]) -> tuple[float, ...] | None:
        """Some numbers of what :meth:`put_json` wrote, by their keys; None if there is no such file.

        Raises:
            AbsynthError: If the file is damaged, or lacks one of the numbers.
        """
        value = self.get_json(kind, name)
        if value is None:
            return None
        try:
            return tuple(float(value[key]) for key in keys)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise self.damaged(f"{kind}/{name}.json", error) from None

    def seconds(self, task: Task) -> float | None:
        """Wall-clock time that the task took; None if that is not known.

        Raises:
            AbsynthError: If the file is damaged.
        """
        known = self.get_numbers("seconds", task.key, ["seconds"])
        return None if known is None else known[0]

    def records(self, tasks: Sequence[Task]) -> list[Record]:
        """The records of those tasks that are done, under the names that the tasks give model and data.

        Raises:
            AbsynthError: If a file is damaged.
        """
        found: list[Record] = []
        for task in tasks:
            for row in self._rows(task) if self.has(task) else []:
                del row["adversarials"]
                found.append(Record(**(row | {"model": task.model, "dataset": task.dataset})))
        return found

    def _rows(self, task: Task) -> list[dict[str, Any]]:
        file = self._records_name(task)
        try:
            content = self._files.read(file)
        except OSError as error:
            raise self.damaged(file, error) from None
        rows = read_rows(content, self._files.path(file))
        if tuple(row["index"] for row in rows) != task.indices:
            raise self.damaged(file, "other images")
        return rows

    def adversarials(self, task: Task) -> Tensor:
        """The adversarial images of a finished task, in the order of its indices.

        Raises:
            AbsynthError: If the task is not done, or a file is missing or damaged.
        """
        if not self.has(task):
            raise AbsynthError(f"{self.folder} holds no adversarials of {task.attack} on {task.model}.")
        name = str(self._rows(task)[0]["adversarials"])
        file, records = f"adversarials/{name}", self._files.path(self._records_name(task))
        try:
            content = self._files.read(file)
        except OSError as error:
            raise AbsynthError(
                f"The images {self._files.path(file)} cannot be read ({error.strerror or error}); "
                f"delete {records} to attack them again."
            ) from None
        if name != f"{task.key}-{content_digest(content)}.safetensors":
            raise AbsynthError(
                f"The images {self._files.path(file)} are damaged; delete them and {records} "
                "to attack them again."
            )
        return load(content)["adversarials"]

    def damaged(self, name: str, reason: object) -> AbsynthError:
        """The error that a file of this store is damaged.

        Args:
            name: Of the file, with its folder in the store.
            reason: What is wrong with it.
        """
        return _damaged(self._files.path(name), reason)


def read_rows(content: bytes, path: str) -> list[dict[str, Any]]:
    """The rows of a file of records, with the columns of :data:`SCHEMA`.

    Args:
        content: Of the file.
        path: What to call it in a message.

    Raises:
        AbsynthError: If the file is damaged, or was written by a version with other columns.
    """
    try:
        table = from_parquet(content)
        rows: list[dict[str, Any]] = table.to_pylist()
    except Exception as error:  # whatever Arrow may meet in a damaged file
        raise _damaged(path, error) from None
    if table.schema.remove_metadata() != SCHEMA:
        written, known = ({f"{one.name}: {one.type}" for one in fields} for fields in (table.schema, SCHEMA))
        other = ", ".join(sorted(written ^ known))
        raise AbsynthError(
            f"The record {path} was written by another version of absynth (columns that differ: "
            f"{other}); use that version, or delete it to run it again."
        )
    return rows


def to_parquet(table: pa.Table) -> bytes:
    """A table as the content of a file, each page with a checksum."""
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True)
    return content.getvalue()


def from_parquet(content: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """The table that :func:`to_parquet` made into the content of a file.

    Args:
        content: Of the file.
        schema: That the table must have, if any.

    Raises:
        Exception: Of any kind that Arrow knows, if the content is damaged.
        ValueError: If the table has another schema.
    """
    table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    if schema is not None and table.schema.remove_metadata() != schema:
        raise ValueError("other columns")
    return table


def _damaged(path: str, reason: object) -> AbsynthError:
    why = first_line(reason) if isinstance(reason, BaseException) else reason
    return AbsynthError(f"The record {path} is damaged ({why}); delete it to run it again.")


def content_digest(content: bytes) -> str:
    """What the name of a file of adversarial images ends in."""
    return hashlib.sha256(content).hexdigest()[:24]
