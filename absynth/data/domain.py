"""What a model is for: its classes, the size of its images, and whether they are MNIST's digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from absynth.errors import AbsynthError

Size = tuple[int, int]
"""Rows and columns of an image."""

SMALLEST_SIDE, LARGEST_SIDE = 16, 64
"""Rows and columns that the models of this package can have."""

FEWEST_CLASSES, MOST_CLASSES = 2, 100


@dataclass(frozen=True)
class Domain:
    """What a model is for, kept in its config.

    Attributes:
        class_names: Name of each class, in the order of the logits.
        size: Rows and columns of an image.
        digits: Whether the images are digits as MNIST has them: light on dark and centred. A picture is
            brought into that form for such a model; for any other it is made grey and scaled, no more.
    """

    class_names: tuple[str, ...]
    size: Size
    digits: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"class_names": list(self.class_names), "size": list(self.size), "digits": self.digits}

    @classmethod
    def from_json(cls, values: Any) -> Domain:
        """The domain that :meth:`to_json` wrote.

        Raises:
            AbsynthError: If it did not write this.
        """
        try:
            height, width = values["size"]
            size = (int(height), int(width))
            names = tuple(str(name) for name in values["class_names"])
            digits = bool(values["digits"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise AbsynthError(
                "The entry 'data' of the model config lacks class_names, size or digits; save the model "
                "again."
            ) from None
        check_size(size)
        check_classes(len(names))
        return cls(names, size, digits)


DIGITS = Domain(tuple("0123456789"), (28, 28), digits=True)
"""What the shipped models are for, and every model whose config does not say otherwise."""


def check_size(size: Size) -> None:
    """Sees that models can have images of a size.

    Raises:
        AbsynthError: If a side is shorter than 16 or longer than 64 pixels.
    """
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise AbsynthError(
            f"Images of {format_size(size)} pixels were asked for; models take sides from {SMALLEST_SIDE} to "
            f"{LARGEST_SIDE}."
        )


def check_classes(count: int) -> None:
    """Sees that models can have so many classes.

    Raises:
        AbsynthError: If there are none, or more than 100.
    """
    if not 1 <= count <= MOST_CLASSES:
        raise AbsynthError(f"{count} classes were asked for; models tell at most {MOST_CLASSES} apart.")


def fit_size(size: Size) -> Size:
    """The size with sides from 16 to 64 that comes nearest, the proportions kept as far as that allows.

    >>> fit_size((8, 8)), fit_size((300, 400)), fit_size((20, 30))
    ((16, 16), (48, 64), (20, 30))
    """
    factor = min(max(1.0, SMALLEST_SIDE / min(size)), LARGEST_SIDE / max(size))
    height, width = (min(max(round(factor * side), SMALLEST_SIDE), LARGEST_SIDE) for side in size)
    return height, width


def format_size(size: tuple[int, ...]) -> str:
    """Rows and columns as text.

    >>> format_size((28, 20))
    '28x20'
    """
    return f"{size[0]}x{size[1]}"
