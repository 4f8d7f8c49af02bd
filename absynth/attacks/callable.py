"""An attack of others, of any kind, as an attack of this package: counted, held to a budget, and verified."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from absynth.attacks.base import Attack
from absynth.attacks.batch import keep_closer, size
from absynth.attacks.conventions import call, check_attack, makes_without_a_model, name_of
from absynth.attacks.handed import Ledger, Stopped, unchanged, watched
from absynth.attacks.target import Target
from absynth.errors import AbsynthError, first_line
from absynth.inputs import floats_as_tensor, whole_number
from absynth.norms import Norm, parse_norm
from absynth.shapes import Images

PACKAGE = Path(__file__).parents[1]
"""Where this package lies."""


@dataclass(frozen=True)
class Callable(Attack):
    """An attack that others wrote: a function, or one of foolbox, torchattacks, ART or adversarial-library.

    It gets copies of the images, and a model in evaluation mode that counts its questions. The result is the
    closest of what the attack returned and of what it asked about, as far as the model misclassifies it; the
    model, and nobody else, is asked about that. Nothing is added to the search, in particular no pull to the
    boundary.

    The questions are counted for each image. So the attack has to ask about all the images that it was given
    at once and in their order; one that asks about fewer, or that breaks on some, is run once more, on each
    image by itself, and the first try counts for nothing.

    Attributes:
        attack: A function of (model, images, labels) that returns adversarials; an attack object of foolbox;
            or what makes an attack of (images, labels), or of ART, for a given model, such as a class.
        norm: That the result is measured in; the attack should minimise it.
        name: Name in records and remarks; by default that of the function or class.
        budget: Forward and backward passes that an image may take, together. Then the attack is stopped, and
            what it asked about before counts. The looks of this package are not part of it.
        sizes: For an attack of foolbox that has to be told a size: those that it is run at.
        parameters: What it was made with, for records.

    Raises:
        AbsynthError: If the attack cannot be called as one, or another argument is not as described.

    >>> def darken(model, images, labels):
    ...     return 0 * images
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> weights = {"1.weight": torch.tensor([[1.0] * 4, [0.0] * 4]), "1.bias": torch.tensor([0.0, 0.5])}
    >>> model.load_state_dict(weights)
    <All keys matched successfully>
    >>> result = Callable(darken, "linf")(model, torch.full((1, 1, 2, 2), 0.25), torch.tensor([0]))
    >>> result.distances
    tensor([0.2500], dtype=torch.float64)
    """

    attack: Any
    norm: Norm = "l2"
    name: str = ""
    budget: int | None = None
    sizes: Any = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sees that it can be run."""
        attack = self.attack() if makes_without_a_model(self.attack) else self.attack
        check_attack(attack)
        given = dict[str, Any](
            attack=attack,
            norm=parse_norm(self.norm),
            name=self.name or name_of(attack),
            budget=None if self.budget is None else whole_number(self.budget, "budget"),
            sizes=_sizes(self.sizes),
        )
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, the budget, and the sizes if there are any."""
        sizes = {"sizes": list(self.sizes)} if self.sizes else {}
        return {**self.parameters, "budget": self.budget, **sizes}

    def run(self, target: Target, images: Images) -> Images:
        """Runs the attack on all images, or on one after the other.

        Raises:
            AbsynthError: If the attack breaks, returns no images, or asks the model behind our back.
        """
        forwards, backwards = target.queries.clone(), target.backwards.clone()
        broken: dict[int, AbsynthError] = {}
        try:
            found = [self._attempt(target, images)]
        except _ApartError as reason:
            if len(images) == 1:
                raise AbsynthError(str(reason)) from reason.__cause__
            target.queries.copy_(forwards)
            target.backwards.copy_(backwards)
            if target.recorder is not None:
                target.recorder.restart()
            found = []
            for row in torch.arange(len(images), device=images.device).split(1):
                try:
                    found.append(self._attempt(target.select(row), images[row]))
                except _ApartError as error:
                    broken[int(row)] = AbsynthError(str(error))
                    found.append(_Found.nothing(images[row]))
            if len(broken) == len(images):
                # of the batch, what it broke on; unless that was not even asked for
                raise (
                    broken[0] if isinstance(reason, _OutOfStepError) else AbsynthError(str(reason))
                ) from None
            if not broken:
                target.remarks.append(f"{str(reason).rstrip('.')}; it was run image by image.")
        if broken:
            first = next(iter(broken.values()))
            target.remarks.append(
                f"The attack '{self.name}' broke on {len(broken)} of {len(images)} images, where it counts "
                f"as not successful ({str(first).rstrip('.')})."
            )
        whole = _Found(*(torch.cat(parts) for parts in zip(*(one.parts for one in found), strict=True)))
        return self._closest(target, images, whole)

    def _attempt(self, target: Target, images: Images) -> _Found:
        """What the attack makes of some images at once.

        Raises:
            _ApartError: If it breaks, or asks about other numbers of images.
            AbsynthError: If what it does would be wrong for any images.
        """
        ledger = Ledger(target, images, self.norm, self.budget)
        answer, error = None, None
        with unchanged(target.model, self.name), watched(ledger) as handed, torch.enable_grad():
            try:
                answer = call(self.attack, handed, images.clone(), target.labels.clone(), self.sizes)
            except Stopped:
                pass
            except AbsynthError:
                raise
            except (Exception, SystemExit) as raised:  # whatever a user's code may raise
                error = raised
        if ledger.went_past:
            raise AbsynthError(
                f"The attack '{self.name}' asks the model itself and not the one that it is given, or a "
                "copy, so that its queries cannot be counted; let it ask the model that it gets."
            )
        if ledger.out_of_step:
            raise _OutOfStepError(
                f"The attack '{self.name}' asks about other images at a time than it is given"
            )
        if ledger.spent:
            return _Found(images, ledger.best, ledger.best_size)
        if error is not None:
            raise _ApartError(
                f"The attack '{self.name}' raises {type(error).__name__}{_where(error)}: {first_line(error)}."
            ) from error
        return _Found(self._read(answer, images), ledger.best, ledger.best_size)

    def _read(self, answer: Any, images: Images) -> Images:
        """The adversarials in an attack's answer.

        Raises:
            _ApartError: If there are none of the right shape.
        """
        answer = floats_as_tensor(answer)
        if isinstance(answer, Tensor) and answer.shape == images.shape and answer.is_floating_point():
            return answer.detach().to(images).clone()
        if isinstance(answer, Tensor | np.ndarray):
            what = f"{answer.dtype} values of shape {tuple(answer.shape)}"
        else:
            what = f"a {type(answer).__name__}"
        raise _ApartError(
            f"The attack '{self.name}' answers with {what}; it must return floating-point images of the "
            f"shape {tuple(images.shape)} that it was given."
        )

    def _closest(self, target: Target, images: Images, found: _Found) -> Images:
        """The closest adversarials returned or asked about, and remarks on what was no image."""
        returned, best, best_size = found.parts
        finite = returned.isfinite().flatten(1).all(dim=1)
        inside = ((returned >= 0) & (returned <= 1)).flatten(1).all(dim=1)
        for wrong, what, then in (
            (~finite, "NaN or infinite pixels", "these count for nothing"),
            (finite & ~inside, "pixels outside [0, 1]", "these were clipped, and the model asked about that"),
        ):
            if wrong.any():
                target.remarks.append(
                    f"The attack '{self.name}' returns {what} for {int(wrong.sum())} of {len(images)} "
                    f"images; {then}."
                )
        returned = torch.where(finite[:, None, None, None], returned, images).clamp(0, 1)
        moved = size(returned - images, self.norm)
        best, _ = keep_closer(best, best_size, returned, moved, target.is_adversarial(returned))
        return best


def _sizes(given: Any) -> tuple[float, ...]:
    """Sizes in ascending order.

    Raises:
        AbsynthError: If they are no numbers above 0.
    """
    try:
        sizes = tuple(sorted(float(one) for one in given))
    except (TypeError, ValueError):
        sizes = (0.0,)
    if not all(0 < one < torch.inf for one in sizes):
        raise AbsynthError(f"The sizes are {given!r}; give a list of numbers above 0, as sizes=[0.1, 0.2].")
    return sizes


@dataclass(frozen=True)
class _Found:
    """What an attack returned, and the closest that it asked about with its size."""

    returned: Images
    best: Images
    best_size: Float[Tensor, "batch"]

    @property
    def parts(self) -> tuple[Images, Images, Float[Tensor, "batch"]]:
        return self.returned, self.best, self.best_size

    @staticmethod
    def nothing(images: Images) -> _Found:
        """What it found where it broke."""
        return _Found(images, images, torch.full_like(images[:, 0, 0, 0], torch.inf))


def _where(error: BaseException) -> str:
    """The last line that took part and is neither of this package nor of an installed one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and not path.is_relative_to(PACKAGE):
            return f" in line {frame.lineno} of {path.name}"
    return ""


