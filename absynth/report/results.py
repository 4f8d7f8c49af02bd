"""What a report is made from: the records of a benchmark's folder, and files of certificates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.evaluate.candidates import masking_remarks
from absynth.evaluate.certification import CertificateRecord, read_certificate_file, read_origin
from absynth.evaluate.proofs import FOLDER, read_piece
from absynth.evaluate.store import Record, content_digest, read_rows
from absynth.norms import Norm

ORDER = (
    "cnn",
    "binary-cnn",
    "nearest-neighbour",
    "madry",
    "binary-abs",
    "abs",
    "codebook-binary-abs",
    "codebook-abs",
    "certified-binary-abs",
    "certified-abs",
)
"""The models as the paper's Table 1 lists them, then ours; others follow in the order of their names."""

NORM_ORDER: tuple[Norm, ...] = ("l2", "linf", "l0", "l1")


@dataclass(frozen=True)
class Finding:
    """What one attack found for one image, and where the image lies.

    Attributes:
        record: The record; its model is the name that the report uses.
        file: Name of the file in the folder ``adversarials``.
    """

    record: Record
    file: str


@dataclass(frozen=True)
class CleanAccuracy:
    """How many images a model classifies rightly when nobody attacks.

    Attributes:
        right: How many of them.
        images: Sample size.
    """

    right: int
    images: int


@dataclass(frozen=True)
class Results:
    """All records of one data set in a result folder.

    Attributes:
        folder: The result folder.
        dataset: Name or path of the data set.
        findings: One for each model, attack and image.
        weights: Hash of each model, by the name that the report uses.
        clean: By model, where it was measured.
        remarks: What is to be known of the models' figures, a sentence each.
        certificates: By model, what the benchmark proved.
    """

    folder: Path
    dataset: str
    findings: tuple[Finding, ...]
    weights: dict[str, str]
    clean: dict[str, CleanAccuracy]
    remarks: tuple[str, ...] = ()
    certificates: Mapping[str, tuple[CertificateRecord, ...]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the report."""
        return tuple(sorted(self.weights, key=model_order))

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """The norms that were attacked in."""
        found = {finding.record.norm for finding in self.findings}
        return tuple(norm for norm in NORM_ORDER if norm in found)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the attacks."""
        return tuple(sorted({finding.record.seed for finding in self.findings}))

    @cached_property
    def _by_model_and_norm(self) -> dict[tuple[str, Norm], list[Finding]]:
        groups: dict[tuple[str, Norm], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.record.model, finding.record.norm), []).append(finding)
        return groups

    def attacks(self, norm: Norm) -> tuple[str, ...]:
        """The names of the attacks in a norm."""
        return tuple(sorted({f.record.attack for f in self.findings if f.record.norm == norm}))

    def smallest(self, model: str, norm: Norm, attack: str | None = None) -> tuple[Finding, ...]:
        """The smallest adversarial of each image, in the order of the images' indices.

        Args:
            model: One of :attr:`models`.
            norm: Of the distance.
            attack: By this attack alone; by default over all of them.
        """
        best: dict[int, Finding] = {}
        for finding in self._by_model_and_norm.get((model, norm), ()):
            record = finding.record
            if attack not in (None, record.attack):
                continue
            known = best.get(record.index)
            if known is None or record.distance < known.record.distance:
                best[record.index] = finding
        return tuple(best[index] for index in sorted(best))

    def adversarial(self, finding: Finding) -> Float[Tensor, "height width"]:
        """The adversarial image of a finding.

        Raises:
            AbsynthError: If its file is missing or damaged.
        """
        path = self.folder / "adversarials" / finding.file
        images, indices = _read_adversarials(path)
        rows = (indices == finding.record.index).nonzero()
        if not len(rows):
            raise AbsynthError(f"{path} holds no image {finding.record.index}; run the benchmark again.")
        return images[int(rows[0])].squeeze(0)


