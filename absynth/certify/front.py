"""What stands between an image and the prototypes, and what it costs to change what they see.

- Nothing: the prototypes see the image x itself.
- A clamp to [low, high] (:class:`absynth.models.front.Clamped`): they see v = clip(x, low, high). Moving v_i
  by e > 0 takes a change of x_i by dead_i + e, where the dead zone dead_i is low − x_i on the way up and
  x_i − high on the way down, if that is positive, and nothing otherwise. Without a clamp all are 0.
- A threshold at ½ (:class:`absynth.models.cnn.Binarized`): they see 1 where x_i > ½ and 0 elsewhere, and a
  flip costs abs(x_i − ½).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Front:
    """What the prototypes see of an image.

    Attributes:
        binary: Whether it is what a threshold at ½ makes of the image; then the others have no meaning.
        low: The least value that they see, a number of float32.
        high: The largest.
    """

    binary: bool = False
    low: float = 0.0
    high: float = 1.0

    @property
    def clamps(self) -> bool:
        """Whether there are dead zones."""
        return not self.binary and (self.low > 0 or self.high < 1)

    def see(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """What the prototypes are compared with."""
        if self.binary:
            return (image > 0.5).to(image.dtype)
        return image.clamp(self.low, self.high) if self.clamps else image

    def up(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far what is seen of each pixel can rise."""
        return (1.0 if self.binary else self.high) - self.see(image)

    def down(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far it can fall."""
        return self.see(image) - (0.0 if self.binary else self.low)

    def dead_up(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far each pixel must rise before anything is seen of it."""
        return (self.low - image).clamp(min=0)

    def dead_down(self, image: Float[Tensor, "*rows pixel"]) -> Float[Tensor, "*rows pixel"]:
        """How far each pixel must fall before anything is seen of it."""
        return (image - self.high).clamp(min=0)

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


GREY = Front()
"""The image itself."""

BINARY = Front(binary=True)
"""What the threshold makes of it."""
