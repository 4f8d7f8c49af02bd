"""Readers for labelled images: IDX files and .npz files."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from absynth.data.domain import DIGITS, MOST_CLASSES, Domain
from absynth.data.pictures import unit_range
from absynth.errors import AbsynthError
from absynth.inputs import as_mask
from absynth.shapes import Labels

_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801

MOST_UNPACKED = 2**30
"""Bytes that a compressed file may hold: a small one that holds more is a trap rather than data."""

UNPACKED_AT_ONCE = 2**24


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images.

    Attributes:
        images: float32 in [0, 1], shape (batch, 1, height, width).
        labels: Class of each image, from 0 to the number of classes less 1.
        class_names: Name of each class.
        named: Whether the data named the classes; else their names are their numbers.
        digits: Whether these are MNIST's digits.
        remarks: What was left out or scaled while reading, a sentence each.
    """

    images: Float[Tensor, "batch 1 height width"]
    labels: Labels
    class_names: tuple[str, ...]
    named: bool = True
    digits: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def domain(self) -> Domain:
        """What a model that is trained on these is for."""
        height, width = self.images.shape[2:]
        return Domain(self.class_names, (height, width), self.digits and (height, width) == DIGITS.size)


def read_idx(
    images_path: str | Path, labels_path: str | Path, class_names: tuple[str, ...] | None = None
) -> Dataset:
    """Reads the IDX format of MNIST, plain or compressed with gzip or xz.

    Args:
        images_path: File of unsigned bytes with three dimensions (magic number 0x00000803).
        labels_path: File of unsigned bytes with one dimension (magic number 0x00000801).
        class_names: Names of the classes; by default their numbers.

    Raises:
        AbsynthError: If a file is missing, broken, of another kind, or the two do not fit together.
    """
    images, labels = _read_bytes(Path(images_path)), _read_bytes(Path(labels_path))
    return parse_idx(images, labels, class_names, names=(str(images_path), str(labels_path)))


def parse_idx(
    images: bytes, labels: bytes, class_names: tuple[str, ...] | None, names: tuple[str, str]
) -> Dataset:
    """The data set in the content of two IDX files (see :func:`read_idx`).

    Args:
        images: Content of the image file.
        labels: Content of the label file.
        class_names: Names of the classes; by default their numbers.
        names: What to call the two files in a message.

    Raises:
        AbsynthError: As in :func:`read_idx`.
    """
    pixels = _parse_array(unpack(images, names[0]), _IMAGES_MAGIC, names[0])
    numbers = _parse_array(unpack(labels, names[1]), _LABELS_MAGIC, names[1])
    return assemble(pixels, numbers, class_names, names)


ADVERSARIALS = "adversarials"
"""What ``absynth attack --out`` calls the images that it writes."""

ARRAYS = ("images", "labels", "class_names", ADVERSARIALS)
"""What is read of an .npz file, whatever else it holds."""


