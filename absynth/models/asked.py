"""How any model is asked for its logits: modules, functions, tuples as answers, half precision, and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError, first_line
from absynth.inputs import Given, floats_as_tensor, take_images
from absynth.models.frozen import frozen
from absynth.models.held import all_modules, held_networks, tensors_of
from absynth.shapes import Images

LOOKED_AT = 2
"""Images that a model is tried on: with two, a batch that an answer lost or gained is seen."""

SINGLE = (
    "The model answers with a single logit; it must answer with one for each of at least two classes: give a "
    "logit t as the two logits 0 and t."
)
IN_PLACE = "The model changes the images that it is given in place; it is given copies."

ARRAYS = "Can't call numpy() on Tensor that requires grad"
"""What PyTorch says to those who make an array of images that require a gradient."""


@dataclass(frozen=True)
class Served:
    """A model as it can be asked, and the images that it can be asked about.

    Attributes:
        model: From images of type ``dtype`` to one tensor of logits: the caller's own module where that is
            such a one, else an :class:`Asked`.
        given: The images, on the device of the model.
        classes: How many logits it answers with.
    """

    model: nn.Module
    given: Given
    classes: int


class Asked(nn.Module):
    """A model that needs help to be asked like any other.

    Args:
        model: Any module.
        own: The type of the images that it takes.
        copies: Whether to give it copies, as it changes what it is given.
        gradients: Whether its answers can carry a gradient.
        remarks: What the caller should know of it, a sentence each.
    """

    def __init__(
        self,
        model: nn.Module,
        own: torch.dtype,
        *,
        copies: bool = False,
        gradients: bool = True,
        remarks: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.own = own
        self.copies = copies
        self.gradients = gradients
        self.remarks = remarks

    def forward(self, images: Images) -> Tensor:
        """The logits, in the type of the images, which attacks count on."""
        seen = images.to(self.own)
        seen = seen.clone() if self.copies else seen
        if self.gradients:
            answer = self.model(seen)
        else:
            with torch.no_grad():
                answer = self.model(seen.detach())
        return read_logits(answer, len(images)).to(images)


def find_asked(model: nn.Module) -> Asked | None:
    """The part of a model that stands for one that needs help, whatever stands around it."""
    return next((part for part in model.modules() if isinstance(part, Asked)), None)


def from_outside(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A model that answers images of a type which may not be its own; the model itself where it does so.

    Args:
        model: Any module.
        dtype: The type of the images.
    """
    own = own_type(model)
    if own in (None, dtype) or find_asked(model) is not None:
        return model
    return Asked(model, own).train(getattr(model, "training", False))


def inside(model: nn.Module) -> nn.Module:
    """The model that an :class:`Asked` helps, or the model itself.

    Args:
        model: Any module.
    """
    return model.model if isinstance(model, Asked) else model


class Function(nn.Module):
    """A function from images to logits as a module; networks that it reaches become parts of it.

    Args:
        function: Any callable.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.networks = nn.ModuleList(held_networks(function))

    def forward(self, images: Images) -> Any:
        """What the function answers."""
        return self.function(images)


def unsure_of_mode(model: nn.Module) -> bool:
    """Whether a module is in training mode in spite of :func:`frozen`, or no network was found to hold still.

    Args:
        model: Any module (:func:`as_module`), held by :func:`absynth.models.frozen.frozen`.
    """
    helpers = [part for part in model.modules() if isinstance(part, Asked | Function)]
    own = {id(part) for helper in helpers for part in (helper, getattr(helper, "networks", None))}
    parts = [part for part in all_modules(model) if id(part) not in own]
    found = len(parts) > 1 or bool(parts and tensors_of(model))
    return not found or any(getattr(part, "training", False) for part in parts)


def as_module(model: Any) -> nn.Module:
    """A model as a module.

    Raises:
        AbsynthError: If it cannot be called, or its tensors have no values.
    """
    if not callable(model) or isinstance(model, type):
        hint = f"; absynth.load('{model}') loads one by its name" if isinstance(model, str) else ""
        raise AbsynthError(
            f"The model is a {type(model).__name__}; give a torch.nn.Module, or a function from images to "
            f"logits{hint}."
        )
    module = model if isinstance(model, nn.Module) else Function(model)
    tensors = tensors_of(module)
    if any(one.is_meta for one in tensors):
        raise AbsynthError(
            "The model is on the device 'meta', where tensors have no values; load it on a CPU or GPU."
        )
    # tensors that were made in inference mode can be copied, but not be part of a graph
    return deepcopy(module) if module is model and any(one.is_inference() for one in tensors) else module


def own_type(model: nn.Module) -> torch.dtype | None:
    """The floating type of a model's tensors; None if it has none."""
    return next((one.dtype for one in tensors_of(model) if one.is_floating_point()), None)


def computing_type(own: torch.dtype | None, images: Any) -> torch.dtype:
    """The type to compute in for a model: its own, float32 in place of a half or smaller one.

    Args:
        own: The type of the model's tensors, if it has any.
        images: The images as they were given, whose type counts for a model without tensors.
    """
    if own is None:
        given = getattr(images, "dtype", None)
        return torch.float64 if str(given).rpartition(".")[2] == "float64" else torch.float32
    return own if own in (torch.float32, torch.float64) else torch.float32


