"""The fast minimum-norm attack in all four norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from absynth.attacks.base import Attack
from absynth.attacks.batch import Scalars, keep_closer, largest_size, per_image, size
from absynth.attacks.line_search import shrink
from absynth.attacks.pointwise import reset_pixels
from absynth.attacks.projections import TINY, project
from absynth.attacks.target import Slope, Target, margin_loss
from absynth.norms import Norm
from absynth.shapes import Images

DUAL: dict[Norm, Norm] = {"l2": "l2", "l1": "linf", "linf": "l1"}


@dataclass(frozen=True)
class FastMinimumNorm(Attack):
    """FMN (Pintor et al. 2021, arXiv 2102.12827, algorithm 1): follows the boundary by the radius of a ball.

    Every step moves the perturbation along the gradient of the margin, projects it onto a ball and clips it
    to the box. The ball shrinks by γ where the point is adversarial and grows by γ where it is not; until a
    first adversarial is found it reaches a little further than a linear model would have its boundary. The
    step length falls from ``first_step`` to a hundredth of it and γ from 0.05 to 0.001, along a cosine.
    Foolbox 3.3.4 has this attack too, but does not project in L2: its factor divides a norm by itself.

    At the end the best is pulled to the boundary; in L0 its pixels are reset one by one instead, as in the
    Pointwise attack.

    Attributes:
        name: Name in suites and records.
        norm: Any of the four.
        steps: Forward and backward passes.
        first_step: Length of the first step, in L2.
        bisections: Queries of the final pull; for L0, ten times as many queries for resetting pixels.
    """

    name: str
    norm: Norm
    steps: int = 40
    first_step: float = 1.0
    bisections: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """The number of steps, the first step's length and the number of bisections."""
        return {"steps": self.steps, "first_step": self.first_step, "bisections": self.bisections}

    def run(self, target: Target, images: Images) -> Images:
        """Follows the boundary, then refines the closest adversarial seen."""
        perturbation, best = torch.zeros_like(images), images.clone()
        largest = largest_size(images, self.norm)
        best_size = torch.full_like(largest, torch.inf)
        epsilon = torch.ones_like(largest) if self.norm == "l0" else torch.zeros_like(largest)
        for step in range(self.steps):
            annealing = (1 + math.cos(math.pi * step / self.steps)) / 2
            length = self.first_step * (0.01 + 0.99 * annealing)
            gamma = 0.001 + 0.049 * annealing

            points = (images + perturbation).clamp(0, 1)
            slope = target.slope(points, margin_loss)
            sizes = size(points - images, self.norm)
            best, best_size = keep_closer(best, best_size, points, sizes, slope.adversarial)

            epsilon = self.radius(epsilon, gamma, slope, sizes, best_size).minimum(largest)
            norms = per_image(size(slope.gradient, "l2")).clamp(min=TINY)
            moved = perturbation + length * slope.gradient / norms
            # clipped after the projection, as the box contains the clean image and only shortens it
            perturbation = (images + project(moved, epsilon, self.norm)).clamp(0, 1) - images
        success = best_size.isfinite()
        if self.norm == "l0":
            return reset_pixels(target, images, best, success, 10 * self.bisections)
        return shrink(target, images, best, success, self.bisections)

    def radius(
        self,
        epsilon: Scalars,
        gamma: float,
        slope: Slope,
        sizes: Scalars,
        best_size: Scalars,
    ) -> Scalars:
        """The next radius of each ball.

        Args:
            epsilon: The radius so far.
            gamma: By what part it changes.
            slope: Of the margin at the present points.
            sizes: How far these are from the clean images.
            best_size: How far the closest adversarial yet is; infinite before the first.
        """
        if self.norm == "l0":
            fewer = torch.minimum(epsilon - 1, (epsilon * (1 - gamma)).floor()).minimum(best_size)
            more = torch.maximum(epsilon + 1, (epsilon * (1 + gamma)).floor())
            return torch.where(slope.adversarial, fewer, more).clamp(min=1)
        steepness = size(slope.gradient, DUAL[self.norm]).clamp(min=TINY)
        linear = sizes + slope.loss.abs() / steepness
        # until the first adversarial the radius only grows: clipping to the box takes back part of every
        # step, and by the estimate alone the point could come to rest short of the boundary
        outside = torch.where(best_size.isfinite(), epsilon, torch.maximum(epsilon, linear)) * (1 + gamma)
        return torch.where(slope.adversarial, (epsilon * (1 - gamma)).minimum(best_size), outside)
