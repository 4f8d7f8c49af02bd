"""Writing witnesses beside certificates: a folder that can be checked without this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from absynth.certify import Certificate, Method
from absynth.certify.codebook import Codebook, find_prototypes, read_codebook
from absynth.certify.table import table_digest, write_table
from absynth.certify.witness import find_witnesses, pack_witnesses
from absynth.errors import AbsynthError
from absynth.files import check_folder
from absynth.norms import Norm
from absynth.shapes import Images
from absynth.surroundings import standard

TABLE = "prototypes.safetensors"
"""The prototypes, in a folder of witnesses."""

READ_AT_ONCE = 2**20
"""Bytes of a file hashed together."""


@dataclass(frozen=True)
class ProofFolder:
    """Where the witnesses of one model are written.

    Attributes:
        folder: Made if needed.
        digest: SHA-256 of the file of prototypes in it.
    """

    folder: Path
    digest: str

    def file(self, norm: Norm, rows: Sequence[int], data: str) -> Path:
        """Where the witnesses of some images belong; never two contents under one name.

        Args:
            norm: Of the radii.
            rows: Which images of a split.
            data: Their hash.
        """
        identity = json.dumps([self.digest, norm, list(rows), data])
        return self.folder / f"{norm}-{rows[0]:05d}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.npz"


def prototypes_of(model: nn.Module) -> Codebook:
    """The prototypes of a model, as certificates see them.

    Raises:
        AbsynthError: If the model does not decide by prototypes.
    """
    found = find_prototypes(model)
    if found is None:
        raise AbsynthError(
            f"A {type(model).__name__} does not decide by prototypes; certified-abs, codebook-abs and "
            "nearest-neighbour do."
        )
    with standard(gradients=False, exact=True):
        return read_codebook(*found)


def open_proofs(
    folder: Path, model: nn.Module, images: Images, *, exact: bool, method: Method | None
) -> ProofFolder:
    """The folder for the witnesses of a model, with its prototypes in it.

    Args:
        folder: Where to.
        model: What is certified.
        images: Of which images.
        exact: Whether exact radii are asked for.
        method: As for :func:`absynth.certify.certify`.

    Raises:
        AbsynthError: If there are no witnesses of such certificates, or the folder is of another model.
    """
    if exact or (method is not None and method.name != "pairs"):
        raise AbsynthError("Witnesses are for pairwise radii; leave --exact and --method out.")
    if images.shape[1] != 1:
        raise AbsynthError(f"Witnesses are for images of one channel; these have {images.shape[1]}.")
    codebook = prototypes_of(model)
    check_folder(folder)
    path = folder / TABLE
    if not path.exists():
        return ProofFolder(folder, write_table(codebook, path))
    digest = table_digest(codebook)
    if digest != file_digest(path):
        raise AbsynthError(f"{path} has the prototypes of another model; choose another folder.")
    return ProofFolder(folder, digest)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def witnesses_of(
    codebook: Codebook, certificate: Certificate, images: Images, rows: Sequence[int], digest: str
) -> bytes:
    """The content of a file of witnesses.

    Args:
        codebook: The prototypes.
        certificate: Of the images; those with a radius of 0 have no witness.
        images: As the model sees them.
        rows: Which images of their split they are.
        digest: SHA-256 of the file of prototypes.
    """
    some = (certificate.radius > 0).nonzero()[:, 0].tolist()
    labels, radii = certificate.prediction[some].tolist(), certificate.radius[some].tolist()
    with standard(gradients=False, exact=True):
        flat = images[some].flatten(1).to(codebook.images.device)
        witnesses = find_witnesses(codebook, flat, labels, certificate.norm, radii)
    chosen = [rows[row] for row in some]
    return pack_witnesses(certificate.norm, digest, images[some], chosen, labels, radii, witnesses)


def differences(model: nn.Module, path: Path) -> str:
    """In what the prototypes of a model differ from those of a file; nothing if in nothing.

    Args:
        model: Which decodes them anew.
        path: Of a file that :func:`absynth.certify.table.write_table` wrote.

    Raises:
        AbsynthError: If the file cannot be read, or the model has no prototypes.
    """
    try:
        digest = file_digest(path)
    except OSError as error:
        raise AbsynthError(f"{path} cannot be read ({error.strerror}).") from None
    found = table_digest(prototypes_of(model))
    if digest == found:
        return ""
    return f"{path} has SHA-256 {digest}, but the prototypes of the model have {found}."
