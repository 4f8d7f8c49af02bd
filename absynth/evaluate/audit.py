"""The law of this project, checked: no attack and no point of the certified ball may get below a radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.attacks import suite_attacks
from absynth.certify import certifiable
from absynth.certify.codebook import find_prototypes
from absynth.errors import AbsynthError
from absynth.evaluate.certification import certify_images, radii
from absynth.evaluate.data import read_for
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset, choose_images
from absynth.models.prototypes import PrototypeClassifier
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.zoo import load

ATTACKED_AT_ONCE = 250
"""Images of a piece of the attacks."""

ROUNDING = 2.0**-25
"""How far the rounding of a pixel in [0, 1] to float32 can move it; points stay that far inside the ball."""

NOWHERE_ZERO = 1e-12
"""Added to directions, as the image may be a prototype itself."""

BISECTIONS = 50
"""Halvings of the search for the point where a ray meets the sphere within the box."""

POINTS_AT_ONCE = 250
"""Points that the model is asked about together."""


@dataclass(frozen=True)
class Violation:
    """A radius that does not hold.

    Attributes:
        norm: Of the radius.
        source: The attack that found the adversarial, or ``"ball"`` for a random point.
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
    """

    norm: Norm
    images: int
    attacks: tuple[str, ...]
    comparisons: int
    points: int
    tightest: float
    violations: tuple[Violation, ...]


def ball_points(
    images: Images, directions: Float[Tensor, "batch pixel"], radius: Float[Tensor, "batch"], norm: Norm
) -> Images:
    """Points of the box as far from the images as the radius allows, one in each direction.

    Along the ray x + t d, clipped to [0, 1], the distance to x grows with t, so bisection finds the point on
    the sphere; where the ray ends inside the ball, at a corner of the box, that corner is the point. For L0
    the radius many pixels with the largest entries of d go to 0 or 1, by the entry's sign.

    Args:
        images: Float32 in [0, 1].
        directions: Any but zero.
        radius: Of each ball, float64.
        norm: Of the balls.
    """
    start = images.flatten(1).double()
    rays = directions.double()
    if norm == "l0":
        order = rays.abs().argsort(dim=1, descending=True).argsort(dim=1)
        moved = torch.where(order < radius[:, None], (rays > 0).double(), start)
        return moved.float().view_as(images)
    if norm == "linf":
        rays = rays.sign()
    power = {"l2": 2.0, "l1": 1.0, "linf": torch.inf}[norm]
    rays = rays / torch.linalg.vector_norm(rays, ord=power, dim=1, keepdim=True)
    wanted = radius - ROUNDING * {"l2": math.sqrt(start.shape[1]), "l1": start.shape[1], "linf": 1}[norm]
    low, high = torch.zeros_like(radius), torch.full_like(radius, float(2 * start.shape[1]))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        reached = torch.linalg.vector_norm(
            (start + middle[:, None] * rays).clamp(0, 1) - start, ord=power, dim=1
        )
        low = torch.where(reached <= wanted, middle, low)
        high = torch.where(reached <= wanted, high, middle)
    points: Tensor = (start + low[:, None] * rays).clamp(0, 1)
    return points.float().view_as(images)


def draw_directions(
    model: PrototypeClassifier, images: Images, norm: Norm, generator: torch.Generator
) -> Float[Tensor, "batch pixel"]:
    """Where to look for a point of another class: half at random, half towards rivals.

    A rival is the best prototype of a random class; its difference to the image says which way the rival
    gains. For L1, which is spent best on few pixels, a random share of the smallest entries is dropped.

    Args:
        model: The classifier.
        images: Where from.
        norm: Of the ball.
        generator: Source of every draw, on the CPU.
    """
    table, flat = model.prototypes().images, images.flatten(1)
    classes = torch.randint(len(table), (len(flat),), generator=generator).to(flat.device)
    towards = table[classes, model.nearest(images)[torch.arange(len(flat)), classes]] - flat
    noise = torch.randn(flat.shape, generator=generator).to(flat.device)
    even = (torch.arange(len(flat)) % 2 == 0)[:, None].to(flat.device)
    directions = torch.where(even, noise, towards)
    if norm == "l1":
        dropped = (torch.rand(len(flat), 1, generator=generator).to(flat.device) * (flat.shape[1] - 1)).long()
        ranks = directions.abs().argsort(dim=1).argsort(dim=1)
        directions = torch.where(ranks < dropped, 0, directions)
    return directions + NOWHERE_ZERO


@torch.no_grad()
def check_balls(
    model: nn.Module,
    images: Images,
    labels: Labels,
    radius: Float[Tensor, "batch"],
    norm: Norm,
    *,
    count: int,
    seed: int,
    progress: Progress,
) -> list[tuple[int, float]]:
    """Asks the model about random points on the boundaries of certified balls.

    Args:
        model: A classifier by prototypes.
        images: Whose radii are above 0.
        labels: Their classes.
        radius: Their certified radii, float64.
        norm: Of the radii.
        count: How many points; 0 if there are no images.
        seed: Of the choice of images and directions.
        progress: Where to show points done and left.

    Returns:
        The row and the distance of every point that is classified otherwise.
    """
    found = find_prototypes(model)
    assert found is not None
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(max(1, len(images)), (count,), generator=generator)
    changed: list[tuple[int, float]] = []
    bar = progress.add_task(f"points of {norm} balls", total=count, note="")
    for some in rows.split(POINTS_AT_ONCE):
        directions = draw_directions(found[0], images[some], norm, generator)
        points = ball_points(images[some], directions, radius[some], norm)
        for row in some[model(points).argmax(1) != labels[some]].tolist():
            changed.append((row, float(radius[row])))
        progress.advance(bar, len(some))
    return changed


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
) -> list[Audit]:
    """Attacks certified images with every attack of a suite and looks around in their balls.

    Args:
        name: A model by prototypes, or one behind a threshold or a clamp.
        norms: In which norms.
        suite: Of attacks.
        count: How many test images.
        points: How many random points of certified balls, a norm.
        out: Folder of the results; a run goes on from what is there.
        progress: Where to show what is done and left.
        dataset: Name or path of a data set, of which the test split is used.
        seed: Of every draw.
        load_model: How a name becomes a classifier.

    Raises:
        AbsynthError: If the model is not of that kind.
    """
    model = load_model(name)
    scope = certifiable(model)
    if scope is None or not scope.proven:
        raise AbsynthError(f"'{name}' has no certificates to check; name a model by prototypes.")
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
    )
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
