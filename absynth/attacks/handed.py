"""The model as an attack of others is handed it: every question is counted, and what it finds is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.attacks.averaged import Averaged
from absynth.attacks.batch import keep_closer, size
from absynth.attacks.probabilities import LogProbabilities
from absynth.attacks.target import Target, misclassified, of_images_alone, on_backward
from absynth.errors import AbsynthError
from absynth.models.asked import Asked, Function
from absynth.models.held import tensors_of
from absynth.norms import Norm
from absynth.shapes import Images

NEARER = 0.5
"""A point is taken for another image's where it is nearer to that one than this share of its own distance."""

LARGEST = 2**26
"""Bytes of the largest tensor of a model that is looked at for changes."""


class Stopped(BaseException):
    """Ends an attack from within a question; no exception of those that attacks catch themselves."""


@dataclass
class Ledger:
    """What one run of an attack has asked and found.

    With several images, an answer belongs to the image in the same place, so an attack has to ask about all
    of them at once, in their order. With a single one, every point that it asks about is for that image.

    Attributes:
        target: The model with the labels, which counts.
        images: The clean images.
        norm: Of the distances.
        budget: Forward and backward passes that an image may take, together; None for any number.
        best: The closest adversarial asked about for each image.
        best_size: Its size, infinite where there is none.
        passes: What an image took so far.
        spent: Whether the attack wanted more than the budget.
        out_of_step: Whether it asked about other images than those that it was given, so that nobody can say
            which image an answer is for.
        went_past: Whether it asked the model by itself, or copied it.
    """

    target: Target
    images: Images
    norm: Norm
    budget: int | None
    best: Images = field(init=False)
    best_size: Float[Tensor, "batch"] = field(init=False)
    passes: int = 0
    spent: bool = False
    out_of_step: bool = False
    went_past: bool = False
    _asking: bool = False

    def __post_init__(self) -> None:
        """Begins with nothing found."""
        self.best = self.images.clone()
        self.best_size = torch.full_like(self.images[:, 0, 0, 0], torch.inf)

    @property
    def stopped(self) -> bool:
        """Whether what the attack returned in spite of it does not count."""
        return self.spent or self.out_of_step or self.went_past

    def ask(self, points: Tensor) -> Tensor:
        """The model's logits; the passes are counted, and the closest adversarials kept.

        Args:
            points: Images to ask about, as many as the attack was given.

        Raises:
            Stopped: If the budget is used up, or it cannot be said which images these are.
            ValueError: If they are no images of the shape of the clean ones.
        """
        if points.shape[1:] != self.images.shape[1:]:
            shapes = f"{tuple(points.shape)} in place of {tuple(self.images.shape)}"
            raise ValueError(f"it asks the model about images of shape {shapes}")
        if self.stopped or not self._in_step(points):
            raise Stopped
        alone = len(self.images) == 1
        looks = len(points) if alone else 1
        self._spend(looks)
        rows = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        target = self.target.select(rows) if alone else self.target
        self._asking = True
        try:
            logits: Tensor = target(points)
        finally:
            self._asking = False
        self._keep(points.detach(), logits.detach())
        on_backward(logits, partial(self._differentiate, looks))
        return logits

    def _differentiate(self, passes: int) -> None:
        try:
            self._spend(passes)
        except Stopped:
            self.target.count_backward(-passes)  # which are not done
            raise

    def classes(self) -> int:
        """How many classes the model tells apart."""
        self._asking = True
        try:
            with torch.no_grad():
                return int(self.target.model(self.images[:1]).shape[1])
        finally:
            self._asking = False

    def _in_step(self, points: Images) -> bool:
        """Whether each point can be said to be for one of the images, which is noted."""
        alone = len(self.images) == 1
        fits = alone or len(points) == len(self.images)
        if fits and not alone and self.budget is not None:
            # in another order, one image could use up what is allowed for all
            distances = torch.cdist(points.detach().flatten(1), self.images.flatten(1))
            fits = not bool((distances.amin(dim=1) < NEARER * distances.diagonal()).any())
        self.out_of_step |= not fits
        return fits

    def _spend(self, passes: int) -> None:
        if self.budget is not None and self.passes + passes > self.budget:
            self.spent = True
            raise Stopped
        self.passes += passes

    @torch.no_grad()
    def _keep(self, points: Images, logits: Tensor) -> None:
        if len(points) == 0 or logits.ndim != 2 or len(logits) != len(points):
            return
        labels = self.target.labels.expand(len(points))
        inside = ((points >= 0) & (points <= 1)).flatten(1).all(dim=1)
        found = misclassified(logits, labels) & inside
        sizes = size(points - self.images, self.norm).masked_fill(~found, torch.inf)
        if len(self.images) == 1 and len(points) > 1:
            nearest = sizes.argmin(dim=0, keepdim=True)
            points, sizes, found = points[nearest], sizes[nearest], found[nearest]
        self.best, self.best_size = keep_closer(self.best, self.best_size, points, sizes, found)

    def copied(self) -> None:
        """What is called before the model is copied."""
        self.went_past = True

    def notice(self, *_: Any) -> None:
        """What is called before the model answers anybody.

        Raises:
            Stopped: If the question is none of those that are counted here.
        """
        if not self._asking:
            self.went_past = True
            raise Stopped


