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
from absynth.evaluate.minima import SUFFIX, join_adversarials, pack_adversarials
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
ORIGIN = b"absynth"
"""Key of the metadata of a Parquet file that says what its certificates are of."""

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
    adversarials: Path | None = None,
    identity: str | None = None,
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
        adversarials: File for the smallest adversarials (:mod:`absynth.evaluate.minima`), where exact.
        identity: Hash of all that decides what the model answers; by default of its weights.

    Raises:
        AbsynthError: If there are no certificates for the model, or no witnesses of them, or a finished
            piece is damaged.
        FailedTasksError: After all others are done, if pieces raised anything else.
    """
    folder = None if proofs is None else open_proofs(proofs, model, images, exact=exact, method=method)
    weights = identity or weights_hash(model)
    scope = certifiable(model, method)
    shard = min(EXACT_SHARD if exact else SHARD, SHARD if scope is None else scope.at_once)
    settings = () if method is None else (method.name, asdict(method))  # type: ignore[call-overload]
    engine = engine or LocalEngine()
    shared = engine.share(model)
    bar = progress.add_task("certify", total=len(indices) * len(norms), note="")
    pieces: dict[tuple[Norm, Path], list[int]] = {}

    def finish(files: Sequence[_Files], piece: Sequence[_Piece], _: float) -> None:
        for file, found in zip(files, piece, strict=True):
            for path, content in ((file.proof, found.proof), (file.images, found.images)):
                if path is not None and content is not None:
                    write_bytes(path, content)
            with atomic_path(file.records) as temporary:
                pq.write_table(to_table(found.records), temporary, write_page_checksum=True)
            progress.advance(bar, len(found.records))

    def jobs() -> Iterator[Job]:
        for start in range(0, len(indices), shard):
            rows = list(indices[start : start + shard])
            chosen = images[rows], labels[rows]
            data = data_hash(*chosen)
            missing: dict[Norm, _Files] = {}
            for norm in norms:
                depends_on = json.dumps([weights, norm, exact, rows, data, *settings])
                path = parts / f"{hashlib.sha256(depends_on.encode()).hexdigest()[:24]}.parquet"
                pieces[norm, path] = rows
                files = _Files(
                    path,
                    proof=None if folder is None else folder.file(norm, rows, data),
                    images=None if adversarials is None else path.with_suffix(SUFFIX),
                ).missing()
                if path.exists() and files.proof is None and files.images is None:
                    progress.advance(bar, len(rows))
                else:
                    missing[norm] = files
            if missing:
                digest = "" if folder is None else folder.digest
                arguments = (*chosen, rows, missing, exact, method, digest)
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
    if adversarials is not None:
        join_adversarials(((norm, path.with_suffix(SUFFIX)) for norm, path in pieces), adversarials)
    return records


@dataclass(frozen=True)
class _Files:
    """Where a piece of one norm is written: what is None is not asked for, or is there."""

    records: Path
    proof: Path | None
    images: Path | None

    def missing(self) -> _Files:
        """The same without what is there; the records are written beside it again."""
        proof, images = (
            None if path is None or path.exists() else path for path in (self.proof, self.images)
        )
        return _Files(self.records, proof, images)


@dataclass(frozen=True)
class _Piece:
    """What was found for some images in one norm, witnesses and adversarials as the content of files."""

    records: list[CertificateRecord]
    proof: bytes | None
    images: bytes | None


def _certify_piece(
    model: nn.Module,
    images: Images,
    labels: Labels,
    rows: Sequence[int],
    asked: Mapping[Norm, _Files],
    exact: bool,
    method: Method | None,
    digest: str,
) -> list[_Piece]:
    """The records of some images in each norm, with witnesses and adversarials where asked for."""
    certifier = Certifier(model, method)
    pieces: list[_Piece] = []
    for certificate in certifier.certify_in(images, labels, list(asked), exact):
        files, proof, found = asked[certificate.norm], None, None
        if files.proof is not None and isinstance(certifier.prover, PrototypeProver):
            proof = witnesses_of(certifier.prover.codebook, certificate, images, rows, digest)
        if files.images is not None:
            found = pack_adversarials(certificate, rows)
        pieces.append(_Piece(certificate_records(certificate, rows, labels), proof, found))
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


@dataclass(frozen=True)
class Origin:
    """What certificates are of.

    Attributes:
        weights: Hash of what decides (:func:`absynth.evaluate.models.identity`).
        data: Hash of the whole split (:func:`absynth.evaluate.tasks.data_hash`).
    """

    weights: str
    data: str


def read_origin(path: Path) -> Origin | None:
    """What the certificates in a Parquet file are of; None if it does not say, or cannot be read."""
    try:
        return Origin(**json.loads(pq.read_schema(path).metadata[ORIGIN]))
    except Exception:  # whatever Arrow may meet in another's file
        return None


def check_origin(path: Path, origin: Origin) -> None:
    """Sees that no certificates of another model or other images are written over.

    Raises:
        AbsynthError: If the file has such.
    """
    known = read_origin(path) if path.suffix == ".parquet" and path.exists() else None
    if known is not None and known != origin:
        what = "of other images" if known.weights == origin.weights else "of another model"
        raise AbsynthError(f"{path} holds certificates {what}; name another file, or delete it.")


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
    records: Sequence[CertificateRecord],
    path: Path,
    class_names: Sequence[str] | None = None,
    origin: Origin | None = None,
) -> None:
    """Writes the records as Parquet, CSV or JSON, as the ending of ``path`` says.

    Args:
        records: To write.
        path: Where to.
        class_names: Added as columns for the label and the prediction; by default their numbers stand alone.
        origin: Written into the metadata of a Parquet file.
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
    if origin is not None:
        schema = schema.with_metadata({ORIGIN: json.dumps(asdict(origin)).encode()})
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
    adversarials: Path | None = None,
    identity: str | None = None,
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
        adversarials: Likewise.
        identity: Likewise.

    Raises:
        AbsynthError: As for :func:`certify_images`; or if ``out`` holds certificates of another model.
        FailedTasksError: As for :func:`certify_images`; the finished pieces are kept.
    """
    origin = Origin(identity or weights_hash(model), data_hash(images, labels))
    if out is not None:
        check_origin(out, origin)
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
            adversarials=adversarials,
            identity=origin.weights,
        )
        if out is not None:
            write_certificates(records, out, class_names, origin)
            shutil.rmtree(parts)
    return records


def radii(records: Sequence[CertificateRecord], norm: Norm) -> Tensor:
    """The radii of one norm in the order of the records (float64)."""
    return torch.tensor([record.radius for record in records if record.norm == norm], dtype=torch.float64)
