"""What every method of certifying does: the one protocol behind the front door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import nn

from absynth.certify.certificate import Certificate
from absynth.norms import NORMS, Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels


@dataclass(frozen=True)
class Scope:
    """What a method can certify of a model.

    Attributes:
        proven: Whether its radii are proven; else they are estimates.
        norms: Norms in which it has radii.
        exact: Norms in which it finds the smallest adversarials as well, if asked to.
        confidence: The probability that the radius of an image holds; None if it is certain.
        at_once: Images after which a long run keeps what it has, at the most.
    """

    proven: bool = True
    norms: tuple[Norm, ...] = NORMS
    exact: tuple[Norm, ...] = ()
    confidence: float | None = None
    at_once: int = 500


@runtime_checkable
class Prover(Protocol):
    """A method of certifying, made ready for one model that is asked about again and again.

    The model must stay as it is meanwhile.
    """

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
        """The certificates of the same images in several norms, so that these can share what they need.

        The certificate of an image must not depend on the other images.

        Args:
            images: Checked: some, float32 in [0, 1].
            labels: One an image, not checked against the model's classes.
            norms: In which norms.
            exact: Also find the smallest adversarials, in the norms where the method does.
            batch_size: Images certified together at the most.
            progress: Display to report to.

        Raises:
            AbsynthError: If the images or labels do not suit the model, or the method lacks a norm.
        """


@runtime_checkable
class Method(Protocol):
    """A way of certifying: a frozen dataclass, whose fields are its settings.

    One that cannot certify every model may have a method ``why_not(model) -> str`` as well: a sentence on
    what it is in a model that it has no scope for.

    Attributes:
        name: In :data:`absynth.certify.provers.METHODS` and on the command line.
        automatic: Whether it is taken where no method is asked for: it certifies the model itself, and not a
            classifier that is made from it.
    """

    name: ClassVar[str]
    automatic: ClassVar[bool]

    def scope(self, model: nn.Module) -> Scope | None:
        """What the method can certify of a model; None if nothing. It is found out without computing."""

    def prover(self, model: nn.Module) -> Prover:
        """The method made ready for a model.

        Args:
            model: One that the method has a scope for.

        Raises:
            AbsynthError: If there is something wrong with the model.
        """