class _ApartError(Exception):
    """Says why the attack has to be run on each image by itself."""


class _OutOfStepError(_ApartError):
    """Says so where that is only for the sake of counting."""


def as_attacks(given: Any, norm: Norm, budget: int | None = None) -> tuple[Attack, ...]:
    """Attacks of any kind as attacks of this package, each with a name of its own.

    Args:
        given: Attacks of this package in this norm, or what :class:`Callable` takes.
        norm: That the others are measured in.
        budget: Of the others.

    Raises:
        AbsynthError: If there is none, or one is for another norm or no attack.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise AbsynthError("The attacks are no list with at least one in it; give attacks=[my_attack].")
    attacks: dict[str, Attack] = {}
    for one in given:
        made = one() if makes_without_a_model(one) else one
        attack = made if isinstance(made, Attack) else Callable(made, norm, name_of(one), budget)
        if attack.norm != norm:
            raise AbsynthError(f"The attack '{attack.name}' is for {attack.norm}; give norm='{attack.norm}'.")
        if attack.name in attacks:
            raise AbsynthError(
                f"Two attacks are called '{attack.name}'; give one another name, as "
                f"absynth.attacks.Callable(attack, '{norm}', name='another')."
            )
        attacks[attack.name] = attack
    return tuple(attacks.values())
