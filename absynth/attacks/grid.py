"""Adversarials whose pixels are multiples of a step, so that a file of 8 bits holds them as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from absynth.attacks.averaged import Averaged
from absynth.attacks.base import AttackResult
from absynth.attacks.batch import choose, keep_closer
from absynth.attacks.target import Target, private_randomness
from absynth.models.frozen import frozen
from absynth.norms import Norm, distance
from absynth.shapes import Images, Labels

EIGHT_BITS = 255
"""The steps of a picture of 8 bits."""

PUSHES = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0)
"""How far along its perturbation an adversarial is moved before it is rounded, in turn."""


def candidates(images: Images, adversarials: Images, grid: int) -> Iterator[Images]:
    """Points of the grid near the adversarials, the nearest first.

    Each is rounded to the nearest point, and outwards, which keeps at least as much of the perturbation.

    Args:
        images: The clean images.
        adversarials: Theirs.
        grid: Steps from 0 to 1.
    """
    for push in PUSHES:
        moved = images + push * (adversarials - images)
        outwards = torch.where(moved > images, (moved * grid).ceil(), (moved * grid).floor())
        # what has not moved, or is on the grid already but for its last bit, is rounded to the nearest
        nearest = (moved * grid).round()
        close = (moved * grid - nearest).abs() < 1e-3
        outwards = torch.where((moved == images) | close, nearest, outwards)
        for steps in (nearest, outwards):
            yield (steps / grid).clamp(0, 1)


@torch.no_grad()
def put_on_grid(
    model: nn.Module, images: Images, labels: Labels, result: AttackResult, norm: Norm, grid: int, seed: int
) -> AttackResult:
    """The closest adversarials on the grid that lie along the perturbations found, verified as such.

    Args:
        model: The classifier.
        images: The clean images, on its device.
        labels: Their classes.
        result: What was found.
        norm: Of the distances.
        grid: Steps from 0 to 1.
        seed: Of what the model draws, if it answers at random.

    Returns:
        The result with distances of the rounded images; infinite where rounding left no adversarial.
    """
    started = time.perf_counter()
    target = Target(model, labels)
    random = isinstance(model, Averaged)
    best, best_size = images.clone(), torch.full_like(result.distances, torch.inf)
    with frozen(model), private_randomness(seed, images.device):
        for points in candidates(images, result.adversarials, grid):
            sizes = distance(images, points, norm)
            found = result.success & (target.confirmed(points) if random else target.is_adversarial(points))
            best, best_size = keep_closer(best, best_size, points, sizes, found)
        found = best_size.isfinite()
        if random:
            found &= target.confirmed(best)
    remarks = result.remarks
    if off := int(_off_grid(images, norm, grid).sum()):
        remarks += (
            f"{off} of {len(images)} images are not multiples of 1/{grid} themselves, so that rounding alone "
            f"changes them; give (images * {grid}).round() / {grid} for distances of the adversarial change.",
        )
    lost = int((result.success & ~found).sum())
    if lost:
        remarks += (
            f"{lost} adversarials did not survive rounding to multiples of 1/{grid} and count as not found.",
        )
    return AttackResult(
        adversarials=choose(found, best, images),
        distances=best_size.masked_fill(~found, torch.inf),
        success=found,
        queries=result.queries + target.queries.to(result.queries.device),
        backwards=result.backwards,
        remarks=remarks,
        seconds=result.seconds + time.perf_counter() - started,
    )


def _off_grid(images: Images, norm: Norm, grid: int) -> Bool[Tensor, "batch"]:
    """Which images lie off the grid; by a last bit only where every change of a pixel counts alike."""
    moves = ((images * grid).round() / grid - images).abs().flatten(1).amax(1)
    return moves > (0 if norm == "l0" else 1e-3 / grid)
