"""Certifies many images in pieces, so that a long run shows progress and can be interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from absynth.certify import Certificate, Certifier, Method, certifiable
from absynth.certify.provers.prototypes import PrototypeProver
from absynth.engine import Engine, Job, LocalEngine, run_jobs
from absynth.errors import AbsynthError, first_line
from absynth.evaluate.tasks import data_hash, weights_hash
from absynth.evaluate.witnesses import open_proofs, witnesses_of
from absynth.files import atomic_path, check_writable, write_bytes, write_text
from absynth.norms import NORMS, Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

SHARD = 500
"""Images of a piece, which are compared with the prototypes once for all norms; fewer for slow methods."""

EXACT_SHARD = 20
"""The same where exact radii are asked for, some seconds each."""

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
        ("confidence", pa.float64()),
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
        confidence: The probability that the radius holds; None if it is certain.
    """

    index: int
    label: int
    prediction: int
    norm: Norm
    radius: float
    method: str
    exact: bool
    gap: float | None = None
    confidence: float | None = None


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
    engine: Engine | None = None,
    method: Method | None = None,
    proofs: Path | None = None,
) -> list[CertificateRecord]:
    """The certificates of chosen images, norm by norm.

    The pieces depend on nothing but their images, so every engine gives the same radii; this process writes
    them.

    Args:
        model: What to certify.
        images: The whole split.
        labels: Its classes.
        indices: Which of its images.
        norms: In which norms.
        exact: As for :func:`absynth.certify.certify`.
        parts: Folder of finished pieces; a run that was interrupted goes on from them.
        progress: Where to show images done and left.
        engine: Where pieces are certified; by default in this process.
        method: As for :func:`absynth.certify.certify`.
        proofs: Folder for a file of witnesses a piece and norm; one that is there already stays.

    Raises:
        AbsynthError: If there are no certificates for the model, or no witnesses of them, or a finished
            piece is damaged.
        FailedTasksError: After all others are done, if pieces raised anything else.
    """
    folder = None if proofs is None else open_proofs(proofs, model, images, exact=exact, method=method)
    weights = weights_hash(model)
    scope = certifiable(model, method)
    shard = min(EXACT_SHARD if exact else SHARD, SHARD if scope is None else scope.at_once)
    settings = () if method is None else (method.name, asdict(method))  # type: ignore[call-overload]
    engine = engine or LocalEngine()
    shared = engine.share(model)
    bar = progress.add_task("certify", total=len(indices) * len(norms), note="")
    pieces: dict[tuple[Norm, Path], list[int]] = {}

    def finish(paths: Sequence[tuple[Path, Path | None]], piece: Sequence[_Piece], _: float) -> None:
        for (path, proof), (records, witnesses) in zip(paths, piece, strict=True):
            if proof is not None and witnesses is not None:
                write_bytes(proof, witnesses)
            with atomic_path(path) as temporary:
                pq.write_table(to_table(records), temporary, write_page_checksum=True)
            progress.advance(bar, len(records))

    def jobs() -> Iterator[Job]:
        for start in range(0, len(indices), shard):
            rows = list(indices[start : start + shard])
            chosen = images[rows], labels[rows]
            data = data_hash(*chosen)
            missing: dict[Norm, tuple[Path, Path | None]] = {}
            for norm in norms:
                identity = json.dumps([weights, norm, exact, rows, data, *settings])
                path = parts / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.parquet"
                pieces[norm, path] = rows
                proof = None if folder is None else folder.file(norm, rows, data)
                if proof is not None and proof.exists():
                    proof = None
                if path.exists() and proof is None:
                    progress.advance(bar, len(rows))
                else:
                    missing[norm] = path, proof
            if missing:
                asked = {norm: proof is not None for norm, (_, proof) in missing.items()}
                digest = "" if folder is None else folder.digest
                arguments = (*chosen, rows, asked, exact, method, digest)
                ending = partial(finish, list(missing.values()))
                yield Job(f"images {start} on", _certify_piece, shared, arguments, ending)

    run_jobs(engine, jobs(), progress, bar)
    advice = "delete it to certify these images again"
    records = []
    for (_, path), rows in sorted(pieces.items(), key=lambda piece: norms.index(piece[0][0])):
        found = read_certificate_file(path, advice)
        if [record.index for record in found] != rows:
            raise AbsynthError(f"The certificates {path} are for other images; {advice}.")
        records += found
    return records


_Piece = tuple[list[CertificateRecord], bytes | None]
"""The records of some images in one norm, and their witnesses as the content of a file."""


