"""A result folder small enough to check by hand: two models, eight test images, known distances."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import absynth
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Task
from absynth.inference import CodebookABS
from absynth.inference.abs import ABS
from absynth.inference.codebook import draw_latents
from absynth.inference.latent import SearchSettings

INDICES = (0, 1, 2, 3, 4, 5, 6, 7)
DISTANCES = {
    ("cnn", "l2", "ddn"): (0.0, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0),
    ("cnn", "l2", "boundary"): (0.0, 0.5, 1.5, 1.5, 1.6, 2.0, 2.5, 3.0),
    ("cnn", "l0", "fmn"): (0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    ("abs", "l2", "ddn"): (0.0, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, math.inf),
    ("abs", "l0", "fmn"): (0.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, math.inf),
}
CLEAN = {"cnn": (990, 1000), "abs": (97, 100)}


def weights_of(model: str) -> str:
    """A hash for a model that does not exist."""
    return f"{model.encode().hex()}{'0' * 64}"[:64]


def put(
    folder: Path,
    model: str,
    norm: str,
    attack: str,
    distances: tuple[float, ...],
    *,
    weights: str | None = None,
    indices: tuple[int, ...] = INDICES,
    dataset: str = "mnist",
) -> None:
    """Writes the records of one task; each adversarial is its image with the upper left pixel at 1."""
    images, labels = absynth.load_dataset("mnist", "test")
    digest = weights or weights_of(model)
    task = Task(model, digest, norm, attack, "{}", dataset, "data", indices, 3)
    records = [
        Record(model, digest, norm, attack, "{}", dataset, 3, index, int(labels[index]), distance, 10)
        for index, distance in zip(indices, distances, strict=True)
    ]
    adversarials = images[list(indices)].clone()
    adversarials[..., 0, 0] = 1.0
    ResultStore(folder).put(task, records, adversarials, 1.0)


@dataclass(frozen=True)
class SmallResults:
    """Where the records are and what they say."""

    folder: Path
    distances: dict[tuple[str, str, str], tuple[float, ...]]
    clean: dict[str, tuple[int, int]]


@pytest.fixture(scope="session")
def small_results(tmp_path_factory) -> SmallResults:
    folder = tmp_path_factory.mktemp("results")
    for (model, norm, attack), distances in DISTANCES.items():
        put(folder, model, norm, attack, distances)
    for model, (right, images) in CLEAN.items():
        name = f"{weights_of(model)[:24]}-data-{images}-3.json"
        (folder / "clean").mkdir(exist_ok=True)
        (folder / "clean" / name).write_text(json.dumps({"right": right, "images": images}))
    return SmallResults(folder, DISTANCES, CLEAN)


@pytest.fixture(scope="session")
def put_records():
    return put


@pytest.fixture(scope="session")
def small_abs(make_decoder) -> ABS:
    """Ten untrained decoders, and the paper's search with three steps."""
    codebook = CodebookABS([make_decoder(seed) for seed in range(10)], draw_latents(4))
    model = ABS(codebook, SearchSettings(steps=3))
    model.prepare()
    return model.eval()


class Bright(nn.Module):
    """Class 1 in proportion to the mean brightness of the image, all others 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = images.new_zeros(len(images), 10)
        unit = torch.eye(10, dtype=images.dtype)[1]
        return logits + 30 * (images.flatten(1).mean(dim=1, keepdim=True) - 0.5) * unit


@pytest.fixture(scope="session")
def bright() -> nn.Module:
    return Bright().eval()
