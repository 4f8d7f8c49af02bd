"""Reading data as models take them: in their size, with their numbers of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absynth.data import Dataset, read_dataset
from absynth.data.adapt import match_classes
from absynth.data.catalog import MNIST
from absynth.data.domain import Domain, format_size
from absynth.errors import AbsynthError
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
        models: Their names; those of which nothing is known take the images as they are.
        data: Name or path.
        split: train or test.
        strict: A picture that cannot be read is an error.

    Raises:
        AbsynthError: If the data cannot be read, have a class that the models do not know, or the models are
            for different data.
    """
    domain = shared_domain(models)
    if domain is None:
        return read_dataset(data, split, strict=strict)
    dataset = read_dataset(data, split, size=domain.size, strict=strict)
    return match_classes(dataset, domain.class_names, str(data))