def read_npz(path: str | Path) -> Dataset:
    """Reads an .npz file.

    Its arrays: ``images`` of shape (n, height, width) or (n, 1, height, width), integers from 0 to 255, real
    numbers from 0 to 1, or a mask of 0 and 1 alone; ``labels``, n integers; and perhaps ``class_names``, the
    names of the classes as strings, without which the classes are called by their numbers. Without
    ``images``, the ``adversarials`` of ``absynth attack --out`` are read, with the true classes of the images
    that they were made of.

    Raises:
        AbsynthError: If the file is missing or broken, unpacks to more than 1 GiB, or its arrays are missing
            or do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise AbsynthError(f"There is no file {path}; give the path of an .npz file.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
            if sum(one.file_size for one in packed) > MOST_UNPACKED:
                raise AbsynthError(_unpacks_to_too_much(str(path)))
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in ARRAYS if name in content.files}
    except AbsynthError:
        raise
    except Exception:  # whatever zipfile and NumPy may meet in a damaged file
        raise AbsynthError(f"{path} cannot be read; give an undamaged .npz file without pickles.") from None
    if ADVERSARIALS in arrays:
        arrays.setdefault("images", arrays[ADVERSARIALS])
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise AbsynthError(f"{path} has no array '{missing[0]}'; an .npz file needs 'images' and 'labels'.")
    images, labels = as_mask(arrays["images"]), arrays["labels"]
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise AbsynthError(
            f"The images in {path} have the shape {images.shape}; "
            "(n, height, width) or (n, 1, height, width) is right."
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise AbsynthError(
            f"The labels in {path} are {labels.dtype} of the shape {labels.shape}; n integers are right."
        )
    class_names = None
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"].ravel())
        if len(set(class_names)) < len(class_names):
            raise AbsynthError(f"The class_names in {path} hold a name twice; give every class its own.")
    return assemble(images, labels, class_names, (f"'images' in {path}", f"'labels' in {path}"))


def unpack(content: bytes, name: str) -> bytes:
    """``content`` without its gzip or xz compression, if it has one.

    Raises:
        AbsynthError: If the compressed data are broken, or unpack to more than 1 GiB.
    """
    packed: gzip.GzipFile | lzma.LZMAFile
    if content[:2] == b"\x1f\x8b":
        packed = gzip.GzipFile(fileobj=io.BytesIO(content))
    elif content[:6] == b"\xfd7zXZ\x00":
        packed = lzma.LZMAFile(io.BytesIO(content))  # noqa: SIM115  closed below
    else:
        return content
    pieces: list[bytes] = []
    try:
        with packed:
            while piece := packed.read(UNPACKED_AT_ONCE):
                pieces.append(piece)
                if sum(map(len, pieces)) > MOST_UNPACKED:
                    raise AbsynthError(_unpacks_to_too_much(name))
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        raise AbsynthError(f"{name} is truncated or damaged; get it again.") from None
    return b"".join(pieces)


def _unpacks_to_too_much(name: str) -> str:
    return f"{name} unpacks to more than {MOST_UNPACKED // 2**30} GiB; store it without compression."


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise AbsynthError(f"There is no file {path}; give the path of an IDX file.") from None
    except OSError as error:
        raise AbsynthError(
            f"{path} cannot be read ({error.strerror}); give the path of an IDX file."
        ) from None


def _parse_array(content: bytes, magic: int, name: str) -> UInt8[ndarray, "*shape"]:
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    found = int.from_bytes(content[:4], "big")
    if len(content) >= 4 and found != magic:
        kind = "images" if magic == _IMAGES_MAGIC else "labels"
        raise AbsynthError(
            f"{name} starts with 0x{found:08x}; an IDX file of {kind} starts with 0x{magic:08x}."
        )
    shape = [int.from_bytes(content[4 * i + 4 : 4 * i + 8], "big") for i in range(dimensions)]
    length = start
    if len(content) >= start:
        size = 1
        for extent in shape:
            size *= extent
        length += size
    if len(content) < length:
        raise AbsynthError(
            f"{name} is truncated: it has {len(content)} bytes where {length} are right; get it again."
        )
    if len(content) > length:
        raise AbsynthError(
            f"{name} has too much data: {len(content)} bytes where {length} are right; get it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def assemble(
    images: ndarray, labels: ndarray, class_names: tuple[str, ...] | None, names: tuple[str, str]
) -> Dataset:
    """The data set of raw arrays, once they have been seen to fit together.

    Args:
        images: Pixel values, shape (n, height, width).
        labels: n integers.
        class_names: Names of the classes; by default their numbers.
        names: What to call the two arrays in a message.

    Raises:
        AbsynthError: If they do not fit together.
    """
    if len(images) != len(labels):
        raise AbsynthError(
            f"{names[0]} holds {len(images)} images but {names[1]} {len(labels)} labels; "
            "every image needs exactly one label."
        )
    if images.size == 0:
        raise AbsynthError(f"{names[0]} holds no images; a data set needs at least one.")
    classes = MOST_CLASSES if class_names is None else len(class_names)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise AbsynthError(
            f"{names[1]} has the label {labels[wrong[0]]} at position {wrong[0]}; "
            f"with {classes} classes the labels go from 0 to {classes - 1}."
        )
    return Dataset(
        torch.from_numpy(unit_range(images, names[0])).unsqueeze(1),
        torch.from_numpy(labels.astype(np.int64)),
        tuple(str(number) for number in range(int(labels.max()) + 1)) if class_names is None else class_names,
        named=class_names is not None,
        remarks=_remark_on_first_label(labels, names[1]) if class_names is None else (),
    )


def _remark_on_first_label(labels: ndarray, name: str) -> tuple[str, ...]:
    first = int(labels.min())
    if first == 0:
        return ()
    return (
        f"{name} begin at {first}: there are no images of class 0; if {first} stands for the first class, "
        f"subtract {first}.",
    )
