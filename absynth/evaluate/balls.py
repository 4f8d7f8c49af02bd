"""Points of certified balls: where they are, and whether the model decides one of them otherwise."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.certify.codebook import find_prototypes
from absynth.models.prototypes import PrototypeClassifier
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

ROUNDING = 2.0**-25
"""How far the rounding of a pixel in [0, 1] to float32 can move it; points stay that far inside the ball."""

NOWHERE_ZERO = 1e-12
"""Added to directions, as the image may be a prototype itself."""

BISECTIONS = 50
"""Halvings of the search for the point where a ray meets the sphere within the box."""

POINTS_AT_ONCE = 250
"""Points that the model is asked about together."""


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
    model: PrototypeClassifier | None, images: Images, norm: Norm, generator: torch.Generator
) -> Float[Tensor, "batch pixel"]:
    """Where to look for a point of another class: half at random, half towards rivals.

    A rival is the best prototype of a random class; its difference to the image says which way the rival
    gains. Without prototypes it is another of the images. For L1, which is spent best on few pixels, a random
    share of the smallest entries is dropped.

    Args:
        model: The classifier, if it is one by prototypes.
        images: Where from.
        norm: Of the ball.
        generator: Source of every draw, on the CPU.
    """
    flat = images.flatten(1)
    if model is None:
        towards = flat[torch.randperm(len(flat), generator=generator).to(flat.device)] - flat
    else:
        table = model.prototypes().images
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
        model: The classifier.
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
    prototypes = None if found is None else found[0]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(max(1, len(images)), (count,), generator=generator)
    changed: list[tuple[int, float]] = []
    bar = progress.add_task(f"points of {norm} balls", total=count, note="")
    for some in rows.split(POINTS_AT_ONCE):
        directions = draw_directions(prototypes, images[some], norm, generator)
        points = ball_points(images[some], directions, radius[some], norm)
        for row in some[model(points).argmax(1) != labels[some]].tolist():
            changed.append((row, float(radius[row])))
        progress.advance(bar, len(some))
    return changed
