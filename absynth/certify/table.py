"""The prototypes of a model in one file, which witnesses are for, with the decision rule in its header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from absynth.certify.codebook import Codebook
from absynth.certify.front import Clamp, Grey, Threshold
from absynth.files import atomic_path

VERSION = "1"
"""Of the format."""

ROWS_AT_ONCE = 4096
"""Prototypes written together."""


def table_digest(codebook: Codebook) -> str:
    """SHA-256 of the file that :func:`write_table` writes."""
    digest = hashlib.sha256()
    for piece in _pieces(codebook):
        digest.update(piece)
    return digest.hexdigest()


def write_table(codebook: Codebook, path: Path) -> str:
    """Writes the prototypes, their offsets and classes, and what stands in front of them.

    Args:
        codebook: Of a model.
        path: Of the file, replaced at once.

    Returns:
        Its SHA-256.

    Raises:
        AbsynthError: If it cannot be written.
    """
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for piece in _pieces(codebook):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _pieces(codebook: Codebook) -> Iterator[bytes]:
    """The content of the file, piece by piece."""
    match codebook.front:
        case Grey():
            front = "identity"
        case Clamp():
            front = "clamp"
        case Threshold():
            front = "threshold"
    about = {
        "format": "absynth-prototypes",
        "version": VERSION,
        "front": front,
        "low": float(codebook.front.low).hex(),
        "high": float(codebook.front.high).hex(),
    }
    count, pixels = codebook.images.shape
    header: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, kind, shape in (
        ("prototypes", "F32", [count, pixels]),
        ("offsets", "F32", [count]),
        ("classes", "I32", [count]),
    ):
        start, end = end, end + 4 * count * (pixels if name == "prototypes" else 1)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for rows in codebook.images.split(ROWS_AT_ONCE):
        yield rows.cpu().numpy().astype("<f4").tobytes()
    yield codebook.offsets.cpu().numpy().astype("<f4").tobytes()
    yield np.repeat(np.arange(codebook.classes), np.diff(codebook.bounds)).astype("<i4").tobytes()