class Handed(nn.Module):
    """The model that an attack of others gets: always in evaluation mode, and no parameter gets a gradient.

    Args:
        ledger: Where its questions are written down.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.model = ledger.target.model
        self._ask: Callable[[Tensor], Tensor] = ledger.ask
        self._like = ledger.images
        self.classes = ledger.classes
        self._copied = ledger.copied
        super().train(False)

    def __deepcopy__(self, _: Any) -> Handed:
        """Nothing, as a copy could be asked without being counted."""
        self._copied()
        raise Stopped

    def train(self, mode: bool = True) -> Handed:
        """Nothing: attacks that switch the mode for themselves would change the classifier."""
        return self

    def forward(self, images: Any) -> Tensor:
        """The model's logits, of the type that it computes in."""
        return of_images_alone(self._ask, images.to(self._like))


@contextmanager
def watched(ledger: Ledger) -> Iterator[Handed]:
    """The model for an attack; meanwhile no other may ask the caller's own, which is not to escape the count.

    Args:
        ledger: Of this run.
    """
    handed = Handed(ledger)
    handles = [part.register_forward_pre_hook(ledger.notice) for part in _own(ledger.target.model)]
    try:
        yield handed
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unchanged(model: nn.Module, name: str) -> Iterator[None]:
    """Sees that an attack leaves the model's weights as they are, and puts them back if it does not.

    Tensors above :data:`LARGEST` are not looked at, as there may be no memory for a copy.

    Args:
        model: The model.
        name: Of the attack.

    Raises:
        AbsynthError: If it changed them.
    """
    kept = [
        (one, one.detach().clone())
        for one in tensors_of(model)
        if one.numel() * one.element_size() <= LARGEST and one.layout == torch.strided
    ]
    try:
        yield
    finally:
        changed = [(one, before) for one, before in kept if not _same(one, before)]
        with torch.no_grad():
            for one, before in changed:
                one.copy_(before)
    if changed:
        raise AbsynthError(
            f"The attack '{name}' changes the model's weights, so that it attacks another model; let it "
            "change a copy."
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values, NaN included."""
    return torch.equal(one.detach().nan_to_num(), other.nan_to_num())


def _own(model: nn.Module) -> list[nn.Module]:
    """The modules by which the caller's program may ask the model."""
    every = [model]
    while isinstance(model, Asked | Averaged | LogProbabilities):
        model = model.model
        every.append(model)
    if isinstance(model, Function):
        every += model.networks
    return [part for part in every if not isinstance(part, torch.jit.ScriptModule)]
