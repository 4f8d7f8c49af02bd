"""What an attack was handed, made ready: standard surroundings, the model as it can be asked, its images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from absynth.attacks.target import private_randomness
from absynth.inputs import check_classes, take_labels
from absynth.models.asked import as_module, computing_type, own_type, serve
from absynth.models.frozen import frozen
from absynth.models.pretrained import device_of
from absynth.shapes import Images, Labels
from absynth.surroundings import standard


@dataclass(frozen=True)
class Opened:
    """A model and labelled images that an attack can take as they are.

    Attributes:
        model: The model as it can be asked.
        images: As it sees them, on its device.
        given: As the caller gave them, clipped to [0, 1], in the wider type of theirs and the model's; the
            very ``images`` where they do not differ.
        labels: Their classes, on the same device.
        classes: That the model tells apart.
        home: Where the caller has the images.
    """

    model: nn.Module
    images: Images
    given: Images
    labels: Labels
    classes: int
    home: torch.device


@contextmanager
def opened(model: Any, images: Any, labels: Any, seed: int) -> Iterator[Opened]:
    """Standard surroundings for an attack, with what it needs made ready.

    Args:
        model: A module or a function from images to logits.
        images: In any form that :mod:`absynth.inputs` names.
        labels: Their classes.
        seed: Of the generators while the model is looked at.

    Raises:
        AbsynthError: If one of them cannot be taken.
    """
    with standard():
        module = as_module(model)
    dtype, device = computing_type(own_type(module), images), device_of(module)
    with standard(dtype, gradients=True, device=device):
        with frozen(module), private_randomness(seed, device):
            served = serve(module, images)
        given, seen = served.given, served.given.seen
        numbers = take_labels(labels, len(seen), seen.device)
        check_classes(numbers, served.classes)
        wider = torch.promote_types(given.values.dtype, own_type(module) or dtype)
        values = given.values.to(wider).clamp(0, 1)
        same = wider == seen.dtype and torch.equal(values, seen)
        yield Opened(
            served.model,
            seen,
            seen if same else values,
            numbers,
            served.classes,
            given.home,
        )
