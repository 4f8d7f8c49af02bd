"""The convolutional baselines, and the threshold in front of the Binary models."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.data.domain import DIGITS, Size, check_classes, check_size
from absynth.errors import AbsynthError
from absynth.inputs import check_type
from absynth.memory import in_pieces
from absynth.models.front import Fronted
from absynth.models.pretrained import PretrainedModel, register
from absynth.models.vae import check_image_size, encoder_kernels, size_entry
from absynth.shapes import Images, Logits

STRIDES = (1, 2, 2, 1)
MAPS = (20, 70, 256)

STEEPNESS = 10.0
"""Of the soft threshold in front of :class:`IntervalCNN`."""

BYTES_A_PIXEL = 256
"""Of memory that the layers' outputs take at most (200 measured)."""


class _Network(PretrainedModel):
    """A network that is a sequence of layers from an image to the logits.

    Args:
        classes: Number of classes.
        image_size: Rows and columns of an image.
    """

    layers: nn.Sequential

    def __init__(self, classes: int = 10, image_size: Size = DIGITS.size) -> None:
        super().__init__()
        check_size(image_size)
        self.classes, self.image_size = classes, image_size

    def config(self) -> dict[str, Any]:
        """The number of classes, and the size of the images unless it is 28×28."""
        return {"classes": self.classes, **size_entry(self.image_size)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Network:
        """An untrained network of the configured number of classes and size of images."""
        height, width = config.get("image_size", DIGITS.size)
        check_classes(config["classes"])
        return cls(config["classes"], (height, width))

    def forward(self, images: Images) -> Logits:
        """The logits; outside training, of as many images at a time as the memory holds.

        Raises:
            AbsynthError: If the images have another size or type.
        """
        check_type(images, next(self.parameters()).dtype)
        check_image_size(images, self.image_size)
        if self.training:
            logits: Tensor = self.layers(images)
            return logits
        return in_pieces(self.layers, images, BYTES_A_PIXEL * images.shape[1:].numel())


@register
class CNN(_Network):
    """The paper's plain network: four convolutions with batch norm and ELU (appendix A.2).

    Args:
        classes: Number of classes.
        image_size: Rows and columns of an image.
    """

    type_name = "cnn"

    def __init__(self, classes: int = 10, image_size: Size = DIGITS.size) -> None:
        super().__init__(classes, image_size)
        kernels = encoder_kernels(image_size)
        maps = (1, *MAPS, classes)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in zip(maps[:-1], maps[1:], kernels, STRIDES, strict=True):
            layers += [nn.Conv2d(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.ELU()]
        self.layers = nn.Sequential(*layers[:-2], nn.Flatten())


@register
class StridedCNN(_Network):
    """A small network that is quick to train adversarially: two strided convolutions, a hidden layer, ReLU.

    The layers are those of Wong and Kolter 2018 (arXiv 1711.00851, section 4), but wider. There is no batch
    norm, whose statistics would differ between clean and attacked batches.

    Args:
        classes: Number of classes.
        image_size: Rows and columns of an image.
    """

    type_name = "strided-cnn"

    def __init__(self, classes: int = 10, image_size: Size = DIGITS.size) -> None:
        super().__init__(classes, image_size)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (image_size[0] // 4) * (image_size[1] // 4), 256),
            nn.ReLU(),
            nn.Linear(256, classes),
        )


@register
class IntervalCNN(_Network):
    """A network to be trained by interval bounds: a soft threshold, two strided convolutions, a hidden layer.

    The threshold clips 10 (x − ½) + ½ to [0, 1]: pixels at 0 and at 1 stay what they are within an Linf
    distance of 0.45. It is made of two convolutions of one pixel and ReLU, the ``front`` of the layers, so
    that whatever bounds ReLU networks bounds this one. Its gradient is 0 but for pixels near ½, so an attack
    that goes by gradients says little about the network.

    Args:
        classes: Number of classes.
        image_size: Rows and columns of an image.
    """

    type_name = "interval-cnn"
    front = 4
    """How many of the layers are the threshold."""

    def __init__(self, classes: int = 10, image_size: Size = DIGITS.size) -> None:
        super().__init__(classes, image_size)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 1, 1),
            nn.ReLU(),
            nn.Conv2d(1, 1, 1),
            nn.ReLU(),
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (image_size[0] // 4) * (image_size[1] // 4), 256),
            nn.ReLU(),
            nn.Linear(256, classes),
        )
        steep, low = self.layers[0], self.layers[2]
        assert isinstance(steep, nn.Conv2d) and steep.bias is not None
        assert isinstance(low, nn.Conv2d) and low.bias is not None
        with torch.no_grad():  # min(a, 1) is 1 − max(1 − a, 0)
            steep.weight.fill_(-STEEPNESS)
            steep.bias.fill_(STEEPNESS / 2 + 0.5)
            low.weight.fill_(-1)
            low.bias.fill_(1)


@register
class SmoothedCNN(_Network):
    """A network to be smoothed: three strided convolutions and a hidden layer, trained on noise.

    This is the base network of a smoothed classifier (Cohen et al. 2019, arXiv 1902.02918). Its own answer is
    that for the image as it is, without noise; it is the class that most noisy images get that randomised
    smoothing certifies.

    Args:
        classes: Number of classes.
        image_size: Rows and columns of an image.
        sigma: Standard deviation of the noise that it is for, in units of the pixels.

    Raises:
        AbsynthError: If the standard deviation is not a number above 0.
    """

    type_name = "smoothed-cnn"

    def __init__(self, classes: int = 10, image_size: Size = DIGITS.size, sigma: float = 0.5) -> None:
        if not 0 < sigma < math.inf:
            raise AbsynthError(f"The noise has a standard deviation of {sigma:g}; it must be above 0.")
        super().__init__(classes, image_size)
        self.sigma = sigma
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * -(-image_size[0] // 8) * -(-image_size[1] // 8), 256),
            nn.ReLU(),
            nn.Linear(256, classes),
        )

    def config(self) -> dict[str, Any]:
        """The number of classes, the noise, and the size of the images unless it is 28×28."""
        return {**super().config(), "smoothing": {"sigma": self.sigma}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SmoothedCNN:
        """An untrained network for the configured noise, number of classes and size of images."""
        height, width = config.get("image_size", DIGITS.size)
        check_classes(config["classes"])
        return cls(config["classes"], (height, width), float(config["smoothing"]["sigma"]))


class _Threshold(torch.autograd.Function):
    """x > ½ going forward, the identity going backward (the straight-through estimate)."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return (images > 0.5).to(images.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def binarize(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 where a pixel is above ½ and 0 elsewhere, with a straight-through gradient.

    The true gradient is 0 almost everywhere and would stop every gradient attack at once.
    """
    result: Tensor = _Threshold.apply(images)  # type: ignore[no-untyped-call]
    return result


@register
class Binarized(Fronted):
    """Any classifier behind the threshold at ½: ``Binarized(model)(x) == model(binarize(x))``.

    Args:
        model: The classifier of binary images; any ``nn.Module`` will do, only a
            :class:`PretrainedModel` can be saved.
    """

    type_name = "binarized"

    def see(self, images: Images) -> Images:
        """The thresholded images."""
        return binarize(images)
