"""Attacks along the gradient within a ball: FGM and FGSM, BIM, MIM and PGD, each with its smallest radius."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from absynth.attacks.base import Attack
from absynth.attacks.batch import Mask, Scalars, choose, keep_closer, largest_size, per_image, size
from absynth.attacks.line_search import Path, bisect, shrink
from absynth.attacks.projections import project, steepest
from absynth.attacks.target import Loss, Target, cross_entropy, margin_loss
from absynth.norms import Norm
from absynth.shapes import Images

LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin_loss}
NARROWED = 0.75
"""Share of the smallest radius found from which on it is searched anew."""

GRID = 10
"""Radii of the first, coarse search: the largest one possible, and each half of the one before."""


@dataclass(frozen=True)
class FastGradient(Attack):
    """One gradient step of the smallest length that fools the model (Goodfellow et al., arXiv 1412.6572).

    x' = clip(x + ε d), d the steepest direction of the norm: the gradient itself in L2 (FGM), its sign in
    Linf (FGSM). The gradient is taken once; ε is searched for each image on a coarse grid, then by bisection.

    Attributes:
        name: Name in suites and records.
        norm: L2, L1 or Linf.
        bisections: Queries of the fine search for ε; the coarse one takes 10.
    """

    name: str
    norm: Norm
    bisections: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """The number of bisections."""
        return {"bisections": self.bisections}

    def run(self, target: Target, images: Images) -> Images:
        """Searches ε along the one direction."""
        direction = steepest(target.slope(images, cross_entropy).gradient, images, self.norm)

        def path(epsilon: Tensor) -> Images:
            return (images + per_image(epsilon) * direction).clamp(0, 1)

        epsilon, found = smallest_radius(target, path, largest_size(images, self.norm), self.bisections)
        return choose(found, path(epsilon), images)


def smallest_radius(target: Target, path: Path, largest: Scalars, bisections: int) -> tuple[Scalars, Mask]:
    """The smallest adversarial radius along a path, first on a grid of halves, then by bisection.

    Args:
        target: The model with the labels.
        path: From the radius of each image to images.
        largest: The largest radius of each.
        bisections: Queries of the fine search.

    Returns:
        The radius, and where it is adversarial.
    """
    radius, found = largest.clone(), torch.zeros_like(largest, dtype=torch.bool)
    low = torch.zeros_like(largest)
    left, remaining = torch.arange(len(largest), device=largest.device), target
    for exponent in range(GRID - 1, -1, -1):
        trial = largest * 0.5**exponent
        adversarial = remaining.is_adversarial(path(trial)[left])
        hit = left[adversarial]
        radius[hit], found[hit] = trial[hit], True
        left, remaining = left[~adversarial], remaining.select(~adversarial)
        if len(left) == 0:
            break
        low[left] = trial[left]
    rows = found.nonzero().squeeze(1)
    if len(rows):

        def part(position: Tensor) -> Images:
            return path(radius.index_put((rows,), position))[rows]

        radius[rows] = bisect(target.select(rows), part, low[rows], radius[rows], bisections)
    return radius, found


@dataclass(frozen=True)
class ProjectedGradient(Attack):
    """Gradient ascent within a ball, whose radius is searched for each image.

    x ← clip(x₀ + P_ε(x + η d − x₀)), d the steepest direction of the accumulated gradients
    g ← μ g + ∇/‖∇‖. With μ = 0 and no random start that is BIM (Kurakin et al. 2017, arXiv 1607.02533), with
    μ = 1 MIM (Dong et al. 2018, arXiv 1710.06081), with random starts PGD (Madry et al. 2018, arXiv
    1706.06083). A first radius comes from one fast gradient step; every further run halves the interval
    between the largest radius that failed and the smallest adversarial, which is pulled to the boundary. An
    image whose interval is short leaves the batch.

    Attributes:
        name: Name in suites and records.
        norm: L2, L1 or Linf.
        steps: Gradient steps a run.
        runs: Runs, each with its own radius.
        relative_step: η/ε.
        momentum: μ.
        random_start: Start anywhere in the ball instead of at the clean image.
        restarts: How often all runs are repeated, up to the best radius found; the first time from 0, then
            from three quarters of it.
        loss: What is raised, the cross-entropy of tempered logits or the margin.
        bisections: Queries of each pull to the boundary.
        tolerance: Length of the interval, as a share of the smallest radius found, at which an image is
            finished.
    """

    name: str
    norm: Norm
    steps: int = 10
    runs: int = 4
    relative_step: float = 0.2
    momentum: float = 0.0
    random_start: bool = False
    restarts: int = 1
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    bisections: int = 8
    tolerance: float = 0.01

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "norm")}

    def run(self, target: Target, images: Images) -> Images:
        """Searches the radius, one run of gradient ascent each."""
        largest = largest_size(images, self.norm)
        best = FastGradient(self.name, self.norm, self.bisections).run(target, images)
        for restart in range(self.restarts):
            low = size(best - images, self.norm) * (NARROWED if restart else 0.0)
            for _ in range(self.runs):
                high = size(best - images, self.norm)
                # before anything was found, the runs go from an eighth of the largest radius up to all of it
                epsilon = torch.where(high > 0, (low + high) / 2, torch.maximum(2 * low, largest / 8))
                epsilon = torch.minimum(epsilon, largest)
                unfinished = torch.where(high > 0, high - low > self.tolerance * high, low < largest)
                rows = unfinished.nonzero()[:, 0]
                if len(rows) == 0:
                    break
                part, clean = target.select(rows), images[rows]
                candidates, success = self.ascend(part, clean, epsilon[rows])
                candidates = shrink(part, clean, candidates, success, self.bisections)
                sizes, known = size(candidates - clean, self.norm), high[rows]
                best[rows] = choose(success & ((known == 0) | (sizes < known)), candidates, best[rows])
                failed = torch.where(success, low[rows], torch.maximum(low[rows], epsilon[rows]))
                closest = size(best[rows] - clean, self.norm)
                # that a radius failed says nothing where an adversarial within it is known
                low[rows] = torch.where((closest > 0) & (failed >= closest), NARROWED * closest, failed)
        return best

    def ascend(self, target: Target, images: Images, epsilon: Scalars) -> tuple[Images, Mask]:
        """One run: the closest adversarial among the points that it visits.

        Args:
            target: The model with the labels.
            images: The clean images.
            epsilon: The radius of each ball.
        """
        points = images
        if self.random_start:
            points = (images + random_in_ball(images, epsilon, self.norm)).clamp(0, 1)
        step = per_image(self.relative_step * epsilon)
        accumulated = torch.zeros_like(images)
        best, best_size = images.clone(), torch.full_like(epsilon, torch.inf)

        def keep(adversarial: Tensor) -> None:
            nonlocal best, best_size
            sizes = size(points - images, self.norm)
            best, best_size = keep_closer(best, best_size, points, sizes, adversarial)

        for _ in range(self.steps):
            slope = target.slope(points, LOSSES[self.loss])
            keep(slope.adversarial)
            accumulated = self.momentum * accumulated + steepest(slope.gradient, points, "l2")
            moved = points + step * steepest(accumulated, points, self.norm)
            # clipping after projecting never takes a point out of the ball: the clean image is in the box
            points = (images + project(moved - images, epsilon, self.norm)).clamp(0, 1)
        keep(target.is_adversarial(points))
        return best, best_size.isfinite()


def random_in_ball(images: Images, epsilon: Scalars, norm: Norm) -> Images:
    """A random perturbation of at most size epsilon: uniform in the Linf ball, else of uniform size.

    Args:
        images: Whose shape it takes.
        epsilon: The largest size of each.
        norm: Which norm.
    """
    if norm == "linf":
        return (2 * torch.rand_like(images) - 1) * per_image(epsilon)
    noise = torch.randn_like(images)
    length = torch.rand_like(epsilon) * epsilon / size(noise, norm)
    return noise * per_image(length)
