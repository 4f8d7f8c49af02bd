"""What can stand in front of a classifier: a fixed function of every pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.inputs import check_type
from absynth.models.pretrained import PretrainedModel, build, full_config, register
from absynth.models.prototypes import PrototypeClassifier, Prototypes
from absynth.shapes import Images, Logits

TAIL = 0.1
"""Values this near to black or white count as being this far from it."""


class Fronted(PretrainedModel):
    """A classifier that sees what a function makes of every image.

    Args:
        model: The classifier behind it; any ``nn.Module`` will do, only a :class:`PretrainedModel` can be
            saved.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def see(self, images: Images) -> Images:
        """What the classifier sees of images."""
        raise NotImplementedError

    def in_front_of(self, model: nn.Module) -> Fronted:
        """The same in front of another classifier."""
        return type(self)(model)

    def prototypes(self) -> Prototypes:
        """The codebook behind it; a class's score is min_k ‖v − image_k‖² + offset_k of what is seen, v.

        Raises:
            AbsynthError: If the classifier has none.
        """
        if not isinstance(self.model, PrototypeClassifier):
            raise AbsynthError(f"A {type(self.model).__name__} has no prototypes; codebook models have some.")
        return self.model.prototypes()

    def config(self) -> dict[str, Any]:
        """The config of the classifier."""
        if not isinstance(self.model, PretrainedModel):
            raise AbsynthError(
                f"A {type(self.model).__name__} cannot be saved; only models of absynth have a config."
            )
        return {"model": full_config(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Fronted:
        """The configured classifier, with this in front."""
        return cls(build(config["model"]))

    def prepare(self, cached: bool = False) -> None:
        """Prepares the classifier."""
        if isinstance(self.model, PretrainedModel):
            self.model.prepare(cached)

    def forward(self, images: Images) -> Logits:
        """The logits of what the classifier sees."""
        check_type(images)
        logits: Tensor = self.model(self.see(images))
        return logits


def unwrap(model: nn.Module) -> nn.Module:
    """The model behind a threshold or a clamp, or the model itself."""
    return model.model if isinstance(model, Fronted) else model


def seen_by(model: nn.Module, images: Images) -> Images:
    """What the classifier sees that :func:`unwrap` gives: the images, or what is left of them in front."""
    return model.see(images) if isinstance(model, Fronted) else images


def limits(tail: float) -> tuple[float, float]:
    """``tail`` and 1 − ``tail`` as float32 has them."""
    low, high = torch.tensor([tail, 1 - tail], dtype=torch.float32, device="cpu").tolist()
    return low, high


class _Clamp(torch.autograd.Function):
    """clip(x, low, high) going forward, the identity going backward (the straight-through estimate)."""

    @staticmethod
    def forward(context: Any, images: Tensor, low: float, high: float) -> Tensor:
        return images.clamp(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def clamp(images: Tensor, tail: float) -> Tensor:
    """Each value moved into [tail, 1 − tail].

    No change of an image becomes larger by it, and none of a black or white pixel is even seen before it
    exceeds ``tail``, which is where the radii of a classifier behind it come from.

    The gradient is passed straight through: the true one is 0 for black and white pixels and would stop most
    gradient attacks at once.

    >>> clamp(torch.tensor([0.0, 0.3, 1.0]), 0.1)
    tensor([0.1000, 0.3000, 0.9000])
    """
    result: Tensor = _Clamp.apply(images, *limits(tail))  # type: ignore[no-untyped-call]
    return result


@register
class Clamped(Fronted):
    """Any classifier behind a clamp: ``Clamped(model, tail)(x) == model(x.clamp(tail, 1 - tail))``.

    Args:
        model: The classifier.
        tail: How near to black or white a pixel may come, from 0 to less than ½.

    Attributes:
        low: The least value that the classifier sees, a number of float32.
        high: The largest.

    Raises:
        AbsynthError: If the tail is out of range.
    """

    type_name = "clamped"
    low: float
    high: float

    def __init__(self, model: nn.Module, tail: float = TAIL) -> None:
        super().__init__(model)
        if not 0 <= tail < 0.5:
            raise AbsynthError(f"A tail of {tail} leaves nothing to see; it is at least 0 and less than 0.5.")
        self.tail = tail
        self.low, self.high = limits(tail)

    def see(self, images: Images) -> Images:
        """The clamped images."""
        return clamp(images, self.tail)

    def in_front_of(self, model: nn.Module) -> Clamped:
        """The same in front of another classifier."""
        return Clamped(model, self.tail)

    def config(self) -> dict[str, Any]:
        """The tail, and the config of the classifier."""
        return {"tail": self.tail, **super().config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Clamped:
        """The configured classifier behind the configured clamp."""
        return cls(build(config["model"]), float(config["tail"]))
