"""Adversarial training: a batch is turned against the network before the network learns from it.

Madry et al. 2018 (arXiv 1706.06083, section 2.1) minimise over the weights the mean of

    max { L(x + δ, y) : ‖δ‖∞ ≤ ε, x + δ ∈ [0, 1] },

and approach the inner maximum by projected gradient ascent from a random start. The attacks of this package
search the smallest perturbation of each image instead; here the radius is given, which is far quicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.progress import Progress
from absynth.shapes import Images, Labels


@dataclass(frozen=True)
class Adversary:
    """Projected gradient ascent on the cross-entropy, within an Linf ball that grows as training goes on.

    x ← clip(x + η sign ∇L(x, y)) onto both the ball of radius ε around the image and the box [0, 1], with
    η = ε · reach / steps. A network that meets the full ε from the first step on settles for the same answer
    to every image; so ε rises linearly from 0 over the first part of the training, and η with it.

    Attributes:
        epsilon: ε once it has grown, in units of the pixels.
        steps: Gradient steps.
        reach: How far all steps together could go, in radii.
        warm_up: Share of the training after which ε has its full size.
    """

    epsilon: float = 0.3
    steps: int = 10
    reach: float = 2.5
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if not (self.epsilon > 0 and self.steps >= 1 and self.reach > 0 and 0 <= self.warm_up <= 1):
            raise AbsynthError(
                "An adversary needs a radius above 0, at least 1 step, a reach above 0 "
                "and a warm-up between 0 and 1."
            )

    def radius(self, share: float) -> float:
        """ε when this share of the training is done.

        >>> [Adversary(epsilon=0.3, warm_up=0.5).radius(share) for share in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.15, 0.3, 0.3]
        """
        return self.epsilon if share >= self.warm_up else self.epsilon * share / self.warm_up

    def __call__(
        self, model: nn.Module, images: Images, labels: Labels, generator: torch.Generator, share: float = 1.0
    ) -> Images:
        """The images where the ascent ends.

        Args:
            model: The network to turn them against, in the mode that it is in.
            images: Shape (batch, channel, height, width), within [0, 1].
            labels: Their classes.
            generator: Source of the random starts.
            share: How much of the training is done, 0 to 1.
        """
        epsilon = self.radius(share)
        step = epsilon * self.reach / self.steps
        lowest, highest = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
        noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        points = (images + (2 * noise - 1) * epsilon).clamp(lowest, highest)
        for _ in range(self.steps):
            with torch.enable_grad():
                points.requires_grad_()
                # In float32 a probability of 1 − 10⁻⁸ is 1, and its logit would drop out of the gradient.
                loss = functional.cross_entropy(model(points).double(), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, points)
            points = (points.detach() + step * gradient.sign()).clamp(lowest, highest)
        return points


@dataclass(frozen=True)
class Robustness:
    """Fractions of the same images that a network classifies right.

    Attributes:
        clean: As they are.
        attacked: As they are and after every ascent; an upper bound on what a better attack would leave.
    """

    clean: float
    attacked: float


@torch.no_grad()
def measure_robustness(
    model: nn.Module,
    images: Images,
    labels: Labels,
    adversary: Adversary,
    *,
    restarts: int,
    seed: int,
    progress: Progress,
    batch_size: int = 250,
) -> Robustness:
    """How many images a network classifies right, clean and at the full radius of an adversary.

    Args:
        model: The network, in evaluation mode.
        images: At least one.
        labels: Their classes.
        adversary: Of the attack.
        restarts: Ascents from starts of their own; an image that was fooled is not attacked again.
        seed: Of the random starts.
        progress: Where to show the attack, and then both fractions.
        batch_size: Images attacked at once.
    """
    task = progress.add_task("images held out", total=restarts, note="")
    generator = torch.Generator(images.device).manual_seed(seed)
    right = torch.cat(
        [
            model(part).argmax(1) == truth
            for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
    )
    clean = right.double().mean().item()
    for _ in range(restarts):
        for rows in right.nonzero().squeeze(1).split(batch_size):
            attacked = adversary(model, images[rows], labels[rows], generator)
            right[rows] = model(attacked).argmax(1) == labels[rows]
        progress.advance(task)
    result = Robustness(clean, right.double().mean().item())
    progress.update(task, note=f"{result.clean:.1%} right, {result.attacked:.1%} under attack")
    return result
