"""The smallest adversarials of exact certificates, kept beside the radii: pieces, and one file of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from absynth.certify import Certificate
from absynth.errors import AbsynthError, first_line
from absynth.files import check_writable, write_bytes
from absynth.norms import Norm

SUFFIX = ".safetensors"


def check_adversarials(path: Path, *, exact: bool) -> None:
    """Sees that smallest adversarials can be written, before any are computed.

    Args:
        path: Where to.
        exact: Whether they are looked for.

    Raises:
        AbsynthError: If they are not, or the file cannot be written.
    """
    if not exact:
        raise AbsynthError("The smallest adversarials are what --exact finds; add it.")
    if path.suffix != SUFFIX:
        raise AbsynthError(f"{path} has another ending than {SUFFIX}; name a file that ends so.")
    check_writable(path)


def pack_adversarials(certificate: Certificate, rows: Sequence[int]) -> bytes:
    """The adversarials of some images in one norm, as the content of a file; empty if it has none.

    Args:
        certificate: Of the images.
        rows: Which of their split they are.
    """
    if certificate.adversarials is None:
        return save({})
    return save({"adversarials": certificate.adversarials.cpu().contiguous(), "indices": torch.tensor(rows)})


def join_adversarials(pieces: Iterable[tuple[Norm, Path]], destination: Path) -> None:
    """Writes the adversarials of all pieces to one file: ``NORM.adversarials`` and ``NORM.indices``.

    An image that is misread is its own adversarial; one of which none was found is NaN. A norm in which the
    model has no exact radii is missing.

    Args:
        pieces: Norms and files that :func:`pack_adversarials` made.
        destination: The file.

    Raises:
        AbsynthError: If a piece is damaged, or the file cannot be written.
    """
    parts: dict[str, list[Tensor]] = {}
    for norm, path in pieces:
        try:
            tensors = load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise AbsynthError(
                f"The adversarials {path} are damaged ({first_line(error)}); delete them to certify these "
                "images again."
            ) from None
        for name, tensor in tensors.items():
            parts.setdefault(f"{norm}.{name}", []).append(tensor)
    write_bytes(destination, save({name: torch.cat(some) for name, some in parts.items()}))
