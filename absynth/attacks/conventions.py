"""How the attacks of others are called: functions, and objects of foolbox, torchattacks and ART.

An attack of others is one of

- a function of model, images and labels that returns adversarials, as those of adversarial-library are;
- an attack object of foolbox;
- what makes an attack for a given model: a function of the model alone, a class of torchattacks, or a class
  of ART, which is given ART's own wrapper around the model. What it makes is called as
  ``made(images, labels)``, or as ``made.generate(x=..., y=...)`` on arrays where it is ART's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from typing import Any

import numpy as np
from torch import nn

from absynth.attacks.adapter import ask_foolbox
from absynth.attacks.handed import Handed
from absynth.errors import AbsynthError
from absynth.shapes import Images, Labels

ADVICE = (
    "give a function of (model, images, labels) that returns adversarials, an attack object of foolbox, or a "
    "function of the model that makes an attack for it"
)


@dataclass(frozen=True)
class Takes:
    """What a callable takes by position.

    Attributes:
        required: The names of the arguments that it cannot do without.
        most: How many it takes; None for any number.
        by_name: Arguments that it cannot do without and that are given by name alone.
    """

    required: tuple[str, ...]
    most: int | None
    by_name: tuple[str, ...]

    @property
    def anything(self) -> bool:
        """Whether it says nothing of what it takes."""
        return not self.required and self.most is None


def takes(function: Callable[..., Any]) -> Takes:
    """What a callable takes, by its signature; one without a signature may take anything.

    >>> takes(lambda model, images, labels, steps=10: images).required
    ('model', 'images', 'labels')
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # as of some that are written in C
        return Takes((), None, ())
    placed = [
        one for one in parameters if one.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    by_name = [one for one in parameters if one.kind == Parameter.KEYWORD_ONLY]
    any_number = any(one.kind == Parameter.VAR_POSITIONAL for one in parameters)
    return Takes(
        tuple(one.name for one in placed if one.default is Parameter.empty),
        None if any_number else len(placed),
        tuple(one.name for one in by_name if one.default is Parameter.empty),
    )


def is_foolbox(attack: Any) -> bool:
    """Whether it is an attack object of foolbox."""
    return "foolbox" in _origins(type(attack))


def is_made(attack: Any) -> bool:
    """Whether it is an attack object that belongs to a model already."""
    if isinstance(attack, type):
        return False
    return "torchattacks" in _origins(type(attack)) or hasattr(attack, "generate")


def makes_without_a_model(attack: Any) -> bool:
    """Whether it is something that makes an attack and takes nothing, as a class of foolbox."""
    if is_foolbox(attack) or is_made(attack) or not callable(attack):
        return False
    asked = takes(attack)
    return not asked.required and not asked.by_name and not asked.anything


def check_attack(attack: Any) -> None:
    """Sees that something can be called as an attack.

    Raises:
        AbsynthError: If not.
    """
    if is_foolbox(attack):
        return
    name = name_of(attack)
    if is_made(attack):
        raise AbsynthError(
            f"The attack {name} belongs to a model already, whose queries cannot be counted; give what makes "
            f"it, as lambda model: {name}(model)."
        )
    if not callable(attack):
        raise AbsynthError(f"An attack was given as a {type(attack).__name__}; {ADVICE}.")
    asked = takes(attack)
    if asked.by_name or len(asked.required) > 3:
        missing = (*asked.required[3:], *asked.by_name)
        fixed = ", ".join(f"{one}=..." for one in missing)
        raise AbsynthError(
            f"The attack {name} needs {', '.join(missing)} besides model, images and labels; fix that with "
            f"functools.partial({name}, {fixed})."
        )
    if len(asked.required) == 2 and asked.most == 2:
        raise AbsynthError(
            f"The attack {name} takes {' and '.join(asked.required)} alone, and an attack is called with the "
            f"model, the images and the labels; {ADVICE}."
        )


def call(attack: Any, model: Handed, images: Images, labels: Labels, sizes: Sequence[float]) -> Any:
    """What an attack answers.

    Args:
        attack: What :func:`check_attack` lets pass.
        model: What it may ask.
        images: The clean images, which it may change.
        labels: Their classes, which it may change.
        sizes: For an attack of foolbox that has to be told a size.

    Raises:
        AbsynthError: If what was given makes no attack, or foolbox's attack does not fit the sizes.
    """
    if is_foolbox(attack):
        return ask_foolbox(attack, model, images, labels, sizes)
    asked = takes(attack)
    if len(asked.required) != 1 and not _is_art_class(attack):
        return attack(model, images, labels)
    made = attack(art_classifier(model, images)) if _is_art_class(attack) else attack(model)
    if is_foolbox(made):
        return ask_foolbox(made, model, images, labels, sizes)
    if callable(generate := getattr(made, "generate", None)):
        return _generate(made, generate, images, labels, model.classes())
    if not callable(made) or isinstance(made, type):
        what = f"the class {made.__name__}" if isinstance(made, type) else f"a {type(made).__name__}"
        raise AbsynthError(f"The attack {name_of(attack)} was given a model and made {what}; {ADVICE}.")
    if len(takes(made).required) == 3:
        return made(model, images, labels)
    return made(images, labels)


def art_classifier(model: Handed, images: Images) -> Any:
    """The model as the Adversarial Robustness Toolbox takes it.

    Args:
        model: What is asked.
        images: That it is asked about.
    """
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=model.classes(),
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.is_cuda else "cpu",
    )


def _generate(made: Any, generate: Callable[..., Any], images: Images, labels: Labels, classes: int) -> Any:
    """What an attack of ART answers, all images at a time where it can be told how many that are."""
    if hasattr(made, "batch_size") and hasattr(made, "set_params"):
        made.set_params(batch_size=len(images))
    one_hot = np.eye(classes, dtype=np.float32)[labels.cpu().numpy()]
    return generate(x=images.detach().cpu().numpy(), y=one_hot)


def _is_art_class(attack: Any) -> bool:
    """Whether it is a class of ART, perhaps with some of its settings fixed."""
    made = attack.func if isinstance(attack, partial) else attack
    return isinstance(made, type) and hasattr(made, "generate") and hasattr(made, "_estimator_requirements")


def name_of(attack: Any) -> str:
    """What to call an attack that has no name given: that of its function or class.

    >>> name_of(partial(takes))
    'takes'
    """
    while isinstance(attack, partial):
        attack = attack.func
    name = str(getattr(attack, "__name__", type(attack).__name__))
    return "lambda" if name == "<lambda>" else name


def _origins(kind: type) -> set[str]:
    """The packages that a class and those that it is made from come from."""
    return {one.__module__.partition(".")[0] for one in kind.__mro__}
