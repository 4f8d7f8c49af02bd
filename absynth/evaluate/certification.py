"""Certifies many images in pieces, so that a long run shows progress and can be interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from absynth.certify import Certificate, certify
from absynth.errors import AbsynthError
from absynth.evaluate.tasks import data_hash, weights_hash
from absynth.files import atomic_path, write_text
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

SHARD = 250
FORMATS = (".parquet", ".csv", ".json")
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
        ("norm", pa.string()),
        ("radius", pa.float64()),
        ("method", pa.string()),
        ("exact", pa.bool_()),
        ("gap", pa.float64()),
    ]
)


@dataclass(frozen=True)
class CertificateRecord:
    """The proven radius of one image in one norm.

    Attributes:
        index: Of the image in its split.
        label: Its class.
        prediction: What the model says.
        norm: Of the radius.
        radius: No change of this size or less flips the prediction; 0 where the prediction is wrong.
        method: What proved it.
        exact: Whether the radius was matched with an actual adversarial example.
        gap: How much further away that is; infinite where none was found; None if it was not looked for.
    """

    index: int
    label: int
    prediction: int
    norm: Norm
    radius: float
    method: str
    exact: bool
    gap: float | None = None


def certify_images(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    indices: Sequence[int],
    norms: Sequence[Norm],
    exact: bool,
    parts: Path,
    progress: Progress,
) -> list[CertificateRecord]:
    """The certificates of chosen images, norm by norm.

    Args:
        model: What to certify.
        images: The whole split.
        labels: Its classes.
        indices: Which of its images.
        norms: In which norms.
        exact: As for :func:`absynth.certify.certify`.
        parts: Folder of finished pieces; a run that was interrupted goes on from them.
        progress: Where to show images done and left.
    """
    weights = weights_hash(model)
    records: list[CertificateRecord] = []
    for norm in norms:
        bar = progress.add_task(f"certify {norm}", total=len(indices), note="")
        for start in range(0, len(indices), SHARD):
            rows = list(indices[start : start + SHARD])
            identity = json.dumps([weights, norm, exact, rows, data_hash(images[rows], labels[rows])])
            path = parts / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.parquet"
            if not path.exists():
                certificate = certify(model, images[rows], labels[rows], norm=norm, exact=exact)
                piece = _to_records(certificate, labels, rows, norm)
                with atomic_path(path) as temporary:
                    pq.write_table(to_table(piece), temporary)
            records += [CertificateRecord(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]
            progress.advance(bar, len(rows))
    return records


def _to_records(
    certificate: Certificate, labels: Labels, rows: Sequence[int], norm: Norm
) -> list[CertificateRecord]:
    return [
        CertificateRecord(
            index=index,
            label=int(labels[index]),
            prediction=int(certificate.prediction[row]),
            norm=norm,
            radius=float(certificate.radius[row]),
            method=certificate.method,
            exact=certificate.exact,
            gap=None if certificate.gap is None else float(certificate.gap[row]),
        )
        for row, index in enumerate(rows)
    ]


def to_table(records: Sequence[CertificateRecord]) -> pa.Table:
    """The records as an Arrow table."""
    return pa.Table.from_pylist([vars(record) for record in records], schema=SCHEMA)


def check_output(path: Path) -> None:
    """Sees that results can be written to ``path``, before anything long is started.

    Raises:
        AbsynthError: If its ending names no known format.
    """
    if path.suffix not in FORMATS:
        raise AbsynthError(
            f"'{path.name}' names no format that can be written; end it in {', '.join(FORMATS)}."
        )


def write_certificates(records: Sequence[CertificateRecord], path: Path) -> None:
    """Writes the records as Parquet, CSV or JSON, as the ending of ``path`` says."""
    check_output(path)
    if path.suffix == ".json":
        write_text(path, json.dumps([vars(record) for record in records], indent=1) + "\n")
        return
    write = pq.write_table if path.suffix == ".parquet" else pa_csv.write_csv
    with atomic_path(path) as temporary:
        write(to_table(records), temporary)


def run_certification(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    indices: Sequence[int],
    norms: Sequence[Norm],
    exact: bool,
    out: Path | None,
    progress: Progress,
) -> list[CertificateRecord]:
    """Certifies images and writes the radii to ``out``, going on from the pieces of an interrupted run.

    The pieces lie beside ``out`` and are removed once it is written.

    Args:
        model: What to certify.
        images: The whole split.
        labels: Its classes.
        indices: Which of its images.
        norms: In which norms.
        exact: As for :func:`absynth.certify.certify`.
        out: A .parquet, .csv or .json file, or nowhere.
        progress: Where to show images done and left.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        parts = Path(elsewhere) if out is None else out.with_name(f".{out.name}.parts")
        records = certify_images(
            model, images, labels, indices=indices, norms=norms, exact=exact, parts=parts, progress=progress
        )
        if out is not None:
            write_certificates(records, out)
            shutil.rmtree(parts)
    return records


def radii(records: Sequence[CertificateRecord], norm: Norm) -> Tensor:
    """The radii of one norm in the order of the records (float64)."""
    return torch.tensor([record.radius for record in records if record.norm == norm], dtype=torch.float64)