def model_order(name: str) -> tuple[int, str]:
    """A key that sorts names of models as the report lists them.

    >>> sorted(["mine", "abs", "cnn"], key=model_order)
    ['cnn', 'abs', 'mine']
    """
    base = name.split(" ", maxsplit=1)[0]
    return (ORDER.index(base) if base in ORDER else len(ORDER), name)


def distances(findings: Iterable[Finding]) -> Float[Tensor, "images"]:
    """The distances of findings, in their order (float64)."""
    return torch.tensor([finding.record.distance for finding in findings], dtype=torch.float64)


def read_results(folder: Path, dataset: str | None = None) -> Results:
    """All records of a folder that ``absynth bench`` wrote, whatever preset they belong to.

    A name that stands for several weights gets the start of their hash added.

    Args:
        folder: The result folder.
        dataset: Which data set; needed only where the folder holds several.

    Raises:
        AbsynthError: If there is no such folder, it holds no records of the data set, or one is damaged.
    """
    files = sorted((folder / "records").glob("*.parquet"))
    if not files:
        if any((folder / "clean").glob("*")):
            raise AbsynthError(
                f"{folder} holds clean accuracies alone; attack the models as well, for example with "
                f"'absynth bench --preset quick --out {folder}'."
            )
        raise AbsynthError(f"{folder} holds no records; give a folder that 'absynth bench --out' wrote.")
    every = [finding for path in files for finding in _read_records(path)]
    names = sorted({finding.record.dataset for finding in every})
    if dataset is None and len(names) > 1:
        raise AbsynthError(f"{folder} holds records of {', '.join(names)}; choose one with --data.")
    chosen = names[0] if dataset is None else dataset
    if chosen not in names:
        raise AbsynthError(f"{folder} holds no records of '{chosen}', only of {', '.join(names)}.")
    kept = [finding for finding in every if finding.record.dataset == chosen]
    titles = _titles(kept)
    findings = tuple(
        replace(f, record=replace(f.record, model=titles[f.record.model, f.record.weights])) for f in kept
    )
    weights = {f.record.model: f.record.weights for f in findings}
    remarks = (*_read_remarks(folder, weights), *masking_remarks(finding.record for finding in findings))
    certificates = _read_pieces(folder, chosen, weights)
    return Results(folder, chosen, findings, weights, _read_clean(folder, weights), remarks, certificates)


