"""Reader for a folder of pictures, one sub-folder a class, whatever their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from absynth.data.adapt import describe_scaling
from absynth.data.domain import Size, fit_size
from absynth.data.pictures import SUFFIXES, read_picture, resize
from absynth.data.readers import Dataset, assemble
from absynth.errors import AbsynthError

REMAINS = "__MACOSX"
"""The folder of descriptions, named like the pictures, that a Mac puts into an archive."""


def read_image_folder(
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    size: Size | None = None,
    strict: bool = False,
) -> Dataset:
    """Reads a folder with one sub-folder of pictures for each class.

    The classes are called by the sub-folders' names; colour becomes grey. Hidden files are
    passed over; so are files of other kinds, what a Mac leaves in archives and pictures that
    cannot be read, with a remark.
    Pictures of several sizes are scaled to one.

    Args:
        path: Of the folder.
        class_names: The classes; by default the sub-folders in alphabetical order.
        size: Rows and columns to scale every picture to; by default those that most pictures have, once sides
            below 16 or above 64 pixels are brought into that range.
        strict: A picture that cannot be read is an error.

    Raises:
        AbsynthError: If there are no pictures, or one cannot be read and ``strict`` is set.
    """
    path = Path(path)
    if not path.is_dir():
        raise AbsynthError(
            f"There is no folder {path}; give a folder with one sub-folder of pictures a class."
        )
    names = tuple(subfolders(path) if class_names is None else class_names)
    files = [
        (file, label)
        for label, name in enumerate(names)
        if (path / name).is_dir()
        for file in sorted((path / name).iterdir())
        if not file.name.startswith(".")
    ]
    others = sorted(file for file, _ in files if file.suffix.lower() not in SUFFIXES and file.is_file())
    files = [(file, label) for file, label in files if file.suffix.lower() in SUFFIXES]
    remarks = [describe_others(path, others)] if others else []
    if (path / REMAINS).is_dir():
        remarks.append(f"{path}: the folder {REMAINS}, which a Mac leaves in archives, is passed over.")
    pictures: list[ndarray] = []
    labels: list[int] = []
    shapes: list[Size] = []
    for file, label in files:
        try:
            picture = read_picture(file)
        except AbsynthError as error:
            if strict:
                raise
            remarks.append(f"Skipped: {error}")
            continue
        shapes.append((picture.shape[0], picture.shape[1]))
        # Shrunk at once, so that a folder of photographs fits into memory.
        pictures.append(resize(picture, *(size or fit_size(shapes[-1]))))
        labels.append(label)
    if not pictures:
        raise AbsynthError(
            f"{path} holds no pictures that can be read; give a folder with one sub-folder of PNG or JPEG "
            "a class."
        )
    chosen = size or _most_common([(picture.shape[0], picture.shape[1]) for picture in pictures])
    if changed := sum(shape != chosen for shape in shapes):
        remarks.append(describe_scaling(path, set(shapes), changed, len(shapes), chosen))
    scaled = np.stack([resize(picture, *chosen) for picture in pictures])
    dataset = assemble(scaled, np.array(labels), names, (str(path), str(path)))
    return replace(dataset, remarks=tuple(remarks))


def list_pictures(path: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder in alphabetical order, and its files of other kinds; no hidden ones."""
    files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    pictures = [one for one in files if one.suffix.lower() in SUFFIXES]
    return pictures, [one for one in files if one.suffix.lower() not in SUFFIXES]


def describe_others(path: Path, files: Sequence[Path]) -> str:
    """A remark on files in a folder that are passed over, as their names are not those of pictures.

    >>> describe_others(Path("scans"), [Path("scans/notes.txt")])
    'scans: 1 file is passed over, as its name is not that of a picture: notes.txt.'
    """
    names = ", ".join([*(one.name for one in files[:5]), *(["..."] if len(files) > 5 else [])])
    if len(files) == 1:
        return f"{path}: 1 file is passed over, as its name is not that of a picture: {names}."
    return f"{path}: {len(files)} files are passed over, as their names are not those of pictures: {names}."


def subfolders(path: Path) -> list[str]:
    """The names of the sub-folders of a folder that may be classes, in alphabetical order."""
    names = (one.name for one in path.iterdir() if one.is_dir())
    return sorted(name for name in names if name != REMAINS and not name.startswith("."))


def _most_common(sizes: Sequence[Size]) -> Size:
    """The size that most images have, of several such the largest."""
    counts = Counter(sizes)
    return max(counts, key=lambda size: (counts[size], size))
