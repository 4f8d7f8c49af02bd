"""Witnesses and their checker: what is certified is proven, and nothing that claims too much is accepted."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from absynth import check_proof
from absynth.certify import certify, codebook, mixture, scan, search
from absynth.certify.codebook import Codebook, find_prototypes, read_codebook
from absynth.certify.provers import prototypes
from absynth.certify.table import write_table
from absynth.certify.witness import Witness, find_witnesses, pack_witnesses
from absynth.norms import NORMS, Norm

MUTANTS = 20
"""Changed witnesses of each image."""

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
    model = clustered(toolbox, 3, classes=3, count=12, pixels=12)
    proven = prove(toolbox.behind(front, model), near(toolbox, model, 16, (3, 4)), norm, tmp_path)
    assert len(proven.radii) > 8
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


@pytest.mark.parametrize("norm", NORMS)
def test_radii_are_proven_up_to_the_last_bits_and_refuted_beyond(
    toolbox: Any, tmp_path: Path, norm: Norm
) -> None:
    # One own prototype and one rival in the middle of the box: the distance is m over a norm of g, exactly.
    random = torch.Generator().manual_seed(0)
    proven = 0
    for _ in range(8):
        own, rival, image = 0.4 + 0.2 * torch.rand(3, 6, generator=random)
        image = torch.lerp(own, image, 0.05)
        if norm == "l0":
            own, rival, image = own.round(), 1 - own.round(), own.round()
        fractions = [[Fraction(value) for value in values.tolist()] for values in (own, rival, image)]
        margin = sum((x - q) ** 2 - (x - p) ** 2 for p, q, x in zip(*fractions, strict=True))
        slopes = [2 * abs(q - p) for p, q, _ in zip(*fractions, strict=True)]
        if norm == "l2":
            square = margin**2 / sum(slope**2 for slope in slopes)
            size = math.sqrt(square)
            while Fraction(size) ** 2 >= square:
                size = math.nextafter(size, 0)
        elif norm == "l0":
            size = next(n for n in range(7) if 2 * n >= margin) - 1
        else:
            exact = margin / (max(slopes) if norm == "l1" else sum(slopes))
            size = float(exact)
            while Fraction(size) >= exact:
                size = math.nextafter(size, 0)
        model = toolbox.codebook(torch.stack([own, rival])[:, None], torch.zeros(2, 1))
        found = find_prototypes(model)
        assert found is not None
        sizes = (
            [size - 1, size, size + 1] if norm == "l0" else [size * (1 - 2**-46), size, size * (1 + 2**-51)]
        )
        one = Proven(
            read_codebook(*found),
            norm,
            image.view(1, 1, 2, 3).repeat(3, 1, 1, 1),
            [0, 0, 0],
            [float(one) for one in sizes],
            [Witness(0, 0.1) for _ in range(3)],
            tmp_path,
        )
        words = one.words(roundings=0)
        assert words[0] == "proven" and words[2] == "refuted"
        proven += words[1] == "proven"
    assert norm != "l0" or proven == 8


def drop_the_factor(duels: Any, choice: Tensor) -> Tensor:
    result: Tensor = duels.rival - duels.own[torch.arange(len(choice)), choice].double()
    return result


def break_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture.Duels, "gradient", drop_the_factor)
    monkeypatch.setattr(
        search.Search, "_first_bounds", lambda self, batch, slack: 2 * batch.rival_low.clamp(0)
    )


def break_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "forward_slack", lambda score, lowest, roundings: 0 * score)


def forget_a_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    once = search.Search.look_at

    def without_the_nearest(self: Any, image: Tensor) -> Any:
        batch = once(self, image)
        lowest = batch.rival_low.argmin(1, keepdim=True)
        return replace(batch, rival_low=batch.rival_low.scatter(1, lowest, math.inf))

    monkeypatch.setattr(search.Search, "look_at", without_the_nearest)
    plain = scan.scan

    def scanned(table: Any, image: Tensor, label: int) -> Any:
        batch = plain(table, image, label)
        lowest = batch.rival_low.argmin(1, keepdim=True)
        return replace(batch, rival_low=batch.rival_low.scatter(1, lowest, math.inf))

    monkeypatch.setattr(prototypes, "scan", scanned)


@pytest.mark.parametrize(
    ("broken", "norm"), [(break_factor, "linf"), (break_slack, "l2"), (forget_a_rival, "l2")]
)
def test_a_broken_prover_is_caught(
    toolbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, norm: Norm
) -> None:
    model = clustered(toolbox, 5, classes=3, count=8, pixels=12)
    images = near(toolbox, model, 8, (3, 4))
    assert set(prove(model, images, norm, tmp_path).words()) == {"proven"}
    broken(monkeypatch)
    # A prover that is wrong writes a witness without a doubt.
    proven = prove(model, images, norm, tmp_path)
    monkeypatch.undo()
    assert "refuted" in proven.words()


def test_what_cannot_be_verified_is_not_trusted(toolbox: Any, tmp_path: Path) -> None:
    model = clustered(toolbox, 3, classes=3, count=20, pixels=12)
    good = prove(model, near(toolbox, model, 30, (3, 4)), "l2", tmp_path)
    row = next(row for row, one in enumerate(good.witnesses) if one.pairs or one.mixtures)
    label, one = good.labels[row], good.witnesses[row]
    table = good.codebook
    own, other = table.bounds[label], table.bounds[(label + 1) % 3]

    def word(witness: Witness = one, radius: float = good.radii[row], label: int = label, **more: Any) -> str:
        image = more.pop("image", good.images[row : row + 1])
        (found,) = good.words(images=image, labels=[label], radii=[radius], witnesses=[witness], **more)
        return found

    assert word() == "proven"
    assert word(label=(label + 1) % 3) == "not covered"
    assert word(label=17) == "not covered"
    assert word(replace(one, default=other)) == "not covered"
    assert word(replace(one, default=10**6)) == "not covered"
    assert word(replace(one, pairs={own: own})) == "not covered"
    assert word(replace(one, pairs={other: other})) == "not covered"
    assert word(replace(one, mixtures={other: {own: 0}})) == "not covered"
    assert word(replace(one, mixtures={other: {other: 1}})) == "not covered"
    assert word(replace(one, mixtures={2**31: {own: 1}})) == "not covered"
    for number in (math.nan, math.inf, -1.0, 13.0):
        assert word(radius=number) == "not covered"
    for number in (math.nan, math.inf, -1.0):
        assert word(replace(one, price=number)) == "not covered"
    for value in (math.nan, 1.5, -0.1):
        assert word(image=good.images[row : row + 1].clone().fill_(value)) == "not covered"
    assert word(radius=1.1 * good.radii[row]) == "refuted"
    # More roundings in the forward pass ask for more slack than there is.
    assert word(roundings=2**20) == "refuted"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The checker as a program, without this package and what it needs."""
    program = [sys.executable, "-I", check_proof.__file__, *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_program_stands_alone_and_refuses_files_that_do_not_belong(toolbox: Any, tmp_path: Path) -> None:
    model = clustered(toolbox, 3, classes=3, count=6, pixels=12)
    good = prove(model, near(toolbox, model, 6, (3, 4)), "linf", tmp_path)
    count = len(good.radii)
    assert good.words() == ["proven"] * count
    found = run(tmp_path, "--out", tmp_path / "verdicts.csv")
    assert found.returncode == 0 and f"{count} of {count} claims proven" in found.stdout
    lines = (tmp_path / "verdicts.csv").read_text().splitlines()
    assert len(lines) == count + 1 and lines[1].split(",")[3] == good.radii[0].hex()
    assert good.words(radii=[1.2 * radius for radius in good.radii]) == ["refuted"] * count
    found = run(tmp_path)
    assert found.returncode == 1 and "is not held off" in found.stdout
    other = clustered(toolbox, 4, classes=3, count=6, pixels=12)
    again = find_prototypes(other)
    assert again is not None
    write_table(read_codebook(*again), tmp_path / "prototypes.safetensors")
    found = run(tmp_path)
    assert found.returncode == 2 and "for other prototypes" in found.stderr
    main = check_proof.main
    assert main([str(tmp_path / "missing")]) == 2
    whole = (tmp_path / "some.npz").read_bytes()
    (tmp_path / "some.npz").write_bytes(whole[: len(whole) // 2])
    assert main([str(tmp_path)]) == 2
    (tmp_path / "prototypes.safetensors").write_bytes(b"\0" * 20)
    assert main([str(tmp_path)]) == 2


def test_the_images_can_be_compared_with_those_of_a_data_set(toolbox: Any, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (6, 3, 4), generator=torch.Generator().manual_seed(0))
    images = (pixels.float() / 255)[:, None]
    model = toolbox.codebook(images[:, 0].flatten(1)[:, None], torch.zeros(6, 1))
    good = prove(model, images, "l2", tmp_path)
    assert set(good.words()) == {"proven"} and len(good.radii) == 6
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (6, 3, 4))
    (tmp_path / "images").write_bytes(header + bytes(pixels.flatten().tolist()))
    assert check_proof.main([str(tmp_path), "--images", str(tmp_path / "images")]) == 0
    pixels[2, 1, 1] ^= 1
    (tmp_path / "images").write_bytes(header + bytes(pixels.flatten().tolist()))
    assert check_proof.main([str(tmp_path), "--images", str(tmp_path / "images")]) == 1


def test_the_checker_imports_numpy_and_the_standard_library_alone() -> None:
    tree = ast.parse(Path(check_proof.__file__).read_text())
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "numpy"}
