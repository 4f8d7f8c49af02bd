"""The one door for images and labels: however they come, a model gets tensors of the form that it takes.

The rules, the same wherever images are handed to this package:

- **Form.** A tensor, an array, or a list of either, of shape (batch, channel, height, width). Another shape
  is never guessed at: the sentence says how to make the right one, channel-last images included.
- **Type.** Any floating type; bool, and whole numbers that are all 0 or 1. Other whole numbers are refused,
  as 0 to 255 has to be divided by 255. Everything is computed in the model's own type.
- **Values.** In [0, 1]. What is outside by a rounding error (:func:`allowance`) is clipped.
- **Labels.** Whole numbers of any type, one an image, in a tensor, an array or a list; one number alone for
  one image.

What leaves is a copy: nothing that is done to it changes what the caller has.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.shapes import Images, Labels

ALLOWED = 1e-6
"""A value may lie outside [0, 1] by this, as a part of the range, or by a rounding error of its own type."""

FEWEST_ROWS = 5
"""Fewer rows and as few columns could be an image of a few pixels as well as channels in the last place."""

MOST_CHANNELS = 4

MOST = 2**63 - 1
"""The largest whole number that every generator of random numbers takes as a seed."""


@dataclass(frozen=True)
class Given:
    """Images as the caller gave them, and as a model sees them.

    Attributes:
        seen: What the model sees, in the type it computes in; a copy, clipped to [0, 1].
        values: What was given, in a floating type, neither rounded nor clipped.
        home: Where it was given.
    """

    seen: Images
    values: Images
    home: torch.device

    @property
    def changed(self) -> bool:
        """Whether the model sees other values than were given, by rounding or by clipping."""
        return not torch.equal(self.seen.double(), self.values.double())


def take_images(
    images: Any,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    grid: torch.dtype | None = None,
) -> Given:
    """Images as a model takes them.

    Args:
        images: Whatever the module's rules allow.
        dtype: The type to compute in.
        device: Where to have them; by default where they are.
        grid: A coarser type that the model sees them in, so that they are rounded to it first.

    Raises:
        AbsynthError: If they are no such images; the sentence says what was wrong and what would be right.

    >>> take_images(np.zeros((2, 1, 3, 3))).seen.dtype
    torch.float32
    """
    tensor = as_tensor(images, "images")
    home = tensor.device
    check_layout(tuple(tensor.shape), array=not isinstance(images, Tensor))
    values = _real(tensor if device is None else tensor.to(device), dtype)
    check_values(values)
    seen = values.to(grid or dtype).to(dtype).clamp(0, 1)
    return Given(seen, values, home)


def take_labels(labels: Any, count: int, device: torch.device | None = None) -> Labels:
    """Labels as int64.

    Args:
        labels: Whatever the module's rules allow.
        count: How many images there are.
        device: Where to have them; by default where they are.

    Raises:
        AbsynthError: If they are no labels of so many images.

    >>> take_labels([3, 1], 2)
    tensor([3, 1])
    """
    tensor = as_tensor(labels, "labels")
    kind, shape = tensor.dtype, tuple(tensor.shape)
    if tensor.ndim == 0 and count == 1:
        tensor = tensor[None]
    if tensor.ndim == 2 and len(tensor) == count:
        remedy = "labels.argmax(1) of one-hot rows" if shape[1] > 1 else "labels.reshape(-1)"
        raise AbsynthError(f"The labels have shape {shape}; give one class number an image, here {remedy}.")
    if tensor.is_floating_point() and tensor.shape == (count,) and bool((tensor == tensor.round()).all()):
        remedy = "labels.long()" if isinstance(labels, Tensor) else "np.asarray(labels).astype(int)"
        raise AbsynthError(f"The labels have type {_name(kind)}; they are whole numbers: give {remedy}.")
    if tensor.dtype == torch.uint64 and bool((tensor.view(torch.int64) < 0).any()):
        raise AbsynthError("Some labels are above 2^63; give the number of a class, from 0 on.")
    if tensor.shape != (count,) or tensor.is_floating_point() or tensor.is_complex():
        raise AbsynthError(
            f"The labels have shape {shape} and type {_name(kind)}; {count} images take whole numbers of "
            f"shape ({count},), the class of each."
        )
    return tensor.to(device=device or tensor.device, dtype=torch.int64, copy=True)


def check_classes(labels: Labels, classes: int) -> None:
    """Sees that every label is a class of the model.

    Raises:
        AbsynthError: If one is not.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise AbsynthError(
            f"The labels lie in [{low}, {high}]; the model has the classes 0 to {classes - 1}."
        )


