"""The law of this project, checked: no attack and no point of the certified ball may get below a radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from absynth.attacks import suite_attacks
from absynth.certify import Method, certifiable
from absynth.certify.provers.sampled import Sampled
from absynth.errors import AbsynthError
from absynth.evaluate.balls import NOWHERE_ZERO, ball_points, check_balls
from absynth.evaluate.certification import CertificateRecord, certify_images, radii
from absynth.evaluate.data import read_for
from absynth.evaluate.majority_audit import BEYOND, FURTHER, MajorityAudit, allowed_by_chance
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset, choose_images
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.zoo import load

ATTACKED_AT_ONCE = 250
"""Images of a piece of the attacks."""


@dataclass(frozen=True)
class Violation:
    """A radius that does not hold.

    Attributes:
        norm: Of the radius.
        source: The attack that found the adversarial, or ``"ball"`` for a random point; of a majority
            ``"attack"`` for any attack, and ``"gradient"`` for a point down the gradient.
        index: Of the image in its split.
        radius: What was certified.
        distance: Of the adversarial.
    """

    norm: Norm
    source: str
    index: int
    radius: float
    distance: float


@dataclass(frozen=True)
class Audit:
    """What was compared in one norm, and what was found.

    Attributes:
        norm: Which norm.
        images: How many images have a radius.
        attacks: Which attacks.
        comparisons: How many radii were compared with a distance.
        points: How many points of certified balls the model was asked about.
        tightest: The largest radius / smallest distance found, over all images; at most 1 if the law holds.
        violations: All that were found.
        allowed: How many images may have one by chance, where radii hold with a probability.
    """

    norm: Norm
    images: int
    attacks: tuple[str, ...]
    comparisons: int
    points: int
    tightest: float
    violations: tuple[Violation, ...]
    allowed: int = 0

    @property
    def refuted(self) -> bool:
        """Whether more images have a violation than may have one."""
        return len({violation.index for violation in self.violations}) > self.allowed


def audit(
    name: str,
    *,
    norms: Sequence[Norm],
    suite: str,
    count: int,
    points: int,
    out: Path,
    progress: Progress,
    dataset: str = "mnist",
    seed: int = 0,
    load_model: Callable[[str], nn.Module] = load,
    method: Method | None = None,
) -> list[Audit]:
    """Attacks certified images with every attack of a suite and looks around in their balls.

    What is certified of a majority over random copies is attacked there, and a violation counts only if fresh
    copies confirm it (:mod:`absynth.evaluate.majority_audit`).

    Args:
        name: A model that can be certified.
        norms: In which norms.
        suite: Of attacks.
        count: How many test images.
        points: How many random points of certified balls, a norm.
        out: Folder of the results; a run goes on from what is there.
        progress: Where to show what is done and left.
        dataset: Name or path of a data set, of which the test split is used.
        seed: Of every draw.
        load_model: How a name becomes a classifier.
        method: Of certifying; by default the best that certifies the model itself.

    Raises:
        AbsynthError: If there are no certificates of the model.
    """
    model = load_model(name)
    scope = certifiable(model, method)
    if scope is None or not scope.proven:
        raise AbsynthError(
            f"'{name}' has no certificates to check; name a model by prototypes, or a method for this one."
        )
    read = read_for([name], dataset, "test")
    images, labels = read.images, read.labels
    indices = choose_images(len(images), count, seed)
    records = certify_images(
        model,
        images,
        labels,
        indices=indices,
        norms=norms,
        exact=False,
        parts=out / "certificates",
        progress=progress,
        method=method,
    )
    if isinstance(method, Sampled):
        return [
            _audit_majority(
                method,
                model,
                images,
                labels,
                [record for record in records if record.norm == norm],
                norm=norm,
                suite=suite,
                points=points,
                seed=seed,
                progress=progress,
            )
            for norm in norms
        ]
    preset = Preset(
        models=(name,),
        suite=suite,
        attacks={
            norm: tuple(attack.name for attack in suite_attacks(suite, norm) if attack.applies_to(model))
            for norm in norms
        },
        images=count,
        clean_images=count,
        shard=ATTACKED_AT_ONCE,
        dataset=dataset,
        seed=seed,
    )
    result = run_benchmark(preset, ResultStore(out), progress, load_model=lambda _: model)
    audits = []
    for norm in norms:
        radius = dict(zip(indices, radii(records, norm).tolist(), strict=True))
        attacked = [record for record in result.records if record.norm == norm]
        violations = [
            Violation(norm, record.attack, record.index, radius[record.index], record.distance)
            for record in attacked
            if radius[record.index] > 0 and radius[record.index] >= record.distance
        ]
        certified = [index for index in indices if radius[index] > 0]
        rows = torch.tensor(certified, dtype=torch.int64)
        sizes = torch.tensor([radius[index] for index in certified], dtype=torch.float64)
        tried = points if certified else 0
        changed = check_balls(
            model, images[rows], labels[rows], sizes, norm, count=tried, seed=seed, progress=progress
        )
        violations += [
            Violation(norm, "ball", certified[row], distance, distance) for row, distance in changed
        ]
        ratios = [radius[record.index] / record.distance for record in attacked if record.distance > 0]
        audits.append(
            Audit(
                norm,
                len(indices),
                preset.attacks[norm],
                len(attacked),
                tried,
                max(ratios, default=0.0),
                tuple(violations),
            )
        )
    return audits


def _audit_majority(
    method: Sampled,
    model: nn.Module,
    images: Images,
    labels: Labels,
    records: Sequence[CertificateRecord],
    *,
    norm: Norm,
    suite: str,
    points: int,
    seed: int,
    progress: Progress,
) -> Audit:
    """The audit in one norm of what holds with a probability.

    Half of the points lie in random directions, a quarter where the attack found an adversarial, and a
    quarter down the gradient.

    Args:
        method: That certified.
        model: The base model.
        images: The whole split.
        labels: Its classes.
        records: Of the norm.
        norm: Which norm.
        suite: Of attacks.
        points: How many random points of certified balls.
        seed: Of every draw.
        progress: Where to show what is done and left.
    """
    attacks = tuple(one.name for one in suite_attacks(suite, norm))
    certified = [record for record in records if record.radius > 0]
    allowed = allowed_by_chance(len(certified), method.alpha)
    if not certified:
        return Audit(norm, len(records), attacks, 0, 0, 0.0, (), allowed)
    rows = torch.tensor([record.index for record in certified])
    radius = torch.tensor([record.radius for record in certified], dtype=torch.float64)
    some = images[rows]
    search = MajorityAudit(method, model, some, labels[rows], norm, seed)
    every = torch.arange(len(some))
    adversarials, steepest = search.attacked(suite, progress), search.steepest()
    along = torch.cat([(some + factor * (adversarials - some)).clamp(0, 1) for factor in BEYOND])
    found = search.refutations(every.repeat(len(BEYOND)), along, "attack", progress)
    down = steepest.flatten(1) + NOWHERE_ZERO
    along = torch.cat([ball_points(some, down, factor * radius, norm) for factor in FURTHER])
    found += search.refutations(every.repeat(len(FURTHER)), along, "gradient", progress)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(some), (points,), generator=generator)
    towards = torch.stack([(adversarials - some).flatten(1), down])[torch.arange(points) // 2 % 2, drawn]
    noise = torch.randn(towards.shape, generator=generator)
    directions = torch.where((torch.arange(points) % 2 == 0)[:, None], noise, towards) + NOWHERE_ZERO
    balls = ball_points(some[drawn], directions, radius[drawn], norm)
    within = [one for one in found if one.distance <= radius[one.row]]
    within += search.refutations(drawn, balls, "ball", progress) if points else []
    violations = tuple(
        Violation(norm, one.source, certified[one.row].index, certified[one.row].radius, one.distance)
        for one in within
    )
    ratios = [float(radius[one.row]) / max(one.distance, NOWHERE_ZERO) for one in found]
    compared = len({one.row for one in found})
    return Audit(norm, len(records), attacks, compared, points, max(ratios, default=0.0), violations, allowed)
