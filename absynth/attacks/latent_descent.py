"""Latent Descent: walks towards the best synthesis of a rival class; for models that synthesise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.attacks.base import Attack
from absynth.attacks.batch import Mask, choose, per_image
from absynth.attacks.line_search import bisect, shrink
from absynth.attacks.pointwise import reset_pixels
from absynth.attacks.target import Target, misclassified
from absynth.attacks.threshold import Flips, across_threshold, is_bright
from absynth.inference.abs import ABS
from absynth.models.cnn import Binarized
from absynth.models.front import seen_by, unwrap
from absynth.models.prototypes import PrototypeClassifier
from absynth.norms import Norm
from absynth.shapes import Images, Logits

ROUNDING = 1e-6


@dataclass(frozen=True)
class Explanation:
    """How the best class but the labelled one explains each image.

    Attributes:
        logits: Of the model.
        rival: The synthesis of that class; behind a threshold, of the thresholded image.
        own: The synthesis of the labelled class.
    """

    logits: Logits
    rival: Images
    own: Images


@dataclass(frozen=True)
class LatentDescent(Attack):
    """Latent Descent (Schott et al. 2019, arXiv 1805.09190, section 5, "Latent Descent attack").

    Every step explains the present image anew by all classes, takes the rival y' ≠ y that explains it best
    with its synthesis G(z'), and goes a part of the way there:

    - L2: x ← x + s (G(z') − x)
    - Linf: x ← clip(G(z'), x₀ − t s, x₀ + t s) in step t
    - behind the threshold at ½ only pixels on another side of ½ than G(z') move, and just across it: in Linf
      all that t s suffices for, in L2 as many as s/8 of the image, those which favour the rival over the
      labelled class most.

    It ends at the first adversarial. The last step is searched by bisection, then the line to the clean
    image; behind the threshold pixels are set back one by one instead, as in the Pointwise attack.

    Attributes:
        name: Name in suites and records.
        norm: L2 or Linf.
        step: s.
        steps: The most steps an image makes.
        bisections: Queries of each search; twenty times as many for setting back pixels.
    """

    name: str
    norm: Norm
    step: float = 0.02
    steps: int = 150
    bisections: int = 10

    @property
    def settings(self) -> dict[str, Any]:
        """The step, the number of steps and the number of bisections."""
        return {"step": self.step, "steps": self.steps, "bisections": self.bisections}

    def applies_to(self, model: nn.Module) -> bool:
        """Whether the model compares an image with syntheses of the classes."""
        return isinstance(unwrap(model), ABS | PrototypeClassifier)

    @torch.no_grad()
    def run(self, target: Target, images: Images) -> Images:
        """Walks until every image is an adversarial or out of steps, then back to the boundary."""
        found, before, success = self.walk(target, images)
        rows = success.nonzero().squeeze(1)
        if len(rows) == 0:
            return images
        part, clean = target.select(rows), images[rows]
        every = torch.ones_like(part.labels, dtype=torch.bool)
        if isinstance(target.model, Binarized):
            points = found[rows]
            if self.norm == "l2":
                points = reset_pixels(part, clean, points, every, 20 * self.bisections)
        else:
            far, near = found[rows], before[rows]

            def path(position: Tensor) -> Images:
                return near + per_image(position) * (far - near)

            start = torch.ones_like(clean[:, 0, 0, 0])
            position = bisect(part, path, torch.zeros_like(start), start, self.bisections)
            points = choose(position < 1, path(position), far)
            points = shrink(part, clean, points, every, self.bisections)
        return images.index_copy(0, rows, points)

    def walk(self, target: Target, images: Images) -> tuple[Images, Images, Mask]:
        """The first adversarial of each image, the point before it, and where there is one."""
        binary = isinstance(target.model, Binarized)
        points, before = images.clone(), images.clone()
        success = torch.zeros_like(target.labels, dtype=torch.bool)
        active = torch.arange(len(images), device=images.device)
        for step in range(self.steps + 1):
            part = target.select(active)
            explanation = explain(part, points[active])
            fooled = misclassified(explanation.logits, part.labels)
            success[active[fooled]] = True
            active, clean, here = active[~fooled], images[active[~fooled]], points[active[~fooled]]
            if len(active) == 0 or step == self.steps:
                break
            rival, own = explanation.rival[~fooled], explanation.own[~fooled]
            before[active] = here
            if self.norm == "linf":
                epsilon = (step + 1) * self.step
                if binary:
                    goal = across_threshold(clean, is_bright(rival))
                    # a value that falls short of the threshold by less than a rounding may cross it
                    cheap = (goal - clean).abs() <= epsilon + ROUNDING
                    points[active] = torch.where(cheap, goal, clean)
                else:
                    points[active] = clean + (rival - clean).clamp(-epsilon, epsilon)
            elif binary:
                flips = self._flips(here, rival, own)
                points[active] = torch.where(flips, across_threshold(clean, is_bright(rival)), here)
            else:
                points[active] = here + self.step * (rival - here)
        return points, before, success

    def _flips(self, points: Images, rival: Images, own: Images) -> Flips:
        """Which values of each image cross the threshold in the next step."""
        differs = is_bright(points) != is_bright(rival)
        sign = torch.where(is_bright(rival), 1.0, -1.0)
        gain = (sign * (rival - own)).masked_fill(~differs, -torch.inf).flatten(1)
        rank = gain.argsort(dim=1, descending=True).argsort(dim=1)
        count = max(1, round(self.step * gain.shape[1] / 8))
        return (rank < count).view_as(points) & differs


def explain(target: Target, images: Images) -> Explanation:
    """The model's logits with the syntheses behind them, from one query.

    Args:
        target: A model that synthesises, or that compares with prototypes, perhaps behind a threshold or a
            clamp.
        images: What to explain.
    """
    target.count()
    model = unwrap(target.model)
    seen = seen_by(target.model, images)
    if isinstance(model, ABS):
        synthesis = model.infer(seen)
        logits, syntheses = synthesis.logits, synthesis.reconstructions
    else:
        assert isinstance(model, PrototypeClassifier)
        chosen = model.nearest(seen)
        logits, syntheses = model(seen, chosen), prototypes_at(model, chosen, seen)
    own = nn.functional.one_hot(target.labels, logits.shape[1]).bool()
    rival = logits.masked_fill(own, -torch.inf).argmax(dim=1)
    rows = torch.arange(len(images), device=images.device)
    return Explanation(logits, syntheses[rows, rival], syntheses[rows, target.labels])


def prototypes_at(
    model: PrototypeClassifier, chosen: Int64[Tensor, "batch class"], images: Images
) -> Float[Tensor, "batch class channel height width"]:
    """A prototype of every class for each image.

    Args:
        model: A codebook model or nearest neighbour.
        chosen: Which prototypes.
        images: Whose shape they take.
    """
    labels = torch.arange(chosen.shape[1], device=images.device)
    prototypes: Tensor = model.prototypes().images[labels, chosen]
    return prototypes.view(*chosen.shape, *images.shape[1:])
