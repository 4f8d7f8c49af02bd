"""Records on disk: one file a finished task, written at once or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.evaluate.tasks import Task
from absynth.files import atomic_path, write_text

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
    norm: str
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

    A task's records are renamed into place after its images, so a task either counts as done with all that
    belongs to it or does not count. Two runs may write to one store: the same task gives the same files.

    Args:
        folder: Made if needed.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise AbsynthError(f"{folder} is a file; results need a folder.")
        self.folder = folder

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        return self.folder / kind / f"{key}{suffix}"

    def has(self, task: Task) -> bool:
        """Whether the task is done."""
        return self._path("records", task.key, ".parquet").exists()

    def put(self, task: Task, records: Sequence[Record], adversarials: Tensor, seconds: float) -> None:
        """Writes a finished task."""
        with atomic_path(self._path("adversarials", task.key, ".safetensors")) as temporary:
            save_file({"adversarials": adversarials.cpu().contiguous()}, temporary)
        write_text(self._path("seconds", task.key, ".json"), json.dumps({"seconds": seconds}))
        table = pa.Table.from_pylist([vars(record) for record in records], schema=SCHEMA)
        with atomic_path(self._path("records", task.key, ".parquet")) as temporary:
            pq.write_table(table, temporary)

    def put_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes a small result that belongs to the whole run."""
        write_text(self.folder / f"{name}.json", json.dumps(value, indent=2) + "\n")

    def get_json(self, name: str) -> dict[str, Any] | None:
        """What :meth:`put_json` wrote under this name."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    def records(self, tasks: Sequence[Task]) -> list[Record]:
        """The records of those tasks that are done, under the names that the tasks give their models.

        Raises:
            AbsynthError: If a file is damaged.
        """
        found: list[Record] = []
        for task in tasks:
            path = self._path("records", task.key, ".parquet")
            if not path.exists():
                continue
            try:
                rows = pq.read_table(path, schema=SCHEMA).to_pylist()
            except (pa.ArrowInvalid, OSError) as error:
                raise AbsynthError(
                    f"The record {path} is damaged ({error}); delete it to run it again."
                ) from None
            found += [Record(**(row | {"model": task.model})) for row in rows]
        return found

    def adversarials(self, task: Task) -> Tensor:
        """The adversarial images of a finished task, in the order of its indices.

        Raises:
            AbsynthError: If the task is not done.
        """
        path = self._path("adversarials", task.key, ".safetensors")
        if not path.exists():
            raise AbsynthError(f"{self.folder} holds no adversarials of {task.attack} on {task.model}.")
        return load_file(path)["adversarials"]