def as_tensor(values: Any, name: str) -> Tensor:
    """Numbers as a tensor that carries no gradient; an array is copied, whatever its layout.

    Args:
        values: A tensor, an array, a number, or a list of these.
        name: What to call them in a message.

    Raises:
        AbsynthError: If they are no numbers, or have different shapes.
    """
    if any(_masked(one) for one in (values if isinstance(values, list | tuple) else [values])):
        raise AbsynthError(
            f"Some of the {name} are masked, so they have no value; give them one: {name}.filled(value)."
        )
    if isinstance(values, list | tuple) and values and all(isinstance(one, Tensor) for one in values):
        try:
            values = torch.stack([one.detach() for one in values])
        except RuntimeError:
            raise AbsynthError(
                f"The {name} are a list of tensors of different shapes; give them all one shape."
            ) from None
    if isinstance(values, Tensor):
        if values.is_nested:
            raise AbsynthError(f"The {name} are a nested tensor; give {name}.to_padded_tensor(0).")
        if values.layout != torch.strided:
            raise AbsynthError(f"The {name} are a sparse tensor; give {name}.to_dense().")
        if values.is_meta:
            raise AbsynthError(
                f"The {name} are on the device 'meta', where tensors have no values; give others."
            )
        # what was made in inference mode can be copied, but not be part of a graph
        return values.detach().clone() if values.is_inference() else values.detach()
    try:
        array = np.asarray(values)
    except Exception:  # whatever an object that is no array may raise
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biufc":
        what = _kind_of(values, array.dtype)
        raise AbsynthError(f"The {name} are {what}; give a tensor, a NumPy array or a list of numbers.")
    native = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.dtype(np.float64)
    if array.dtype.kind == "c":
        raise AbsynthError(f"The {name} are complex numbers; give real ones.")
    return torch.from_numpy(np.array(array, dtype=native, order="C"))


def floats_as_tensor(value: Any) -> Any:
    """An array of floating-point numbers as a tensor of its own; anything else as it is.

    Args:
        value: What a user's code answered.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    return value


def _kind_of(values: Any, dtype: np.dtype[Any]) -> str:
    """What values are that are no numbers, in words."""
    if dtype.kind in "US":
        return "words"
    if isinstance(values, np.ndarray):
        return "an array of objects" if dtype.kind == "O" else f"an array of type {dtype}"
    if isinstance(values, list | tuple) and values:
        lists = all(isinstance(one, list | tuple | np.ndarray) for one in values)
        return "rows of different lengths" if lists else f"a list of {type(values[0]).__name__}"
    return f"a {type(values).__name__}"


def check_layout(shape: tuple[int, ...], *, array: bool = False) -> None:
    """Sees that images have the shape (batch, channel, height, width).

    Args:
        shape: Of the images.
        array: Whether they came as something else than a tensor, for the words of the sentence.

    Raises:
        AbsynthError: If not, or if there are none; the sentence says how to make the right shape.

    >>> check_layout((8, 28, 28, 1))
    Traceback (most recent call last):
        ...
    absynth.errors.AbsynthError: The images have shape (8, 28, 28, 1), the channels in the last place; \
give (batch, channel, height, width), at least one image: images.permute(0, 3, 1, 2).contiguous().
    """
    remedy, what = "", f"shape {shape}"
    if len(shape) == 4 and 0 not in shape:
        if not is_channel_last(shape):
            return
        what += ", the channels in the last place"
        # in the order of memory that a model with a view of its images takes
        remedy = f": images.{'transpose(0, 3, 1, 2).copy' if array else 'permute(0, 3, 1, 2).contiguous'}()"
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        remedy = ": images[None] for one image, images[:, None] for several grey ones"
    elif len(shape) == 3:
        remedy = ": images[:, None] for grey images"
    elif len(shape) == 2 and shape[1] <= 2 * shape[0] <= 4 * shape[1]:
        remedy = ": images[None, None] for one grey image, images.reshape(n, 1, height, width) for rows"
    elif len(shape) in (1, 2):
        remedy = ": images.reshape(n, 1, height, width) for rows of pixels"
    raise AbsynthError(
        f"The images have {what}; give (batch, channel, height, width), at least one image{remedy}."
    )


def check_type(images: Any, own: torch.dtype | None = None) -> None:
    """Sees that what a model is called with is a tensor of the type that it computes in.

    Args:
        images: Whatever the caller gave.
        own: The model's type; by default any floating one. Under autocast, one in float32 takes others too.

    Raises:
        AbsynthError: If it is not; the sentence says how to make one.

    >>> check_type(torch.zeros(1, 1, 2, 2).double(), torch.float32)
    Traceback (most recent call last):
        ...
    absynth.errors.AbsynthError: The images are float64 and the model computes in float32; give it \