def _certify_piece(
    model: nn.Module,
    images: Images,
    labels: Labels,
    rows: Sequence[int],
    asked: Mapping[Norm, bool],
    exact: bool,
    method: Method | None,
    digest: str,
) -> list[_Piece]:
    """The records of some images in each norm, with witnesses where asked for."""
    certifier = Certifier(model, method)
    pieces: list[_Piece] = []
    for certificate in certifier.certify_in(images, labels, list(asked), exact):
        content = None
        if asked[certificate.norm] and isinstance(certifier.prover, PrototypeProver):
            content = witnesses_of(certifier.prover.codebook, certificate, images, rows, digest)
        pieces.append((certificate_records(certificate, rows, labels), content))
    return pieces


def certificate_records(
    certificate: Certificate, indices: Sequence[int], labels: Labels
) -> list[CertificateRecord]:
    """A certificate as records, one an image.

    Args:
        certificate: Of some images.
        indices: Which of their split they are.
        labels: Their classes.
    """
    return [
        CertificateRecord(
            index=index,
            label=int(labels[row]),
            prediction=int(certificate.prediction[row]),
            norm=certificate.norm,
            radius=float(certificate.radius[row]),
            method=certificate.method,
            exact=certificate.exact,
            gap=None if certificate.gap is None else float(certificate.gap[row]),
            confidence=certificate.confidence,
        )
        for row, index in enumerate(indices)
    ]


def read_certificate_file(path: Path, advice: str) -> list[CertificateRecord]:
    """The records of a Parquet file that :func:`write_certificates` wrote.

    Args:
        path: Of the file; columns that an earlier version did not write are None.
        advice: What to do if it cannot be read.

    Raises:
        AbsynthError: If it cannot be read, or holds what is no certificate.
    """
    try:
        table = pq.read_table(path, schema=SCHEMA, page_checksum_verification=True)
        records = [CertificateRecord(**row) for row in table.to_pylist()]
        if not all(one.norm in NORMS and one.radius >= 0 and one.index >= 0 for one in records):
            raise ValueError("a norm, radius or index that is none")
    except Exception as error:  # whatever Arrow may meet in a damaged file
        raise AbsynthError(
            f"The certificates {path} cannot be read ({first_line(error)}); {advice}."
        ) from None
    return records


def to_table(records: Sequence[CertificateRecord]) -> pa.Table:
    """The records as an Arrow table."""
    return pa.Table.from_pylist([vars(record) for record in records], schema=SCHEMA)


def check_output(path: Path) -> None:
    """Sees that results can be written to ``path``, before anything long is started.

    Raises:
        AbsynthError: If its ending names no known format, or nothing can be written there.
    """
    if path.suffix not in FORMATS:
        raise AbsynthError(
            f"'{path.name}' names no format that can be written; end it in {', '.join(FORMATS)}."
        )
    check_writable(path)


def write_certificates(
    records: Sequence[CertificateRecord], path: Path, class_names: Sequence[str] | None = None
) -> None:
    """Writes the records as Parquet, CSV or JSON, as the ending of ``path`` says.

    Args:
        records: To write.
        path: Where to.
        class_names: Added as columns for the label and the prediction; by default their numbers stand alone.
    """
    check_output(path)
    rows: list[dict[str, object]] = [dict(vars(record)) for record in records]
    schema = SCHEMA
    if class_names is not None:
        for row, record in zip(rows, records, strict=True):
            row["class"] = class_names[record.label]
            row["predicted_class"] = class_names[record.prediction]
        for name in ("class", "predicted_class"):
            schema = schema.append(pa.field(name, pa.string()))
    if path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=1) + "\n")
        return
    table = pa.Table.from_pylist(rows, schema=schema)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary, write_page_checksum=True)
        else:
            pa_csv.write_csv(table, temporary)


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
    engine: Engine | None = None,
    class_names: Sequence[str] | None = None,
    method: Method | None = None,
    proofs: Path | None = None,
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
        engine: Where pieces are certified; by default in this process.
        class_names: Written beside the numbers of the classes.
        method: As for :func:`absynth.certify.certify`.
        proofs: As for :func:`certify_images`.

    Raises:
        AbsynthError: As for :func:`certify_images`.
        FailedTasksError: As for :func:`certify_images`; the finished pieces are kept.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        parts = Path(elsewhere) if out is None else out.with_name(f".{out.name}.parts")
        records = certify_images(
            model,
            images,
            labels,
            indices=indices,
            norms=norms,
            exact=exact,
            parts=parts,
            progress=progress,
            engine=engine,
            method=method,
            proofs=proofs,
        )
        if out is not None:
            write_certificates(records, out, class_names)
            shutil.rmtree(parts)
    return records


def radii(records: Sequence[CertificateRecord], norm: Norm) -> Tensor:
    """The radii of one norm in the order of the records (float64)."""
    return torch.tensor([record.radius for record in records if record.norm == norm], dtype=torch.float64)
