"""Nearest prototypes that are trained for their certificates.

Prototypes are images of their own here, free in every pixel, and decide as nearest neighbours do. What is
learned is the distance to the bisector of the best own prototype and the rival that is closest to winning,
which is a certificate in L2 (Saralajew et al. 2020, arXiv 2010.09677, train the same margin).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.shapes import Images, Labels

SHORTEST = 1e-6
"""Least squared distance between two prototypes that is divided by the root of."""


class FreePrototypes(nn.Module):
    """As many prototypes of every class.

    Args:
        images: That they start from.
        labels: Their classes; all have at least one.
        count: Prototypes a class; where it has fewer images, they are used again.
    """

    def __init__(self, images: Images, labels: Labels, count: int) -> None:
        super().__init__()
        chosen = []
        for label in range(int(labels.max()) + 1):
            own = (labels == label).nonzero()[:, 0]
            order = torch.randperm(len(own), device="cpu").to(own.device)
            chosen.append(own[order].repeat(math.ceil(count / len(own)))[:count])
        self.images = nn.Parameter(images[torch.stack(chosen)].flatten(2))

    def clip(self) -> None:
        """Brings the pixels back into [0, 1]."""
        with torch.no_grad():
            self.images.clamp_(0, 1)


@dataclass(frozen=True)
class BisectorLoss:
    """By how much distances to the bisectors fall short of a target: the mean of softplus(β (t − h)) / β.

    Attributes:
        target: t, in L2.
        sharpness: β.
    """

    target: float = 2.5
    sharpness: float = 2.0

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if not (0 < self.target < math.inf and 0 < self.sharpness < math.inf):
            raise AbsynthError("Training prototypes needs a target above 0 and a sharpness above 0.")

    def __call__(
        self, model: nn.Module, images: Images, labels: Labels, generator: torch.Generator, _: float = 1.0
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            model: The prototypes.
            images: Shape (batch, channel, height, width), within [0, 1].
            labels: Their classes.
            generator: Not used; the loss draws nothing.
        """
        assert isinstance(model, FreePrototypes)
        model.clip()
        flat = images.flatten(1)
        own, rival = closest_pairs(model.images.detach(), flat, labels)
        prototypes = model.images.flatten(0, 1)
        distance = bisector_distance(flat, prototypes[own], prototypes[rival])
        result: Tensor = functional.softplus(self.sharpness * (self.target - distance)).mean()
        return result / self.sharpness


def bisector_distance(
    images: Float[Tensor, "batch pixel"],
    own: Float[Tensor, "batch pixel"],
    rival: Float[Tensor, "batch pixel"],
) -> Float[Tensor, "batch"]:
    """(‖x − q‖² − ‖x − p‖²) / (2‖q − p‖): how far it is to where q wins over p, negative where it does."""
    margin = (images - rival).square().sum(1) - (images - own).square().sum(1)
    return margin / (2 * (rival - own).square().sum(1).clamp(min=SHORTEST).sqrt())


def closest_pairs(
    prototypes: Float[Tensor, "class prototype pixel"], images: Float[Tensor, "batch pixel"], labels: Labels
) -> tuple[Int64[Tensor, "batch"], Int64[Tensor, "batch"]]:
    """The nearest own prototype of every image, and the rival whose bisector with it is closest.

    Args:
        prototypes: Of all classes.
        images: Flattened.
        labels: Their classes.

    Returns:
        Numbers of prototypes, counted through all classes.
    """
    classes, count, _ = prototypes.shape
    rows = prototypes.flatten(0, 1)
    squares = rows.square().sum(1)
    scores = squares - 2 * images @ rows.T
    of_own = torch.arange(classes, device=labels.device).repeat_interleave(count) == labels[:, None]
    own = scores.masked_fill(~of_own, torch.inf).argmin(1)
    apart = (squares[own, None] + squares - 2 * rows[own] @ rows.T).clamp(min=SHORTEST).sqrt()
    distances = (scores - scores.gather(1, own[:, None])) / (2 * apart)
    return own, distances.masked_fill(of_own, torch.inf).argmin(1)
