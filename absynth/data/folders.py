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


def read_image_folder(
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    size: Size | None = None,
    strict: bool = False,
) -> Dataset:
    """Reads a folder with one sub-folder of PNG, JPEG or .npy pictures for each class.

    The classes are called by the sub-folders' names; colour becomes grey. Hidden files and files of other
    kinds are passed over, and so are pictures that cannot be read, with a remark. Pictures of several sizes
    are scaled to one.

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
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    remarks: list[str] = []
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


def subfolders(path: Path) -> list[str]:
    """The names of the sub-folders of a folder in alphabetical order, without hidden ones."""
    return sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _most_common(sizes: Sequence[Size]) -> Size:
    """The size that most images have, of several such the largest."""
    counts = Counter(sizes)
    return max(counts, key=lambda size: (counts[size], size))
