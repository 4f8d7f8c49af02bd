"""What every method of certifying does: the one protocol behind the front door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
    """

    proven: bool = True
    norms: tuple[Norm, ...] = NORMS
    exact: tuple[Norm, ...] = ()


@runtime_checkable
class Prover(Protocol):
    """A method of certifying, made ready for one model that is asked about again and again.

    The model must stay as it is meanwhile.

    Args:
        model: One that the method has a scope for.

    Raises:
        AbsynthError: If there is something wrong with the model.
    """

    def __init__(self, model: nn.Module) -> None: ...

    @staticmethod
    def scope(model: nn.Module) -> Scope | None:
        """What the method can certify of a model; None if nothing. It is found out without computing."""

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