def _read_remarks(folder: Path, weights: dict[str, str]) -> list[str]:
    """What the benchmark remarked on each model before it was attacked."""
    remarks: list[str] = []
    for digest in weights.values():
        for path in sorted((folder / "checks").glob(f"{digest[:24]}-*.json")):
            try:
                remarks += map(str, json.loads(path.read_text(encoding="utf-8"))["remarks"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                raise AbsynthError(f"The record {path} is damaged; delete it to run it again.") from None
    return list(dict.fromkeys(remarks))


def _titles(findings: Sequence[Finding]) -> dict[tuple[str, str], str]:
    """What the report calls each pair of a name and a hash."""
    pairs = {(finding.record.model, finding.record.weights) for finding in findings}
    several = {name for name, _ in pairs if sum(other == name for other, _ in pairs) > 1}
    return {
        (name, weights): f"{name} ({weights[:8]})" if name in several else name for name, weights in pairs
    }


def _read_records(path: Path) -> list[Finding]:
    names = [field.name for field in fields(Record)]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AbsynthError(
            f"The record {path} cannot be read ({error.strerror}); see that it can be."
        ) from None
    rows = read_rows(content, str(path))
    return [Finding(Record(**{name: row[name] for name in names}), row["adversarials"]) for row in rows]


def _read_clean(folder: Path, weights: dict[str, str]) -> dict[str, CleanAccuracy]:
    """The clean accuracy of each model on the largest sample that was measured."""
    found = {}
    for model, digest in weights.items():
        samples = []
        for path in sorted((folder / "clean").glob(f"{digest[:24]}-*.json")):
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                sample = CleanAccuracy(int(known["right"]), int(known["images"]))
                if not 0 <= sample.right <= sample.images != 0:
                    raise ValueError("more right ones than images, or no images")
                samples.append(sample)
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise AbsynthError(f"The record {path} is damaged; delete it to run it again.") from None
        if samples:
            found[model] = max(samples, key=lambda sample: sample.images)
    return found


def _read_pieces(
    folder: Path, dataset: str, weights: Mapping[str, str]
) -> dict[str, tuple[CertificateRecord, ...]]:
    """What the benchmark proved of each model; of two certificates of an image the larger."""
    found = {}
    for model, digest in weights.items():
        best: dict[tuple[Norm, int], CertificateRecord] = {}
        for path in sorted((folder / FOLDER).glob(f"{digest[:24]}-*.parquet")):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise AbsynthError(
                    f"The certificates {path} cannot be read ({error.strerror}); see that they can be."
                ) from None
            for whose, data, record in read_piece(content, str(path)):
                known = best.get((record.norm, record.index))
                if (whose, data) == (digest, dataset) and (known is None or known.radius < record.radius):
                    best[record.norm, record.index] = record
        if best:
            found[model] = tuple(best[key] for key in sorted(best))
    return found


def with_certificates(results: Results, given: Mapping[str, Sequence[CertificateRecord]]) -> Results:
    """Results whose certificates are those of given files, and those of the benchmark for other images.

    Args:
        results: Of a benchmark.
        given: By model.
    """
    every = dict(results.certificates)
    for model, records in given.items():
        keys = {(record.norm, record.index) for record in records}
        others = (one for one in every.get(model, ()) if (one.norm, one.index) not in keys)
        every[model] = (*records, *others)
    return replace(results, certificates=every)


@lru_cache(maxsize=64)
def _read_adversarials(path: Path) -> tuple[Tensor, Tensor]:
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if path.stem.rpartition("-")[2] != content_digest(content):
        raise AbsynthError(f"The images {path} are missing or damaged; run the benchmark again.")
    tensors = load(content)
    return tensors["adversarials"], tensors["indices"]


def read_certificates(arguments: Iterable[str]) -> dict[str, tuple[CertificateRecord, ...]]:
    """The records that ``MODEL=FILE`` names, by model; several files of a model are taken together.

    Args:
        arguments: Each the name of a model, "=", and a Parquet file that ``absynth certify --out`` wrote.

    Raises:
        AbsynthError: If one has another form, a file cannot be read, or two files certify the same image.
    """
    found: dict[str, tuple[CertificateRecord, ...]] = {}
    for argument in arguments:
        model, records = _read_certificate(argument)
        found[model] = (*found.get(model, ()), *records)
        keys = {(record.norm, record.index) for record in found[model]}
        if len(keys) < len(found[model]):
            raise AbsynthError(f"'{argument}' has an image twice in one norm; give each certificate once.")
    return found


def check_certificates(arguments: Iterable[str], weights: Mapping[str, str], data: str | None = None) -> None:
    """Sees that ``MODEL=FILE`` names certificates of that very model, where the file says what it is of.

    Args:
        arguments: As for :func:`read_certificates`.
        weights: Hash of each model.
        data: Hash of the images, if it is known.

    Raises:
        AbsynthError: If a file is of another model or of other images.
    """
    for argument in arguments:
        model, _, file = argument.partition("=")
        origin = read_origin(Path(file))
        if origin is None or model not in weights:
            continue
        if origin.weights != weights[model]:
            raise AbsynthError(
                f"{file} holds certificates of another model than {model} (weights {origin.weights[:12]}, "
                f"not {weights[model][:12]}); certify that one, or name the model that they are of."
            )
        if data is not None and origin.data != data:
            raise AbsynthError(f"{file} holds certificates of other images; certify those that are attacked.")


def _read_certificate(argument: str) -> tuple[str, tuple[CertificateRecord, ...]]:
    model, equals, file = argument.partition("=")
    if not (model and equals and file):
        raise AbsynthError(
            f"'{argument}' names no certificates; write for example codebook-abs=radii.parquet."
        )
    advice = "give a .parquet file that 'absynth certify --out' wrote"
    return model, tuple(read_certificate_file(Path(file), advice))
