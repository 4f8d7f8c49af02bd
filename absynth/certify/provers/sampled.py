"""Certificates of what a model decides by majority over random copies of an image: what all kinds share.

The base model f sees copies of an image x that were changed at random, and g(x) = argmax_c P(f(copy) = c) is
the randomised classifier. The copies say with confidence how often f answers otherwise than with the class of
g, and how fast that probability can grow as x moves is known from the way in which copies are made.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.stats import beta
from torch import Tensor, nn

from absynth.certify.certificate import Certificate
from absynth.certify.prover import Scope
from absynth.errors import AbsynthError
from absynth.inputs import check_classes, whole_number
from absynth.memory import at_once
from absynth.models.asked import as_module, serve
from absynth.models.frozen import frozen
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels, Logits

IMAGES_AT_ONCE = 10
"""Images after which a long run keeps what it has: one can take a minute."""

COPIES_AT_ONCE = 500
"""Copies that the model is asked about together, at the most; the draws do not depend on it."""

BYTES_A_VALUE = 256
"""Of memory that a copy takes for each of its values, with what a network computes from it."""

UPWARDS = 1 + 1e-9
"""Makes up for the rounding of a quantile of the beta distribution."""

TOLERANCE = 1e-3
"""How far two answers to the same copy may differ by rounding, as a share of the largest logit."""

NO_EXACT = "A randomised classifier has no exact radius; this is the certified lower bound."
"""The warning where an exact radius was asked for."""

Shape = tuple[int, int, int]
"""Channels, rows and columns of an image."""


@dataclass(frozen=True)
class Draws:
    """Random changes: a copy of the image x is x · kept + added.

    Attributes:
        kept: Of each value 1 if the copy has it, else 0; may have a single entry along any dimension.
        added: One for each copy.
    """

    kept: Float[Tensor, "#draw #channel #height #width"]
    added: Float[Tensor, "draw #channel #height #width"]


@dataclass(frozen=True)
class Sampled(ABC):
    """What the methods share that certify a majority over random copies, and their common settings.

    The first copies choose the class; the others, which are independent of them, bound how often the model
    answers otherwise (Cohen et al. 2019, arXiv 1902.02918, section 3.2).

    Attributes:
        first: Copies of an image that choose the class (n₀ there).
        samples: Copies that bound the probability (n there).
        alpha: The probability, at the most, that an image gets a radius which does not hold.
        seed: Of all draws. Those of an image depend on nothing else but the image.

    Raises:
        AbsynthError: If a setting is out of its range.
    """

    name: ClassVar[str]
    automatic: ClassVar[bool] = False

    first: int = 100
    samples: int = 10_000
    alpha: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        """Sees that the settings make sense."""
        whole_number(self.first, "setting 'first'")
        whole_number(self.samples, "setting 'samples'")
        whole_number(self.seed, "setting 'seed'", least=0)
        if not 0 < self.alpha < 0.5:
            raise AbsynthError(f"The setting 'alpha' is {self.alpha}; it must lie between 0 and 0.5.")

    def scope(self, model: nn.Module) -> Scope | None:
        """Any classifier, in the norms that the copies serve."""
        return Scope(norms=self.norms, confidence=1 - self.alpha, at_once=IMAGES_AT_ONCE)

    def prover(self, model: nn.Module) -> SampledProver:
        """The method made ready for a model.

        Raises:
            AbsynthError: If the model cannot be called.
        """
        return SampledProver(self.settled(model), as_module(model))

    def settled(self, model: nn.Module) -> Sampled:
        """The method with those settings that it takes from the model."""
        return self

    @property
    @abstractmethod
    def norms(self) -> tuple[Norm, ...]:
        """In which there are radii."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """The decision rule that is certified."""

    def check_shape(self, shape: Shape) -> None:  # noqa: B027 (most have nothing to check)
        """Sees that there are copies of images of this shape.

        Raises:
            AbsynthError: If not.
        """

    @abstractmethod
    def draw(self, shape: Shape, count: int, generator: np.random.Generator) -> Draws:
        """Random changes, float32 or float64, each independent of the others.

        The same ones are drawn in one call or in several.

        Args:
            shape: Of an image.
            count: How many.
            generator: Source of the draws.
        """

    @abstractmethod
    def radius(self, others: float, norm: Norm, shape: Shape) -> float:
        """The radius within which the majority stays, rounded down.

        Args:
            others: An upper bound on the probability of all other classes, below ½.
            norm: One of :attr:`norms`.
            shape: Of the image.
        """

    def __str__(self) -> str:
        """The name with all settings."""
        settings = (f"{field.name}={getattr(self, field.name)}" for field in fields(self))
        return " ".join((self.name, *settings))


class SampledProver:
    """Certifies the majority of one model's answers to random copies.

    Args:
        method: With all its settings.
        model: The base model.
    """

    def __init__(self, method: Sampled, model: nn.Module) -> None:
        self.method, self.model = method, model

    @torch.no_grad()
    def prove(
        self,
        images: Images,
        labels: Labels,
        norms: Sequence[Norm],
        *,
        exact: bool,
        batch_size: int,
        progress: Progress | None,
    ) -> list[Certificate]:
        """The certificates, all of the same copies.

        Images are looked at one by one, as each has its copies. Where the class that the first copies choose
        is not the label, no others are drawn.

        Raises:
            AbsynthError: If there are no radii in a norm, or the model answers NaN, at random or by the rest
                of the batch.
        """
        method, shape = self.method, cast(Shape, tuple(images.shape[1:]))
        for norm in norms:
            if norm not in method.norms:
                raise AbsynthError(f"'{method}' gives no radii in {norm}; ask for {', '.join(method.norms)}.")
        method.check_shape(shape)
        shown = progress or Progress(disable=True)
        tasks = [shown.add_task(f"certify {norm}", total=len(images), note="") for norm in norms]
        predictions, radii = [], []
        with frozen(self.model):
            served = serve(self.model, images)
            check_classes(labels, served.classes)
            majority = Majority(method, served.model, served.classes)
            majority.check(served.given.seen[0])
            for image, label in zip(served.given.seen, labels.tolist(), strict=True):
                generator = generator_for(image, method.seed)
                predictions.append(int(majority.votes(image, method.first, generator).argmax()))
                others = 1.0
                if predictions[-1] == label:
                    votes = majority.votes(image, method.samples, generator)
                    others = most_others(int(votes[label]), method.samples, method.alpha)
                radii.append([method.radius(others, norm, shape) if others < 0.5 else 0.0 for norm in norms])
                for task in tasks:
                    shown.advance(task)
        radius = torch.tensor(radii, dtype=torch.float64, device=images.device)
        prediction = torch.tensor(predictions, device=images.device)
        return [
            Certificate(
                norm,
                radius[:, number].clone(),
                prediction.clone(),
                str(method),
                False,
                method.rule,
                NO_EXACT if exact else None,
                confidence=1 - method.alpha,
            )
            for number, norm in enumerate(norms)
        ]


@dataclass(frozen=True)
class Majority:
    """A model that is asked about random copies.

    Attributes:
        method: How copies are made.
        model: In evaluation mode, as :func:`absynth.models.asked.serve` gives it.
        classes: How many it tells apart.
    """

    method: Sampled
    model: Callable[[Images], Logits]
    classes: int

    def votes(
        self, image: Float[Tensor, "channel height width"], count: int, generator: np.random.Generator
    ) -> Int64[Tensor, "class"]:
        """How many copies of an image get each class.

        Args:
            image: On the device of the model, in the type that it takes.
            count: How many copies.
            generator: Source of the draws.

        Raises:
            AbsynthError: If the model answers NaN.
        """
        found = torch.zeros(self.classes, dtype=torch.int64, device="cpu")
        for copies in self._copies(image, count, generator):
            logits = self.model(copies)
            if bool(logits.isnan().any()):
                raise AbsynthError(
                    "The model answers NaN for random copies of an image, which decides nothing; mend it so "
                    f"that it answers any real numbers, as '{self.method.name}' asks about."
                )
            found += torch.bincount(logits.argmax(1), minlength=self.classes).cpu()
        return found

    def check(self, image: Float[Tensor, "channel height width"]) -> None:
        """Sees that the answer to a copy depends on the copy alone.

        Args:
            image: Any.

        Raises:
            AbsynthError: If it does not.
        """
        count = min(self.method.first, COPIES_AT_ONCE)
        copies = next(self._copies(image, count, generator_for(image, self.method.seed)))
        logits = self.model(copies)
        half = copies[: (len(copies) + 1) // 2].flip(0)
        again = self.model(half).flip(0)
        finite = logits[logits.isfinite()].abs()
        slack = TOLERANCE * (float(finite.max()) if len(finite) else 1.0)
        if not torch.allclose(logits[: len(again)], again, rtol=0, atol=slack, equal_nan=True):
            raise AbsynthError(
                "The model answers at random or by the rest of the batch; an image must get the same answer "
                "whenever and with whatever others it is asked about: take the randomness out."
            )

    def _copies(
        self, image: Float[Tensor, "channel height width"], count: int, generator: np.random.Generator
    ) -> Iterator[Images]:
        """Copies of an image, in pieces."""
        size = at_once(BYTES_A_VALUE * image.numel(), COPIES_AT_ONCE)
        for start in range(0, count, size):
            draws = self.method.draw(cast(Shape, tuple(image.shape)), min(size, count - start), generator)
            yield image * draws.kept.to(image) + draws.added.to(image)


def generator_for(image: Tensor, *seeds: int) -> np.random.Generator:
    """A generator that depends on the values of an image, and on seeds.

    Args:
        image: Any values; those that float32 holds alike give the same generator.
        seeds: Whole numbers, at least 0.
    """
    values = np.ascontiguousarray(image.detach().float().cpu().numpy())
    digest = hashlib.sha256(values.tobytes()).digest()
    return np.random.default_rng([*seeds, *np.frombuffer(digest, dtype="<u4").tolist()])


def most_others(votes: int, samples: int, alpha: float) -> float:
    """The most that the probability of all other classes is with confidence: Clopper and Pearson's bound.

    With f = samples − votes it is the largest q with P(Binomial(samples, q) ≤ f) ≥ alpha, which is a quantile
    of a beta distribution (Clopper & Pearson 1934, Biometrika 26), rounded up. Whatever the true probability
    is, draws for which it exceeds this bound come up with probability alpha at the most.

    Args:
        votes: Draws of the class.
        samples: Draws in all.
        alpha: One minus the confidence.

    >>> round(most_others(100, 100, 0.001), 6), round(1 - 0.001 ** (1 / 100), 6)
    (0.066746, 0.066746)
    """
    if votes == 0:
        return 1.0
    bound: Any = beta.isf(alpha, samples - votes + 1, votes)
    return min(1.0, float(bound) * UPWARDS)
