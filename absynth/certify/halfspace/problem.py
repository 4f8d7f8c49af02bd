"""What the closed forms of all norms are given, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import Front
from absynth.rounding import gamma


@dataclass(frozen=True)
class Problem:
    """How far to move what is seen of each pixel, at the least cost, so that the gains reach a target.

    Attributes:
        gradient: g = 2(q − p).
        image: x in [0, 1].
        front: What stands between image and prototypes.
        channels: Channels of an image, outermost in ``pixel``.
        slopes: abs(g), what a pixel gains for each unit that it moves.
        rooms: How far it can move.
        gains: What it gains in all, the product of both.
        target: What the gains have to reach: the margin, and what rounding may take from the gains.
    """

    gradient: Float[Tensor, "*rows pixel"]
    image: Float[Tensor, "*#rows pixel"]
    front: Front
    channels: int
    slopes: Float[Tensor, "*rows pixel"]
    rooms: Float[Tensor, "*rows pixel"]
    gains: Float[Tensor, "*rows pixel"]
    target: Float[Tensor, "*rows"]

    @classmethod
    def of(
        cls,
        gradient: Float[Tensor, "*rows pixel"],
        margin: Float[Tensor, "*rows"],
        image: Float[Tensor, "*#rows pixel"],
        front: Front,
        channels: int = 1,
    ) -> Problem:
        """The problem that a half-space poses.

        Args:
            gradient: g = 2(q − p).
            margin: m.
            image: x in [0, 1].
            front: What stands between image and prototypes.
            channels: Channels of an image.
        """
        slopes, rooms = gradient.abs(), front.room(gradient, image)
        gains = slopes * rooms
        # Each sum of gains is of at most as many products as there are pixels, of two rounded factors.
        target = margin - 4 * gamma(gains.shape[-1] + 8, gains.dtype) * gains.sum(-1)
        return cls(gradient, image, front, channels, slopes, rooms, gains, target)

    @property
    def costs(self) -> Float[Tensor, "*rows pixel"]:
        """The change of each pixel that uses all its room."""
        return self.front.cost(self.gradient, self.image)

    @property
    def dead(self) -> Float[Tensor, "*rows pixel"]:
        """The dead zones: the change of each pixel that is for nothing."""
        return self.front.dead(self.gradient, self.image).expand_as(self.gains)


class Moved(NamedTuple):
    """The cheapest way to reach a target, not yet rounded down.

    Attributes:
        cost: Infinite where the target is out of reach.
        moved: How far what is seen of each pixel moves, without sign.
    """

    cost: Float[Tensor, "*rows"]
    moved: Float[Tensor, "*rows pixel"]
