"""What a benchmark proves beside its attacks: pieces of certificates, each a file of the result store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from torch import nn

from absynth.certify import certifying_method
from absynth.errors import AbsynthError, first_line
from absynth.evaluate.certification import SCHEMA, CertificateRecord
from absynth.evaluate.store import ResultStore, from_parquet, to_parquet
from absynth.evaluate.tasks import Preset
from absynth.norms import NORMS, Norm

FOLDER = "certificates"
"""Of the result store."""

PIECE_SCHEMA = pa.schema(
    [("model", pa.string()), ("weights", pa.string()), ("dataset", pa.string()), *SCHEMA]
)


@dataclass(frozen=True)
class ProofTask:
    """The certificates of one model for some images in one norm.

    Attributes:
        model: Name or folder of the model.
        weights: Hash of what the model computes with.
        norm: Of the radii.
        method: What certifies.
        dataset: Name or path of the data set, of which the test split is used.
        data: Hash of that split.
        indices: Which of its images.
    """

    model: str
    weights: str
    norm: Norm
    method: str
    dataset: str
    data: str
    indices: tuple[int, ...]

    @property
    def file(self) -> str:
        """Its name in the store: a hash of everything that the radii depend on, after that of the model."""
        parts = (self.weights, self.norm, self.method, self.data, self.indices)
        return f"{self.weights[:24]}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}.parquet"


def plan_proofs(
    preset: Preset, name: str, model: nn.Module, *, weights: str, data: str, indices: Sequence[int]
) -> list[list[ProofTask]]:
    """What is certified of a model in the norms of the attacks: for each piece of images a task a norm.

    Nothing where the preset certifies nothing, or the model has no proof that is certain.

    Args:
        preset: How many images are certified.
        name: Of the model.
        model: The model itself.
        weights: Its hash.
        data: Hash of the test split.
        indices: Which of its images are attacked.
    """
    found = certifying_method(model) if preset.certify_images else None
    if found is None:
        return []
    method, scope = found
    norms = [norm for norm in preset.norms if norm in scope.norms]
    if not scope.proven or scope.confidence is not None or not norms:
        return []
    chosen = indices[: preset.certified_by(method.name)]
    size = min(preset.shard, scope.at_once)
    return [
        [
            ProofTask(
                name,
                weights,
                norm,
                method.name,
                preset.dataset,
                data,
                tuple(chosen[start : start + size]),
            )
            for norm in norms
        ]
        for start in range(0, len(chosen), size)
    ]


def has_proof(store: ResultStore, task: ProofTask) -> bool:
    """Whether the piece is certified."""
    return store.has_file(FOLDER, task.file)


def put_proof(store: ResultStore, task: ProofTask, records: Sequence[CertificateRecord]) -> None:
    """Writes the certificates of a piece.

    Args:
        store: Where to.
        task: What was certified.
        records: One an image, in the order of the task's indices.
    """
    known = {"model": task.model, "weights": task.weights, "dataset": task.dataset}
    table = pa.Table.from_pylist([known | vars(record) for record in records], schema=PIECE_SCHEMA)
    store.write(FOLDER, task.file, to_parquet(table))


def read_proof(store: ResultStore, task: ProofTask) -> list[CertificateRecord]:
    """The certificates of a piece.

    Raises:
        AbsynthError: If the file is damaged, or of other images.
    """
    name = f"{FOLDER}/{task.file}"
    try:
        content = store.read(FOLDER, task.file)
    except OSError as error:
        raise store.damaged(name, error) from None
    records = [record for _, _, record in read_piece(content, name)]
    if tuple(record.index for record in records) != task.indices:
        raise store.damaged(name, "other images")
    return records


def read_piece(content: bytes, path: str) -> list[tuple[str, str, CertificateRecord]]:
    """The rows of a file of certificates, each with the hash of its model and the name of its data set.

    Args:
        content: Of the file.
        path: What to call it in a message.

    Raises:
        AbsynthError: If the file is damaged.
    """
    try:
        rows: list[dict[str, Any]] = from_parquet(content, PIECE_SCHEMA).to_pylist()
        found = []
        for row in rows:
            del row["model"]
            weights, dataset = row.pop("weights"), row.pop("dataset")
            record = CertificateRecord(**row)
            if record.norm not in NORMS or not record.radius >= 0:
                raise ValueError("a norm or radius that is none")
            found.append((weights, dataset, record))
    except Exception as error:  # whatever Arrow may meet in a damaged file
        raise AbsynthError(
            f"The certificates {path} are damaged ({first_line(error)}); delete them to prove them again."
        ) from None
    return found
