"""Brings pictures and data sets into the form that a model takes: its size and its numbers of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from absynth.data.digits import read_digit, render_digit, render_number
from absynth.data.domain import Domain, Size, format_size
from absynth.data.pictures import read_picture, resize
from absynth.data.readers import Dataset
from absynth.errors import AbsynthError
from absynth.shapes import Images


def scale(dataset: Dataset, size: Size, name: str) -> Dataset:
    """``dataset`` with its images scaled to a size, and a remark if they had another.

    Args:
        dataset: Any data set.
        size: Rows and columns to have.
        name: What to call the data set in a remark.
    """
    height, width = dataset.images.shape[2:]
    if (height, width) == size:
        return dataset
    images = np.stack([resize(image, *size) for image in dataset.images[:, 0].numpy()])
    remark = describe_scaling(name, {(height, width)}, len(images), len(images), size)
    return replace(dataset, images=torch.from_numpy(images).unsqueeze(1), remarks=(*dataset.remarks, remark))


def read_image(path: str | Path, domain: Domain, name: str | None = None) -> Float[Tensor, "1 height width"]:
    """A picture file as an image that a model understands.

    Args:
        path: A picture of any size (:func:`absynth.data.pictures.read_picture`).
        domain: What the model is for. Digits are told from their paper, scaled and centred
            (:func:`absynth.data.digits.read_digit`); any other picture is made grey and scaled.
        name: What to call it in a message; by default its path.

    Raises:
        AbsynthError: If the file is no picture, or should show a digit and shows no ink.
    """
    if domain.digits:
        return read_digit(path, name)
    return torch.from_numpy(resize(read_picture(path, name), *domain.size).copy()).unsqueeze(0)


def read_renderings(path: str | Path, domain: Domain, *, number: bool = False) -> list[Images]:
    """What a model is to see of a picture file: renderings of each digit, or one image of anything else.

    Args:
        path: As for :func:`read_image`.
        domain: What the model is for.
        number: Read several digits from left to right, rather than refuse them.

    Returns:
        One batch an object: of each digit its renderings, the first as it was written.

    Raises:
        AbsynthError: As in :func:`read_image`, and if there are digits side by side without ``number``.
    """
    if not domain.digits:
        return [read_image(path, domain).unsqueeze(0)]
    picture = read_picture(path)
    digits = render_number(picture, str(path)) if number else [render_digit(picture, str(path))]
    return [one.renderings for one in digits]


def match_classes(dataset: Dataset, class_names: tuple[str, ...], name: str) -> Dataset:
    """``dataset`` with its classes numbered as a model numbers them.

    Classes are matched by name. Where the data have none, their numbers are the model's.

    Args:
        dataset: Any data set; classes without images do not count.
        class_names: The model's classes.
        name: What to call the data set in a message.

    Raises:
        AbsynthError: If a class of the data is none of the model's.
    """
    own = dataset.class_names
    if own == class_names:
        return dataset
    if not dataset.named and len(own) <= len(class_names):
        return replace(dataset, class_names=class_names)
    numbers = torch.tensor([class_names.index(one) if one in class_names else -1 for one in own])
    labels = numbers[dataset.labels]
    if bool((labels < 0).any()):
        unknown = own[int(dataset.labels[labels < 0][0])]
        raise AbsynthError(
            f"{name} has the class '{unknown}', which the model does not know; its "
            f"{len(class_names)} classes are {list_classes(class_names)}: name the data that it is for."
        )
    return replace(dataset, labels=labels, class_names=class_names)


def list_classes(class_names: Sequence[str]) -> str:
    """The names of classes in a sentence, the first ones of many.

    >>> list_classes([str(number) for number in range(12)])
    '0, 1, 2, 3, 4, ...'
    """
    return ", ".join(class_names if len(class_names) <= 10 else [*class_names[:5], "..."])


def describe_scaling(name: object, sizes: set[Size], changed: int, count: int, size: Size) -> str:
    """A remark on images that were scaled.

    Args:
        name: Of the data.
        sizes: That the images had.
        changed: How many were scaled.
        count: How many there are.
        size: That all have now.

    >>> describe_scaling("scans", {(8, 8)}, 3, 3, (16, 16))
    'scans: the images are 8x8 pixels; scaled to 16x16.'
    """
    if len(sizes) == 1:
        had = f"the images are {format_size(*sizes)} pixels"
    else:
        had = f"{changed} of {count} images have other sizes ({len(sizes)} sizes in all)"
    return f"{name}: {had}; scaled to {format_size(size)}."
