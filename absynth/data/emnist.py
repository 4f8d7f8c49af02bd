"""EMNIST's files (Cohen et al. 2017, arXiv 1702.05373), which are unlike those of MNIST in two ways.

The images are stored column by column, so that they lie on their sides, and the labels of ``letters`` begin
at 1.
"""

from __future__ import annotations

import string
from dataclasses import replace

from absynth.data.readers import Dataset

PREFIX = "emnist-"
LETTERS = "emnist-letters"


def is_emnist(name: str) -> bool:
    """Whether a file is called as EMNIST's are.

    >>> is_emnist("emnist-letters-train-images-idx3-ubyte.gz"), is_emnist("train-images-idx3-ubyte")
    (True, False)
    """
    return name.startswith(PREFIX)


def set_upright(dataset: Dataset, name: str) -> Dataset:
    """The images turned upright, and the classes of ``letters`` called A to Z.

    Args:
        dataset: As its files have it.
        name: Of the file of the images.
    """
    remark = f"{name}: the images of EMNIST lie on their sides in its files; they were turned upright"
    dataset = replace(dataset, images=dataset.images.transpose(2, 3).contiguous())
    if name.startswith(LETTERS) and int(dataset.labels.min()) >= 1 and int(dataset.labels.max()) <= 26:
        remark += ", and its labels from 1 on are the classes A to Z"
        names = tuple(string.ascii_uppercase[: int(dataset.labels.max())])
        dataset = replace(dataset, labels=dataset.labels - 1, class_names=names, named=True)
    return replace(dataset, remarks=(f"{remark}.",))
