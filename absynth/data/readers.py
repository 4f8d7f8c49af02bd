"""Readers for labelled images: IDX files, .npz files and folders of pictures."""

from __future__ import annotations

import gzip
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

from absynth.data.pictures import SUFFIXES, read_picture, unit_range
from absynth.errors import AbsynthError
from absynth.shapes import Labels

DIGITS = tuple("0123456789")
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images.

    Attributes:
        images: float32 in [0, 1], shape (batch, 1, height, width).
        labels: Class of each image, from 0 to the number of classes less 1.
        class_names: Name of each class.
    """

    images: Float[Tensor, "batch 1 height width"]
    labels: Labels
    class_names: tuple[str, ...]


def read_idx(
    images_path: str | Path, labels_path: str | Path, class_names: tuple[str, ...] = DIGITS
) -> Dataset:
    """Reads the IDX format of MNIST, plain or compressed with gzip or xz.

    Args:
        images_path: File of unsigned bytes with three dimensions (magic number 0x00000803).
        labels_path: File of unsigned bytes with one dimension (magic number 0x00000801).
        class_names: Names of the classes.

    Raises:
        AbsynthError: If a file is missing, broken, of another kind, or the two do not fit together.
    """
    images, labels = _read_bytes(Path(images_path)), _read_bytes(Path(labels_path))
    return parse_idx(images, labels, class_names, names=(str(images_path), str(labels_path)))


def parse_idx(images: bytes, labels: bytes, class_names: tuple[str, ...], names: tuple[str, str]) -> Dataset:
    """The data set in the content of two IDX files (see :func:`read_idx`).

    Args:
        images: Content of the image file.
        labels: Content of the label file.
        class_names: Names of the classes.
        names: What to call the two files in a message.

    Raises:
        AbsynthError: As in :func:`read_idx`.
    """
    pixels = _parse_array(unpack(images, names[0]), _IMAGES_MAGIC, names[0])
    numbers = _parse_array(unpack(labels, names[1]), _LABELS_MAGIC, names[1])
    return _assemble(pixels, numbers, class_names, names)


def read_npz(path: str | Path) -> Dataset:
    """Reads an .npz file.

    Its arrays: ``images`` of shape (n, height, width) or (n, 1, height, width), integers from 0 to 255 or
    real numbers from 0 to 1; ``labels``, n integers; and, unless the classes are the ten digits,
    ``class_names``, the names of the classes as strings.

    Raises:
        AbsynthError: If the file is missing or broken, or its arrays are missing or do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise AbsynthError(f"There is no file {path}; give the path of an .npz file.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file):  # else NumPy would open a plain array, too
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise AbsynthError(f"{path} cannot be read; give an undamaged .npz file without pickles.") from None
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise AbsynthError(f"{path} has no array '{missing[0]}'; an .npz file needs 'images' and 'labels'.")
    images, labels = arrays["images"], arrays["labels"]
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
    class_names = (
        tuple(str(name) for name in arrays["class_names"].ravel()) if "class_names" in arrays else DIGITS
    )
    return _assemble(images, labels, class_names, (f"'images' in {path}", f"'labels' in {path}"))


def read_image_folder(path: str | Path) -> Dataset:
    """Reads a folder with one sub-folder of PNG, JPEG or .npy pictures for each class.

    The classes are the sub-folders in alphabetical order, called by the sub-folders' names; colour
    becomes grey. Hidden files and files of other kinds are passed over.

    Raises:
        AbsynthError: If there are no pictures, one cannot be read, or they are not all of one size.
    """
    path = Path(path)
    if not path.is_dir():
        raise AbsynthError(
            f"There is no folder {path}; give a folder with one sub-folder of pictures a class."
        )
    classes = sorted(
        folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    files = [
        (file, label)
        for label, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise AbsynthError(
            f"{path} holds no pictures; give a folder with one sub-folder of PNG or JPEG a class."
        )
    pictures: list[ndarray] = []
    for file, _ in files:
        picture = read_picture(file)
        if pictures and picture.shape != pictures[0].shape:
            raise AbsynthError(
                f"{file} is {_size(picture.shape)} pixels but {files[0][0]} is {_size(pictures[0].shape)}; "
                "make all pictures one size."
            )
        pictures.append(picture)
    labels = np.array([label for _, label in files])
    return _assemble(
        np.stack(pictures), labels, tuple(folder.name for folder in classes), (str(path), str(path))
    )


def require_size(dataset: Dataset, height: int, width: int, name: str) -> Dataset:
    """``dataset``, if its images have the size asked for.

    Args:
        dataset: Any data set.
        height: Rows that an image must have.
        width: Columns that an image must have.
        name: What to call the data set in a message.

    Raises:
        AbsynthError: If the size is another.
    """
    actual = tuple(dataset.images.shape[2:])
    if actual != (height, width):
        raise AbsynthError(
            f"The images in {name} are {_size(actual)} pixels; scale them to {_size((height, width))}."
        )
    return dataset


def unpack(content: bytes, name: str) -> bytes:
    """``content`` without its gzip or xz compression, if it has one.

    Raises:
        AbsynthError: If the compressed data are broken.
    """
    try:
        if content[:2] == b"\x1f\x8b":
            return gzip.decompress(content)
        if content[:6] == b"\xfd7zXZ\x00":
            return lzma.decompress(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        raise AbsynthError(f"{name} is truncated or damaged; get it again.") from None
    return content


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


def _assemble(
    images: ndarray, labels: ndarray, class_names: tuple[str, ...], names: tuple[str, str]
) -> Dataset:
    """The data set of raw arrays, once they have been seen to fit together.

    Raises:
        AbsynthError: If they do not.
    """
    if len(images) != len(labels):
        raise AbsynthError(
            f"{names[0]} holds {len(images)} images but {names[1]} {len(labels)} labels; "
            "every image needs exactly one label."
        )
    if images.size == 0:
        raise AbsynthError(f"{names[0]} holds no images; a data set needs at least one.")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise AbsynthError(
            f"{names[1]} has the label {labels[wrong[0]]} at position {wrong[0]}; "
            f"with {len(class_names)} classes the labels go from 0 to {len(class_names) - 1}."
        )
    return Dataset(
        torch.from_numpy(unit_range(images, names[0])).unsqueeze(1),
        torch.from_numpy(labels.astype(np.int64)),
        class_names,
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
