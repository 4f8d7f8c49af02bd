"""The law for certificates of a majority over random copies: both they and their refutations are uncertain.

An attack needs gradients, and a majority has none. It goes for the mean of the model's probabilities over a
few fixed copies instead, and what it finds counts only if fresh copies give another class the majority.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn

from absynth.attacks import attack
from absynth.attacks.target import margin_loss
from absynth.certify.provers.sampled import Draws, Majority, Sampled, generator_for
from absynth.models.asked import as_module, serve
from absynth.models.frozen import frozen
from absynth.norms import Norm, distance
from absynth.progress import Progress
from absynth.shapes import Images, Labels, Logits

COPIES = 64
"""Fixed copies that an attack sees."""

ATTACKED_TOGETHER = 10
"""Images, each with its copies."""

LEVEL = 1e-6
"""The chance that fresh copies refute a majority wrongly: small, as thousands of points are asked about."""

CHANCE = 1e-3
"""Radii that do not hold are blamed on the method if a sound one has so many with less than this chance."""

BEYOND = (1.0, 1.1, 1.3, 1.7, 2.5)
"""An adversarial of the fixed copies is at their boundary: fresh ones are asked about multiples of it."""

FURTHER = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Points down the gradient are asked about that are these multiples of the radius away."""

SMALLEST = 1e-30
"""A probability below this counts as this, so that its logarithm is finite."""


@dataclass(frozen=True)
class Refutation:
    """An image that is decided otherwise than it was certified, as fresh copies say with confidence.

    Attributes:
        row: Of the certified image.
        source: Which search found it: ``"attack"``, ``"gradient"`` or ``"ball"``.
        distance: From the certified image.
    """

    row: int
    source: str
    distance: float


class MeanOfCopies(nn.Module):
    """log of the mean of softmax f(copy) over fixed copies: what an attack on a majority differentiates.

    Args:
        model: The base model f.
        draws: What is done to every image for its copies.
    """

    def __init__(self, model: nn.Module, draws: Draws) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("kept", draws.kept)
        self.register_buffer("added", draws.added)

    def forward(self, images: Images) -> Logits:
        """The logarithms of the mean probabilities."""
        kept, added = self.get_buffer("kept"), self.get_buffer("added")
        copies = (images[:, None] * kept.to(images) + added.to(images)).flatten(0, 1)
        probabilities = self.model(copies).softmax(1).unflatten(0, (len(images), len(added)))
        logits: Tensor = probabilities.mean(1).clamp(min=SMALLEST).log()
        return logits


class MajorityAudit:
    """Tries to refute the certificates of some images in one norm.

    Args:
        method: That certified them.
        model: The base model.
        images: Those with a radius above 0; some.
        labels: Their classes, which the majority was certified to be.
        norm: Of the radii.
        seed: Of every draw; no copies are those of the certificates.
    """

    def __init__(
        self,
        method: Sampled,
        model: nn.Module,
        images: Images,
        labels: Labels,
        norm: Norm,
        seed: int,
    ) -> None:
        self.method, self.norm, self.seed = method.settled(model), norm, seed
        self.model, self.images, self.labels = as_module(model), images, labels

    def steepest(self) -> Images:
        """The directions in which another class gains most of the fixed copies, less what leaves the box."""
        with frozen(self.model), torch.enable_grad():
            images = self.images.detach().clone().requires_grad_()
            loss = margin_loss(self._target()(images), self.labels)
            (gradient,) = torch.autograd.grad(loss.sum(), images)
        stuck = ((gradient > 0) & (self.images == 1)) | ((gradient < 0) & (self.images == 0))
        return gradient.masked_fill(stuck, 0)

    def _target(self) -> MeanOfCopies:
        """What is attacked, in evaluation mode."""
        served = serve(self.model, self.images)
        channels, height, width = self.images.shape[1:]
        draws = self.method.draw((channels, height, width), COPIES, np.random.default_rng(self.seed))
        return MeanOfCopies(served.model, draws)

    def attacked(self, suite: str, progress: Progress) -> Images:
        """The closest adversarials of the fixed copies; the images themselves where none was found.

        Args:
            suite: Of attacks.
            progress: Where to show how far the attacks are.
        """
        with frozen(self.model):
            found = attack(
                self._target(),
                self.images,
                self.labels,
                self.norm,
                suite,
                seed=self.seed,
                batch_size=ATTACKED_TOGETHER,
                progress=progress,
            )
        known = found.success[:, None, None, None]
        return torch.where(known, found.adversarials, self.images).to(self.images.dtype)

    def refutations(self, rows: Tensor, points: Images, source: str, progress: Progress) -> list[Refutation]:
        """The points that the majority decides otherwise than the image they belong to.

        Args:
            rows: Which image each point belongs to.
            points: Any images.
            source: Where they come from.
            progress: Where to show points done and left.
        """
        bar = progress.add_task(f"confirm {source} {self.norm}", total=len(points), note="")
        away = distance(self.images[rows], points, self.norm)
        found = []
        with frozen(self.model), torch.no_grad():
            served = serve(self.model, points)
            majority = Majority(self.method, served.model, served.classes)
            for number, (row, point) in enumerate(zip(rows.tolist(), served.given.seen, strict=True)):
                if self._decided_otherwise(majority, point, int(self.labels[row])):
                    found.append(Refutation(row, source, float(away[number])))
                progress.advance(bar)
        return found

    def _decided_otherwise(self, majority: Majority, point: Tensor, label: int) -> bool:
        """Whether another class than the label has more of the copies, with confidence.

        The first copies choose the rival. Of the others, those that get the rival or the label are a series
        of coin tosses, in which the rival has to win more than half (as in PREDICT of Cohen et al. 2019).
        """
        generator = generator_for(point, self.seed, 1)
        rival = int(majority.votes(point, self.method.first, generator).argmax())
        if rival == label:
            return False
        votes = majority.votes(point, self.method.samples, generator)
        own, other = int(votes[label]), int(votes[rival])
        return bool(binom.sf(other - 1, own + other, 0.5) <= LEVEL)


def allowed_by_chance(images: int, alpha: float) -> int:
    """How many radii of a sound method may fail to hold before that is improbable.

    Args:
        images: How many have a radius.
        alpha: The probability that one does not hold.

    >>> allowed_by_chance(1000, 0.001), allowed_by_chance(0, 0.001)
    (5, 0)
    """
    return int(binom.isf(CHANCE, images, alpha)) if images else 0
