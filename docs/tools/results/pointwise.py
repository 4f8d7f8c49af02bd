"""The Pointwise attack here beside foolbox's: docs/results/pointwise.json, which make results reads.

    python docs/tools/results/pointwise.py

One search in L0 each, on the same test images, with one thread: foolbox's as it comes, and without its second
part, which moves values for L2. Takes half an hour, nearly all of it foolbox's.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import absynth
from absynth.attacks import find_attack
from absynth.attacks.adapter import quiet_foolbox
from absynth.data import load_dataset
from absynth.evaluate.tasks import choose_images
from absynth.files import write_text
from absynth.shapes import Images, Labels

RECORD = Path(__file__).parents[2] / "results" / "pointwise.json"


@dataclass(frozen=True)
class Side:
    """What one of the two attacks did.

    Attributes:
        seconds: For all images.
        median: Pixels of the adversarials.
        queries: The mean of an image.
    """

    seconds: float
    median: float
    queries: float


@dataclass(frozen=True)
class Comparison:
    """Both attacks on one model.

    Attributes:
        model: Its name.
        images: Test images, from the start of the benchmark's sample.
        seed: Of the sample and of both attacks.
        here: The attack of this package.
        pixels: Foolbox's without its second part.
        whole: Foolbox's as it comes.
    """

    model: str
    images: int
    seed: int
    here: Side
    pixels: Side
    whole: Side

    def ratio(self, foolbox: Side) -> float:
        """How many times as many images a second as foolbox."""
        return foolbox.seconds / self.here.seconds


def read_comparison() -> Comparison:
    """The record of the last comparison."""
    known = json.loads(RECORD.read_text(encoding="utf-8"))
    sides = {name: Side(**known[name]) for name in ("here", "pixels", "whole")}
    return Comparison(**{**known, **sides})


def compare(name: str, count: int, seed: int) -> Comparison:
    """Runs all on the same images."""
    images, labels = load_dataset("mnist", "test")
    rows = torch.tensor(choose_images(len(images), count, seed))
    model = absynth.load(name).eval()
    model(images[rows[:2]])  # what a model prepares at its first use is no attack's time
    batch = images[rows], labels[rows]
    ours = _ours(model, *batch, seed)
    theirs = [_foolbox(model, *batch, seed, whole=whole) for whole in (False, True)]
    return Comparison(name, count, seed, ours, *theirs)


def _ours(model: nn.Module, images: Images, labels: Labels, seed: int) -> Side:
    attack = replace(find_attack("pointwise", "l0", "paper"), repetitions=1)
    start = time.perf_counter()
    found = attack(model, images, labels, seed=seed)
    seconds = time.perf_counter() - start
    return Side(seconds, float(found.distances.median()), float(found.queries.double().mean()))


def _foolbox(model: nn.Module, images: Images, labels: Labels, seed: int, *, whole: bool) -> Side:
    """Foolbox's own start, salt-and-pepper noise, then its search where that found an adversarial."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    asked = 0

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal asked
        asked += len(given[0])

    pixels = torch.full((len(images),), torch.inf)
    with quiet_foolbox(), model.register_forward_pre_hook(count):
        from foolbox import PyTorchModel
        from foolbox.attacks import PointwiseAttack, SaltAndPepperNoiseAttack
        from foolbox.criteria import Misclassification

        start = time.perf_counter()
        asks = PyTorchModel(model, bounds=(0, 1))
        _, points, fooled = SaltAndPepperNoiseAttack()(asks, images, labels, epsilons=None)
        search, given = PointwiseAttack(l2_binary_search=whole), images[fooled]
        points = search.run(asks, given, Misclassification(labels[fooled]), starting_points=points[fooled])
        seconds = time.perf_counter() - start
    pixels[fooled] = (points != given).any(dim=1).flatten(1).sum(dim=1).float()
    return Side(seconds, float(pixels.median()), asked / len(images))


def main() -> None:
    """Compares them and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="codebook-abs")
    parser.add_argument("--images", type=int, default=100)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = compare(chosen.model, chosen.images, seed=0)
    write_text(RECORD, json.dumps(asdict(found), indent=2) + "\n")
    print(f"{found.ratio(found.whole):.1f} and {found.ratio(found.pixels):.1f} times as fast: {found}")


if __name__ == "__main__":
    main()