def serve(model: nn.Module, images: Any) -> Served:
    """Looks at how a model answers the first of the images, and says how to ask it.

    Args:
        model: Any module (:func:`as_module`), in the mode in which it will be asked.
        images: As the caller gave them (:func:`absynth.inputs.take_images`).

    Raises:
        AbsynthError: If the images are none, or the model does not answer them with logits (batch, class) of
            two classes or more.
    """
    own = own_type(model)
    dtype = computing_type(own, images)
    own = own or dtype
    tensors = tensors_of(model)
    given = take_images(images, dtype, tensors[0].device if tensors else None, None if own == dtype else own)
    helped = find_asked(model) is not None
    sample = given.seen[:LOOKED_AT].to(dtype if helped else own)
    answer, changed, gradients = _look(model, sample)
    logits = read_logits(answer, len(sample))
    if logits.shape[1] < 2:
        raise AbsynthError(SINGLE)
    plain = isinstance(answer, Tensor) and answer.dtype == dtype
    if plain and not changed and (helped or (gradients and own == dtype)):
        return Served(model, given, logits.shape[1])
    remarks = (
        *((IN_PLACE,) if changed else ()),
        *(() if isinstance(answer, Tensor | np.ndarray) else (_kind_remark(answer),)),
    )
    asked = Asked(model, own, copies=changed, gradients=gradients, remarks=remarks)
    asked.training = getattr(model, "training", False)
    return Served(asked, given, logits.shape[1])


def read_logits(answer: Any, count: int) -> Tensor:
    """The logits in what a model answered.

    That is the answer itself, what it calls ``logits``, the first of a tuple or list unless another entry
    could be meant as well, or the only entry of a dictionary.

    Args:
        answer: A tensor, an array, a tuple, a list, a dictionary, or an object with ``logits``.
        count: How many images it answers.

    Raises:
        AbsynthError: If there is no tensor of the shape (count, classes) in these places, or several are.

    >>> read_logits((torch.zeros(2, 10), "features"), 2).shape
    torch.Size([2, 10])
    """
    found = answer
    if isinstance(answer, Mapping):
        found = answer.get("logits", next(iter(answer.values())) if len(answer) == 1 else None)
    elif not isinstance(answer, Tensor | np.ndarray):
        found = getattr(answer, "logits", None)
        if found is None and isinstance(answer, tuple | list) and answer:
            alike = sum(_like_logits(one, count) for one in answer)
            if alike > 1:
                raise AbsynthError(
                    f"The model answers with a {type(answer).__name__} of which {alike} entries could be the "
                    "logits; give a function that returns the right one, as lambda images: model(images)[0]."
                )
            found = answer[0]
    found = floats_as_tensor(found)
    if isinstance(found, Tensor) and found.ndim == 2 and len(found) == count:
        if found.is_floating_point():
            return found
        raise AbsynthError(f"The model answers with {found.dtype} values; logits are real numbers.")
    if isinstance(answer, Tensor | np.ndarray):
        what = f"the shape {tuple(answer.shape)}"
    else:
        what = f"a {type(answer).__name__} whose logits are not plain to see"
    raise AbsynthError(
        f"The model answers {count} image{'' if count == 1 else 's'} with {what}; models answer with "
        f"logits of shape ({count}, classes), at least two classes."
    )


def answer(model: Any, images: Any) -> Tensor:
    """A model's logits for images that the caller gave, in evaluation mode and without a gradient.

    Args:
        model: A module or a function.
        images: What :func:`absynth.inputs.take_images` takes.

    Raises:
        AbsynthError: If the images are none, or the model does not answer with logits.
    """
    module = as_module(model)
    own = own_type(module)
    dtype = computing_type(own, images)
    tensors = tensors_of(module)
    given = take_images(images, dtype, tensors[0].device if tensors else None)
    with frozen(module), torch.no_grad():
        logits = read_logits(_call(module, given.seen.to(own or dtype)), len(given.seen))
    if logits.shape[1] < 2:
        raise AbsynthError(SINGLE)
    return logits.to(given.home) if logits.dtype == torch.float64 else logits.to(given.home, torch.float32)


def _like_logits(entry: Any, count: int) -> bool:
    """Whether a part of an answer has the type and shape of logits."""
    array = isinstance(entry, np.ndarray) and entry.dtype.kind == "f"
    tensor = isinstance(entry, Tensor) and entry.is_floating_point()
    return (array or tensor) and entry.ndim == 2 and len(entry) == count and entry.shape[1] > 1


def _look(model: nn.Module, images: Tensor) -> tuple[Any, bool, bool]:
    """A model's answer, whether it changed the images given to it, and whether the answer has a gradient."""
    try:
        with torch.enable_grad():
            # no leaf, so that a model may change it
            given = images.detach().requires_grad_().clone()
            version = given._version
            answer = model(given)
        gradients = not isinstance(answer, np.ndarray)
    except (Exception, SystemExit) as error:
        given = images.clone()
        version = given._version
        with torch.no_grad():
            answer = _call(model, given)
        # one that makes arrays of the images has none; any other fault is told where a gradient is asked for
        gradients = ARRAYS not in str(error)
    changed = given._version != version or not torch.equal(given.detach(), images)
    return answer, changed, gradients


def _call(model: nn.Module, images: Tensor) -> Any:
    """What a model answers; what it raises, in one sentence."""
    shape, kind = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    try:
        return model(images)
    except AbsynthError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may end the program
        raise AbsynthError(
            f"The model raises {type(error).__name__} for images of shape {shape} in {kind}: "
            f"{first_line(error)}; give images as it takes them, or mend it."
        ) from error


def _kind_remark(answer: Any) -> str:
    """Says what of an answer is taken for the logits."""
    if isinstance(answer, tuple | list) and not hasattr(answer, "logits"):
        return f"The model answers with a {type(answer).__name__}; its first entry is taken for the logits."
    return f"The model answers with a {type(answer).__name__}; what it calls logits is taken for them."
