"""What a benchmark consists of: independent tasks, each one attack on one model and a few images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from absynth.attacks.suites import find_attack
from absynth.errors import AbsynthError
from absynth.norms import Norm


@dataclass(frozen=True)
class Task:
    """One attack on one model and some images; ``key`` names its records.

    Attributes:
        model: Name or folder of the model.
        weights: Hash of what the model computes with.
        norm: What the attack minimises.
        attack: Its name.
        settings: Its settings, as JSON.
        dataset: Name of the data set, of which the test split is used.
        indices: Which of its images.
        seed: Of the attack.
    """

    model: str
    weights: str
    norm: Norm
    attack: str
    settings: str
    dataset: str
    indices: tuple[int, ...]
    seed: int

    @property
    def key(self) -> str:
        """A hash of everything that the result depends on; the model's name is not among it."""
        parts = (self.weights, self.norm, self.attack, self.settings, self.dataset, self.indices, self.seed)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Preset:
    """A named benchmark.

    Attributes:
        models: Names or folders.
        suite: Whose settings the attacks have.
        attacks: Which attacks of the suite, by norm; none for the clean accuracy alone.
        images: How many test images are attacked.
        clean_images: How many test images the clean accuracy is measured on.
        shard: Images a task.
        dataset: Named data set.
        seed: Of the choice of images and of every attack.
    """

    models: tuple[str, ...]
    suite: str
    attacks: Mapping[Norm, tuple[str, ...]]
    images: int
    clean_images: int
    shard: int = 50
    dataset: str = "mnist"
    seed: int = 0

    def __post_init__(self) -> None:
        """Sees that there is something to do.

        Raises:
            AbsynthError: If there is not.
        """
        if not self.models or min(self.images, self.clean_images, self.shard) < 1:
            raise AbsynthError("A benchmark needs at least one model and one image.")

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms that are attacked in."""
        return tuple(self.attacks)


MODELS = ("abs", "binary-abs", "codebook-abs", "cnn", "binary-cnn", "nearest-neighbour")

PRESETS: dict[str, Preset] = {
    "clean": Preset(
        models=(*MODELS, "codebook-binary-abs"), suite="quick", attacks={}, images=1, clean_images=10_000
    ),
    "quick": Preset(
        models=MODELS,
        suite="quick",
        attacks={
            "l2": ("ddn",),
            "linf": ("bim",),
            "l0": ("fmn",),
        },
        images=10,
        clean_images=1000,
    ),
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        AbsynthError: If there is none.
    """
    if name not in PRESETS:
        raise AbsynthError(f"There is no preset '{name}'; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, types and values of all tensors, over the class and its config.

    Two models of equal hash decide alike, whatever they are called and wherever they are stored.
    """
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if callable(config := getattr(model, "config", None)):
        digest.update(json.dumps(config(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content = tensor.detach().cpu().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def choose_images(total: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` of ``total`` images by a fixed random rule: a smaller choice is the start of a larger one.

    Raises:
        AbsynthError: If there are not that many.

    >>> choose_images(10, 3, seed=0) == choose_images(10, 5, seed=0)[:3]
    True
    """
    if not 1 <= count <= total:
        raise AbsynthError(f"{count} images were asked for; the data set has {total}, ask for 1 to {total}.")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return tuple(order[:count].tolist())


def plan(preset: Preset, model: str, weights: str, indices: Sequence[int]) -> list[Task]:
    """All tasks of one model, the attacks of a norm one after the other."""
    tasks = []
    for norm, names in preset.attacks.items():
        for name in names:
            attack = find_attack(name, norm, preset.suite)
            settings: dict[str, Any] = attack.settings
            for start in range(0, len(indices), preset.shard):
                tasks.append(
                    Task(
                        model=model,
                        weights=weights,
                        norm=norm,
                        attack=attack.name,
                        settings=json.dumps(settings, sort_keys=True),
                        dataset=preset.dataset,
                        indices=tuple(indices[start : start + preset.shard]),
                        seed=preset.seed,
                    )
                )
    return tasks
