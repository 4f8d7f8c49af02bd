"""The models of a benchmark, looked at before anything is computed, and what to know of their figures."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.attacks.checks import LOOKED_AT, check_model, remark_on_masking
from absynth.evaluate.store import Record
from absynth.evaluate.tasks import Preset, choose_images
from absynth.inputs import take_images
from absynth.models.asked import computing_type, from_outside, own_type
from absynth.models.pretrained import device_of
from absynth.norms import Norm
from absynth.shapes import Images
from absynth.surroundings import standard


@dataclass(frozen=True)
class Candidate:
    """A model that is attacked.

    Attributes:
        model: In the form that is attacked.
        weights: Its hash.
        remarks: What is to be known of its figures, a sentence each.
    """

    model: nn.Module
    weights: str
    remarks: tuple[str, ...]


def first_images(images: Images, preset: Preset) -> Float[Tensor, "some channel height width"]:
    """The images that models are tried on: the first that a benchmark attacks, and more if these are few.

    Args:
        images: Of the test split.
        preset: The benchmark.
    """
    count = min(LOOKED_AT, len(images))
    return images[list(choose_images(len(images), count, preset.seed))]


def check_candidate(name: str, model: nn.Module, weights: str, images: Images, preset: Preset) -> Candidate:
    """Sees whether a model can be attacked (:func:`absynth.attacks.checks.check_model`).

    Args:
        name: Of the model.
        model: The model itself.
        weights: Its hash.
        images: That it is tried on (:func:`first_images`).
        preset: Whether it may answer at random.

    Raises:
        AbsynthError: If its figures would be wrong.
    """
    own, device = own_type(model), device_of(model)
    dtype = computing_type(own, images)
    with standard(dtype, gradients=True, device=device):
        checked = check_model(
            from_outside(model, dtype),
            take_images(images, dtype, device, own).seen,
            name=name,
            allow_random=preset.allow_random,
            draws=preset.draws,
            seed=preset.seed,
        )
    if checked.random:
        weights = hashlib.sha256(f"{weights} mean of {preset.draws} draws".encode()).hexdigest()
    return Candidate(checked.model, weights, checked.remarks)


def masking_remarks(records: Iterable[Record]) -> tuple[str, ...]:
    """Where attacks without gradients came closer than those with gradients, on the images that all had.

    Args:
        records: Of any models, norms and attacks.
    """
    found: defaultdict[tuple[str, Norm], dict[str, dict[int, float]]] = defaultdict(dict)
    for record in records:
        found[record.model, record.norm].setdefault(record.attack, {})[record.index] = record.distance
    remarks = []
    for (model, norm), by_attack in found.items():
        shared = sorted(set.intersection(*(set(distances) for distances in by_attack.values())))
        if shared:
            remarks.append(
                remark_on_masking(
                    {
                        attack: torch.tensor([one[index] for index in shared], dtype=torch.float64)
                        for attack, one in by_attack.items()
                    },
                    norm,
                    model,
                )
            )
    return tuple(remark for remark in remarks if remark is not None)
