"""What stands between an image and the prototypes: a family of maps from pixel to pixel, and what moves cost.

Each member says what the prototypes see of an image, how far that can move, and what a change of the image
costs that moves it. The closed forms (:mod:`absynth.certify.halfspace`) ask for no more. A new member is a
class here and a part of :data:`Front`; mypy then names the closed forms that lack a case for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.models.cnn import Binarized
from absynth.models.front import Clamped


class Pixelwise:
    """A non-decreasing map of each pixel by itself; this one is the identity.

    The bounds that do without room and cost (:mod:`absynth.certify.search`, level 0, and
    :mod:`absynth.certify.growth`) rely on a map making no change larger, or have a case of their own.

    Moving what is seen of pixel i by e > 0 takes a change of the image by dead_i + e, where the dead zone
    dead_i is 0 unless the map is flat around x_i.
    """

    @property
    def low(self) -> float:
        """The least value that the prototypes see."""
        return 0.0

    @property
    def high(self) -> float:
        """The largest."""
        return 1.0

    @property
    def rule(self) -> str:
        """What to add to the decision rule of the prototypes."""
        return ""

    def see(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """What the prototypes are compared with."""
        return image

    def up(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far what is seen of each pixel can rise."""
        return self.high - self.see(image)

    def down(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far it can fall."""
        return self.see(image) - self.low

    def dead_up(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far each pixel must rise before anything is seen of it."""
        return (self.low - image).clamp(min=0)

    def dead_down(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far each pixel must fall before anything is seen of it."""
        return (image - self.high).clamp(min=0)

    def cost_up(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The change of each pixel that makes what is seen of it rise all the way."""
        return self.up(image) + self.dead_up(image)

    def cost_down(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The change of each pixel that makes what is seen of it fall all the way."""
        return self.down(image) + self.dead_down(image)

    def up_within(
        self, image: Float[Tensor, "*rows pixel"], size: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows pixel"]:
        """How far what is seen of each pixel rises at most when no pixel changes by more than a size."""
        return self.up(image).minimum((size - self.dead_up(image)).clamp(min=0))

    def down_within(
        self, image: Float[Tensor, "*rows pixel"], size: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows pixel"]:
        """How far it falls at most."""
        return self.down(image).minimum((size - self.dead_down(image)).clamp(min=0))

    def room(
        self, gradient: Float[Tensor, "*rows pixel"], image: Float[Tensor, "*#rows pixel"]
    ) -> Float[Tensor, "*rows pixel"]:
        """How far what is seen of each pixel can move in the direction of the gradient."""
        return torch.where(gradient > 0, self.up(image), self.down(image))

    def dead(
        self, gradient: Float[Tensor, "*rows pixel"], image: Float[Tensor, "*#rows pixel"]
    ) -> Float[Tensor, "*rows pixel"]:
        """The dead zone of each pixel in the direction of the gradient."""
        return torch.where(gradient > 0, self.dead_up(image), self.dead_down(image))

    def cost(
        self, gradient: Float[Tensor, "*rows pixel"], image: Float[Tensor, "*#rows pixel"]
    ) -> Float[Tensor, "*rows pixel"]:
        """The change of each pixel that uses all of its room in the direction of the gradient."""
        return torch.where(gradient > 0, self.cost_up(image), self.cost_down(image))


@dataclass(frozen=True)
class Grey(Pixelwise):
    """Nothing: the prototypes see the image x itself."""


@dataclass(frozen=True)
class Clamp(Pixelwise):
    """A clamp (:class:`absynth.models.front.Clamped`): the prototypes see v = clip(x, low, high).

    The dead zone dead_i is low − x_i on the way up and x_i − high on the way down, if that is positive.

    Attributes:
        low: The least value that they see, a number of float32.
        high: The largest.
    """

    low: float = 0.0
    high: float = 1.0

    @property
    def rule(self) -> str:
        """What to add to the decision rule of the prototypes."""
        return f", with every pixel of x moved into [{self.low:g}, {self.high:g}] first"

    def see(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The clamped image."""
        return image.clamp(self.low, self.high)


@dataclass(frozen=True)
class Threshold(Pixelwise):
    """A threshold at ½ (:class:`absynth.models.cnn.Binarized`): they see 1 where x_i > ½ and 0 elsewhere.

    What is seen of a pixel moves all the way or not at all. It has no dead zones but a cost:
    abs(x_i − ½), the infimum of the changes that flip it.
    """

    @property
    def rule(self) -> str:
        """What to add to the decision rule of the prototypes."""
        return ", with every pixel of x above 1/2 set to 1 and every other to 0 first"

    def see(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The thresholded image."""
        return (image > 0.5).to(image.dtype)

    def flip(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The cost of a flip of each pixel."""
        return (image - 0.5).abs()

    def cost_up(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The cost of a flip, whichever way it goes."""
        return self.flip(image)

    def cost_down(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """The cost of a flip, whichever way it goes."""
        return self.flip(image)

    def up_within(
        self, image: Float[Tensor, "*rows pixel"], size: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows pixel"]:
        """All the way where the flip costs no more than the size."""
        return self.up(image) * (self.flip(image) <= size)

    def down_within(
        self, image: Float[Tensor, "*rows pixel"], size: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows pixel"]:
        """All the way where the flip costs no more than the size."""
        return self.down(image) * (self.flip(image) <= size)

    def cost(
        self, gradient: Float[Tensor, "*rows pixel"], image: Float[Tensor, "*#rows pixel"]
    ) -> Float[Tensor, "*rows pixel"]:
        """The cost of a flip, whatever the gradient."""
        return self.flip(image).expand_as(gradient)


Front: TypeAlias = Grey | Clamp | Threshold
"""What can stand in front."""

GREY = Grey()
"""The image itself."""

BINARY = Threshold()
"""What the threshold makes of it."""


def split_front(model: nn.Module) -> tuple[nn.Module, Front]:
    """The classifier behind everything that stands in front of it, and what that comes to.

    A clamp in front of a threshold is the threshold alone, as it moves no value across ½.
    """
    front: Front = GREY
    if isinstance(model, Clamped):
        front = Clamp(model.low, model.high) if model.low > 0 or model.high < 1 else GREY
        model = model.model
    while isinstance(model, Binarized):
        model, front = model.model, BINARY
    return model, front
