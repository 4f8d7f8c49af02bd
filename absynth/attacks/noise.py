"""Noise attacks, and the starting points of attacks that walk along the boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.attacks.base import Attack
from absynth.attacks.batch import Mask, Scalars, keep_closer, per_image, size
from absynth.attacks.line_search import bisect, shrink
from absynth.attacks.target import Target
from absynth.norms import Norm
from absynth.shapes import Images

NoiseKind = Literal["salt-and-pepper", "gaussian", "uniform"]
LARGEST_DEVIATION = 2.0
"""Standard deviation of Gaussian noise at strength 1, in units of the pixel range."""


@dataclass(frozen=True)
class Noise:
    """One draw of noise for each image, at any strength from 0 (the clean image) to 1.

    The draws at two strengths are nested: what a weaker one perturbs, the stronger one perturbs too.

    Attributes:
        kind: Salt-and-pepper sets a part of the pixels to 0 or 1, all channels alike; Gaussian adds; uniform
            blends with uniform noise.
        images: The clean images.
        values: What was drawn for every value.
        thresholds: From which strength each pixel is perturbed (salt-and-pepper).
    """

    kind: NoiseKind
    images: Images
    values: Images
    thresholds: Float[Tensor, "batch 1 height width"]

    @classmethod
    def draw(cls, kind: NoiseKind, images: Images) -> Noise:
        """Draws from the global generator of torch."""
        thresholds = torch.rand_like(images[:, :1])
        if kind == "salt-and-pepper":
            values = (torch.rand_like(images[:, :1]) < 0.5).to(images.dtype).expand_as(images)
        elif kind == "gaussian":
            values = torch.randn_like(images)
        else:
            values = torch.rand_like(images)
        return cls(kind, images, values, thresholds)

    def select(self, rows: Tensor) -> Noise:
        """The draws for some of the images."""
        return Noise(self.kind, self.images[rows], self.values[rows], self.thresholds[rows])

    def at(self, strength: Scalars) -> Images:
        """The noisy images, in [0, 1]."""
        amount = per_image(strength)
        if self.kind == "salt-and-pepper":
            return torch.where(self.thresholds < amount, self.values, self.images)
        if self.kind == "gaussian":
            return (self.images + LARGEST_DEVIATION * amount * self.values).clamp(0, 1)
        return (self.images + amount * (self.values - self.images)).clamp(0, 1)


@dataclass(frozen=True)
class NoisyImages:
    """The weakest noise that fooled the model.

    Attributes:
        images: The noisy images; the clean one where no noise fooled the model.
        strength: The strength of the noise; 1 where none did.
        success: Where one did.
    """

    images: Images
    strength: Scalars
    success: Mask


@torch.no_grad()
def escalate(
    target: Target, images: Images, kind: NoiseKind, levels: int, *, bisections: int = 0, sweeps: int = 2
) -> NoisyImages:
    """Raises the strength of noise, drawn anew at every level, until each image is misclassified.

    Args:
        target: The model with the labels.
        images: The clean images.
        kind: Of noise.
        levels: Strengths, evenly spaced up to 1.
        bisections: Queries for weakening the draw that succeeded.
        sweeps: How often an image goes through all levels before it is given up.
    """
    noisy, success = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    strength = torch.ones(len(images), dtype=images.dtype, device=images.device)
    for level in [*range(1, levels + 1)] * sweeps:
        rows = (~success).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        draw = Noise.draw(kind, images[rows])
        amount = torch.full_like(strength[rows], level / levels)
        fooled = target.select(rows).is_adversarial(draw.at(amount))
        rows, draw, amount = rows[fooled], draw.select(fooled), amount[fooled]
        if len(rows):
            amount = bisect(target.select(rows), draw.at, torch.zeros_like(amount), amount, bisections)
            noisy[rows], strength[rows], success[rows] = draw.at(amount), amount, True
    return NoisyImages(noisy, strength, success)


@dataclass(frozen=True)
class NoiseAttack(Attack):
    """The weakest random noise that fools the model: a rough bound from decisions alone.

    The noise grows until it fools the model. Every further draw is first tried at the strength of the best
    yet and, where it fools the model too, weakened by bisection.

    Attributes:
        name: Name in suites and records.
        norm: Any of the four.
        kind: Of noise.
        levels: Strengths tried in the first search.
        draws: Further draws.
        bisections: Queries for weakening a draw that succeeded.
    """

    name: str
    norm: Norm
    kind: NoiseKind
    levels: int = 10
    draws: int = 20
    bisections: int = 6

    @property
    def settings(self) -> dict[str, Any]:
        """All but name and norm."""
        return {
            "kind": self.kind,
            "levels": self.levels,
            "draws": self.draws,
            "bisections": self.bisections,
        }

    @torch.no_grad()
    def run(self, target: Target, images: Images) -> Images:
        """Draws noise again and again, weaker and weaker."""
        return self.weakest(target, images).images

    def weakest(self, target: Target, images: Images) -> NoisyImages:
        """The weakest noise found, with its strength."""
        first = escalate(target, images, self.kind, self.levels, bisections=self.bisections)
        best, strength, success = first.images, first.strength, first.success
        best_size = size(best - images, self.norm).masked_fill(~success, torch.inf)
        for _ in range(self.draws):
            draw = Noise.draw(self.kind, images)
            rows = target.is_adversarial(draw.at(strength)).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            part, amount = draw.select(rows), strength[rows]
            amount = bisect(target.select(rows), part.at, torch.zeros_like(amount), amount, self.bisections)
            noisy = part.at(amount)
            sizes = size(noisy - images[rows], self.norm)
            better = sizes < best_size[rows]
            rows = rows[better]
            best[rows], best_size[rows], strength[rows] = noisy[better], sizes[better], amount[better]
        return NoisyImages(best, strength, best_size.isfinite())


@torch.no_grad()
def starting_points(target: Target, images: Images, levels: int, bisections: int) -> tuple[Images, Mask]:
    """Adversarials on the boundary from which an attack can walk towards the clean images.

    The closest (L2) of: uniform noise blended in, salt-and-pepper noise, and the nearest image of the same
    batch with another label, each pulled to the boundary.

    Args:
        target: The model with the labels; it classifies every image correctly.
        images: The clean images.
        levels: Strengths of each kind of noise.
        bisections: Queries of each pull.

    Returns:
        The points, and where there is one; elsewhere the clean image.
    """
    flat = images.flatten(1)
    apart = torch.cdist(flat, flat).masked_fill(target.labels[:, None] == target.labels, torch.inf)
    nearest = apart.min(dim=1)
    candidates = [(images[nearest.indices], nearest.values.isfinite())]
    for kind in ("uniform", "salt-and-pepper"):
        first = escalate(target, images, kind, levels, sweeps=5)
        candidates.append((first.images, first.success))
    best, best_size = images.clone(), torch.full_like(nearest.values, torch.inf)
    for far, success in candidates:
        points = shrink(target, images, far, success, bisections)
        sizes = size(points - images, "l2")
        best, best_size = keep_closer(best, best_size, points, sizes, success)
    return best, best_size.isfinite()
