"""Witnesses and their checker: what is certified is proven, and nothing that claims too much is accepted."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from absynth import check_proof
from absynth.certify import certify
from absynth.certify.codebook import Codebook, find_prototypes, read_codebook
from absynth.certify.table import write_table
from absynth.certify.witness import Witness, find_witnesses, pack_witnesses
from absynth.norms import NORMS, Norm

FRONTS = ("grey", "clamped", "binary")
TAIL = 0.1


@dataclass
class Proven:
    """Certified images of a small model, and what is needed to write witnesses of them."""

    codebook: Codebook
    norm: Norm
    images: Tensor
    labels: list[int]
    radii: list[float]
    witnesses: list[Witness]
    folder: Path

    def check(self, **changed: Any) -> list[check_proof.Verdict]:
        """The verdicts of the checker, with some of this or of what is claimed changed."""
        roundings = changed.pop("roundings", None)
        this = replace(self, **changed)
        digest = write_table(this.codebook, this.folder / "prototypes.safetensors")
        indices = list(range(len(this.images)))
        content = pack_witnesses(
            this.norm, digest, this.images, indices, this.labels, this.radii, this.witnesses
        )
        (this.folder / "some.npz").write_bytes(content)
        table = check_proof.read_table(this.folder / "prototypes.safetensors")
        claims = check_proof.read_claims(this.folder / "some.npz", table)
        if roundings is not None:
            claims = claims._replace(roundings=roundings)
        return list(check_proof.check_claims(table, claims))

    def words(self, **changed: Any) -> list[str]:
        return [verdict.word for verdict in self.check(**changed)]


def prove(classifier: nn.Module, images: Tensor, norm: Norm, folder: Path) -> Proven:
    """What the package certifies, with its witnesses."""
    labels = classifier(images).argmax(1)
    radii = certify(classifier, images, labels, norm).radius
    images, labels, radii = images[radii > 0], labels[radii > 0].tolist(), radii[radii > 0].tolist()
    found = find_prototypes(classifier)
    assert found is not None
    table = read_codebook(*found)
    witnesses = find_witnesses(table, images.flatten(1), labels, norm, radii)
    return Proven(table, norm, images, labels, radii, witnesses, folder)


def clustered(toolbox: Any, seed: int, classes: int, count: int, pixels: int) -> Any:
    """A codebook whose classes are some pixels apart, each in a cluster around a black and white image."""
    spread = toolbox.random_codebook(seed, classes, count, pixels)
    centres = spread.prototype_images[:1, :1].round().repeat(classes, 1, 1)
    centres[1] = 1 - centres[0]
    centres[2:, :, : pixels // 2] = 1 - centres[0, :, : pixels // 2]
    images = torch.lerp(centres.expand_as(spread.prototype_images), spread.prototype_images, 0.4)
    return toolbox.codebook(images, spread.prototype_offsets)


def near(toolbox: Any, model: Any, count: int, size: tuple[int, int]) -> Tensor:
    """Images near to prototypes, with some pixels at 0, 1 and exactly ½."""
    away = toolbox.random_images(1, count, *size).flatten(1)
    chosen = model.prototype_images.flatten(0, 1)[torch.arange(count) * 7 % model.prototype_offsets.numel()]
    share = torch.rand(count, away.shape[1], generator=torch.Generator().manual_seed(2)) < 0.3
    mixed: Tensor = torch.where(share, away, chosen)
    return mixed.view(count, 1, *size)


def truth(toolbox: Any, model: Any, front: str, norm: Norm, image: Tensor, label: int) -> float:
    """The distance to the nearest image that is decided otherwise, by other means."""
    oracle, values = toolbox.oracle(model), image.flatten().double().numpy()
    if front == "binary":
        return float(oracle.binary(values, label, norm))
    if front == "clamped" and norm != "l0":
        return float(oracle.clamped(values, label, norm, TAIL))
    if front == "clamped":
        # Every pixel that changes may be seen as anything from the tail on.
        seen = np.clip(values, TAIL, 1 - TAIL)
        stretched = toolbox.codebook(
            (model.prototype_images - TAIL) / (1 - 2 * TAIL), model.prototype_offsets
        )
        scaled = toolbox.oracle(stretched)
        scaled.offsets[:] /= (1 - 2 * TAIL) ** 2
        return float(scaled.exact((seen - TAIL) / (1 - 2 * TAIL), label, norm))
    return float(oracle.exact(values, label, norm))


def claims_too_much(radius: float, distance: float, norm: Norm) -> bool:
    """Whether a radius is certainly too large."""
    return radius >= distance if norm == "l0" else radius > distance + 1e-6


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_certified_is_proven(toolbox: Any, tmp_path: Path, norm: Norm, front: str) -> None:
    model = clustered(toolbox, 3, classes=3, count=20, pixels=12)
    proven = prove(toolbox.behind(front, model), near(toolbox, model, 30, (3, 4)), norm, tmp_path)
    assert len(proven.radii) > 10
    assert sum(one.missed for one in proven.witnesses) == 0
    assert set(proven.words()) == {"proven"}
    if norm in ("l2", "l1"):
        assert any(one.pairs or one.mixtures for one in proven.witnesses)


def changed(
    random: np.random.Generator, one: Witness, radius: float, distance: float, norm: Norm
) -> tuple[Witness, float]:
    """A witness and a radius with something changed, mostly so that too much is claimed."""
    one = deepcopy(one)
    aim = distance if random.random() < 0.7 and math.isfinite(distance) else radius
    radius = aim * (1 + 10 ** random.uniform(-6, -1)) if random.random() < 0.8 else radius
    if norm == "l0":
        radius = math.ceil(radius)
    kind = random.integers(6)
    own = [one.default, *one.pairs.values(), *(part for mixture in one.mixtures.values() for part in mixture)]
    if kind == 0 and one.pairs:
        one.pairs.pop(next(iter(one.pairs)))
    elif kind == 1 and one.pairs:
        one.pairs[next(iter(one.pairs))] = int(random.choice(own))
    elif kind == 2 and one.mixtures:
        mixture = one.mixtures[next(iter(one.mixtures))]
        for part in mixture:
            mixture[part] = int(random.integers(1, 2**48))
    elif kind == 3:
        one.default = int(random.choice(own))
    elif kind == 4:
        one.price = float(10 ** random.uniform(-9, 3))
    return one, radius


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_changed_witness_that_claims_too_much_is_accepted(
    toolbox: Any, tmp_path: Path, norm: Norm, front: str
) -> None:
    random = np.random.default_rng(0)
    accepted = tried = honest = 0
    for seed in range(2):
        model = clustered(toolbox, seed, classes=2, count=3, pixels=6)
        images = near(toolbox, model, 4, (2, 3))
        proven = prove(toolbox.behind(front, model), images, norm, tmp_path)
        many: list[tuple[int, Witness, float, float]] = []
        for row, (one, radius) in enumerate(zip(proven.witnesses, proven.radii, strict=True)):
            distance = truth(toolbox, model, front, norm, proven.images[row], proven.labels[row])
            assert not claims_too_much(radius, distance, norm)
            for _ in range(MUTANTS):
                many.append((row, *changed(random, one, radius, distance, norm), distance))
        rows = [row for row, _, _, _ in many]
        words = proven.words(
            images=proven.images[rows],
            labels=[proven.labels[row] for row in rows],
            radii=[radius for _, _, radius, _ in many],
            witnesses=[one for _, one, _, _ in many],
            roundings=0,
        )
        for (_, _, radius, distance), word in zip(many, words, strict=True):
            too_much = claims_too_much(radius, distance, norm)
            tried += too_much
            accepted += too_much and word == "proven"
            honest += not too_much and word == "proven"
    assert accepted == 0
    assert tried > MUTANTS and honest > 0


MUTANTS = 40
"""Changed witnesses of each."""
