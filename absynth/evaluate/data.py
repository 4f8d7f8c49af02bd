"""Reading data as models take them: in their size, with their numbers of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from absynth.data import Dataset, read_dataset
from absynth.data.adapt import list_classes, match_classes
from absynth.data.catalog import CATALOG, MNIST
from absynth.data.domain import Domain, format_size
from absynth.errors import AbsynthError
from absynth.evaluate.models import load_classifier
from absynth.evaluate.own import find_function
from absynth.models.asked import answer
from absynth.models.pretrained import CONFIG_NAME, read_config, read_domain
from absynth.zoo import model_folder


def stored_domain(name: str) -> Domain | None:
    """What a model is for, by its config alone; None for a name that stands for no stored model.

    Args:
        name: What :func:`absynth.zoo.load` takes, or anything else.

    Raises:
        AbsynthError: If the config is damaged.
    """
    try:
        folder = model_folder(name)
    except AbsynthError:
        return None
    return read_domain(read_config(folder)) if (folder / CONFIG_NAME).is_file() else None


def shared_domain(models: Sequence[str]) -> Domain | None:
    """What several models are for; None if that is not known of any.

    Args:
        models: Their names.

    Raises:
        AbsynthError: If they are for different images or classes.
    """
    known = {name: found for name in models if (found := stored_domain(name)) is not None}
    for name, found in known.items():
        first, other = next(iter(known.items()))
        if (found.size, found.class_names) != (other.size, other.class_names):
            raise AbsynthError(
                f"'{first}' and '{name}' are for different data ({len(other.class_names)} classes of "
                f"{format_size(other.size)} and {len(found.class_names)} of {format_size(found.size)} "
                "pixels); compare models for the same data only."
            )
    return next(iter(known.values()), None)


def choose_data(models: Sequence[str], data: str | None) -> str:
    """The data that is meant: what is given, else MNIST, if that is what the models are for.

    Args:
        models: Their names.
        data: Name or path, if it was given.

    Raises:
        AbsynthError: If nothing was given and a model is for other data.
    """
    if data is not None:
        return data
    for name in models:
        if (found := stored_domain(name)) is not None and not found.digits:
            raise AbsynthError(f"'{name}' is for data of its own; name them with --data.")
    return MNIST.name


def read_for(models: Sequence[str], data: str | Path, split: str, *, strict: bool = False) -> Dataset:
    """A data set in the form that models take.

    Args:
        models: Their names; those of which nothing is known take the images as they are, and of the classes
            of a folder the numbers that :func:`number_folders` gives them.
        data: Name or path.
        split: train or test.
        strict: A picture that cannot be read is an error.

    Raises:
        AbsynthError: If the data cannot be read, have a class that the models do not know, or the models are
            for different data.
    """
    domain = shared_domain(models)
    if domain is not None:
        dataset = read_dataset(data, split, size=domain.size, strict=strict)
        return match_classes(dataset, domain.class_names, str(data))
    dataset = read_dataset(data, split, strict=strict)
    named = isinstance(data, str) and data.strip().lower() in CATALOG
    if named or not dataset.named or not Path(data).expanduser().is_dir():
        return dataset
    if dataset.class_names == tuple(str(number) for number in range(len(dataset.class_names))):
        return dataset
    return number_folders(dataset, _count_classes(models, dataset), str(data))


def number_folders(dataset: Dataset, classes: dict[str, int], name: str) -> Dataset:
    """A data set from a folder with its classes numbered as users' models, of which no names are known, do.

    Names that are all whole numbers below a model's number of classes are the labels. Any others are counted
    in alphabetical order, with a remark where this may not be what the model was trained for.

    Args:
        dataset: Of named classes, counted in alphabetical order.
        classes: How many each model tells apart.
        name: What to call the data set in a message.

    Raises:
        AbsynthError: If the names are labels of some of the models and not of others.
    """
    own = dataset.class_names
    shown = list_classes([f"'{one}'" for one in own])
    numbers = [int(one) for one in own] if all(one.isdecimal() for one in own) else []
    whole = 0 < len(numbers) == len(set(numbers))
    takes = {model: whole and max(numbers) < count for model, count in classes.items()}
    if any(takes.values()):
        if not all(takes.values()):
            few = next(model for model, taken in takes.items() if not taken)
            raise AbsynthError(
                f"{name} has the classes {shown}, and '{few}' tells only {classes[few]} apart, fewer than "
                "another of the models; compare models of the same classes only."
            )
        labels = torch.tensor(numbers)[dataset.labels]
        names = tuple(str(number) for number in range(min(classes.values())))
        remark = f"{name}: the classes are numbered by their names, {shown}."
        return replace(dataset, labels=labels, class_names=names, remarks=(*dataset.remarks, remark))
    told = [
        f"{name}: the classes {shown} are numbered from 0 in this order, and '{model}' tells {count} apart; "
        "see that it numbers them like this."
        for model, count in classes.items()
        if numbers or count > len(own)
    ]
    return replace(dataset, remarks=(*dataset.remarks, *told))


def _count_classes(models: Sequence[str], dataset: Dataset) -> dict[str, int]:
    """How many classes each user's model tells apart; without those that cannot be loaded."""
    classes = {}
    for name in models:
        if find_function(name) is None:
            continue
        try:
            model = load_classifier(name, dataset.domain.size)
            classes[name] = answer(model, torch.zeros_like(dataset.images[:1])).shape[1]
        except AbsynthError:
            pass  # told where it is to be attacked
    return classes