images.to(torch.float32).
    """
    if not isinstance(images, Tensor):
        raise AbsynthError(
            f"The images are a {type(images).__name__}; a model itself is called with a tensor of floats in "
            "[0, 1], for an array torch.from_numpy(images).float()."
        )
    if images.dtype == own:
        return
    if not images.is_floating_point():
        remedy = " / 255" if images.dtype == torch.uint8 else ""
        raise AbsynthError(
            f"The images are {_name(images.dtype)}; a model itself is called with floats in [0, 1]: give it "
            f"images.float(){remedy}."
        )
    # which autocast allows for, of models in float32 alone
    mixed = own == torch.float32 and torch.is_autocast_enabled(images.device.type)
    if own is not None and not mixed:
        raise AbsynthError(
            f"The images are {_name(images.dtype)} and the model computes in {_name(own)}; give it "
            f"images.to({own})."
        )


def is_channel_last(shape: tuple[int, ...]) -> bool:
    """Whether a shape of four axes can hardly be anything but (batch, height, width, channel).

    That is, at most four columns where there are more rows, and more channels than any image has. One column
    alone is told from two rows and channels on.

    >>> is_channel_last((8, 28, 28, 1)), is_channel_last((8, 32, 32, 3)), is_channel_last((8, 3, 32, 32))
    (True, True, False)
    """
    _, channels, rows, columns = shape
    if columns == 1:
        return channels > 1 and rows > 1
    return columns <= MOST_CHANNELS and channels > MOST_CHANNELS and rows >= FEWEST_ROWS


def check_values(images: Tensor) -> None:
    """Sees that every pixel lies in [0, 1], up to rounding.

    Raises:
        AbsynthError: If one is NaN or outside by more; the sentence has its value in full.
    """
    # NaN is both the smallest and the largest of values with a NaN among them
    low, high = (float(value) for value in images.aminmax())
    if math.isnan(low):
        raise AbsynthError("The images contain NaN; every pixel must be a number in [0, 1].")
    if (worst := offender(low, high, allowance(torch.finfo(images.dtype).eps))) is not None:
        hint = "divide them by 255" if 2 < worst <= 255 and low >= 0 else "scale the images to [0, 1]"
        raise AbsynthError(f"The images have the value {digits(worst)}, which is outside [0, 1]; {hint}.")


def allowance(spacing: float) -> float:
    """How far outside [0, 1] a value may lie to be clipped: 1e-6, or the spacing of its type at 1 if larger.

    >>> allowance(torch.finfo(torch.float64).eps), allowance(torch.finfo(torch.float16).eps)
    (1e-06, 0.0009765625)
    """
    return max(ALLOWED, spacing)


def offender(
    low: float, high: float, allowed: float = ALLOWED, *, bottom: float = 0.0, top: float = 1.0
) -> float | None:
    """The extreme value that lies outside a range by more than rounding; None if there is none.

    Args:
        low: The smallest value.
        high: The largest.
        allowed: How far outside a value may lie, as a part of the range.
        bottom: The lower end of the range.
        top: The upper end.

    >>> offender(0.0, 1.0000002), offender(-0.5, 1.1)
    (None, -0.5)
    """
    room = allowed * (top - bottom)
    below, above = bottom - low, high - top
    if max(below, above) <= room:
        return None
    return low if below > above else high


def digits(value: float) -> str:
    """A number with all its digits, so that one just above 1 does not look like 1.

    >>> digits(1.0), digits(1 + 2**-22)
    ('1', '1.000000238418579')
    """
    return repr(float(value)).removesuffix(".0")


def whole_number(value: Any, name: str, least: int = 1, most: int = MOST) -> int:
    """A whole number of any type as an int.

    Args:
        value: An int, or what NumPy or PyTorch have for one; no bool.
        name: What to call it in a message.
        least: The smallest that it may be.
        most: The largest.

    Raises:
        AbsynthError: If it is no such number.

    >>> whole_number(np.int64(3), "seed")
    3
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except (TypeError, RuntimeError):
        number = None
    if number is None:
        raise AbsynthError(f"The {name} is {value!r}, a {type(value).__name__}; give a whole number.")
    if not least <= number <= most:
        limits = f"at least {least}" if number < least else f"at most {most}"
        raise AbsynthError(f"The {name} is {number}; it must be {limits}.")
    return number


def as_mask(array: np.ndarray) -> np.ndarray:
    """Whole numbers that are all 0 or 1, with a 1 among them, as bool; any other array as it is.

    >>> as_mask(np.array([0, 1])).dtype, as_mask(np.array([0, 2])).dtype
    (dtype('bool'), dtype('int64'))
    """
    whole = array.dtype.kind in "iu" and array.size > 0
    return array.astype(bool) if whole and array.min() >= 0 and array.max() == 1 else array


def _real(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels as real numbers: floats as they are, 0 and 1 in ``dtype``.

    Raises:
        AbsynthError: If they are other whole numbers, or complex ones.
    """
    if tensor.is_floating_point():
        # types of one byte know hardly any operation
        return tensor if tensor.dtype.itemsize > 1 else tensor.to(torch.float32)
    if tensor.is_complex():
        raise AbsynthError("The images are complex numbers; give real ones.")
    if tensor.dtype != torch.bool:
        low, high = (int(value) for value in tensor.to(torch.int64).aminmax())
        if low < 0 or high > 1:
            right = "divide them by 255" if low >= 0 and high <= 255 else "scale them to [0, 1]"
            raise AbsynthError(
                f"The images are whole numbers ({_name(tensor.dtype)}) from {low} to {high}; an image takes "
                f"floats in [0, 1]: {right}."
            )
    return tensor.to(dtype)


def _masked(values: Any) -> bool:
    """Whether a masked array hides something, which an array of its numbers would show."""
    return isinstance(values, np.ma.MaskedArray) and bool(np.ma.getmaskarray(values).any())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
