"""The front door: certify a model's decisions on a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absynth.certify.as_given import for_given
from absynth.certify.certificate import Certificate
from absynth.certify.prover import Method
from absynth.certify.provers import prover_for
from absynth.errors import AbsynthError
from absynth.inputs import Given, take_images, take_labels
from absynth.models.asked import as_module
from absynth.norms import Norm, parse_norm
from absynth.progress import Progress
from absynth.shapes import Labels
from absynth.surroundings import standard

BATCH_SIZE = 64
"""Images certified together, unless the memory holds fewer."""


def certify(
    model: Any,
    images: Any,
    labels: Any,
    norm: Any = "l2",
    exact: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    method: Method | str | None = None,
) -> Certificate:
    """Proves how far each image can be changed without changing the model's decision.

    Works for classifiers by prototypes (codebook ABS, nearest neighbour), alone or behind the threshold at ½,
    and for networks of known operations (:class:`absynth.certify.provers.bounds.Crown`). For a model that
    infers latents (continuous ABS) it gives the paper's L2 estimate, which is no proof.

    Args:
        model: The classifier: a module, or a function from images to logits.
        images: Shape (batch, channel, height, width), in [0, 1], in any form of :mod:`absynth.inputs`.
            The model sees float32; where that changes a value, the radius is reduced accordingly
            (:func:`absynth.certify.as_given.for_given`).
        labels: The true classes, whole numbers of shape (batch,).
        norm: ``"l2"``, ``"l1"``, ``"linf"`` or ``"l0"``, or the order of one.
        exact: Also find the smallest adversarials, which shows how tight the radii are. An image takes 30
            seconds at the most, or as many as ``method=Pairs(seconds=...)`` says
            (:class:`absynth.certify.provers.prototypes.Pairs`); ``gap`` and ``closed`` tell what is left. In
            L0 they are found behind the threshold alone, and of one channel: elsewhere the answer is the
            bound, with a warning and ``exact=False``.
        batch_size: Images certified together, if the memory holds so many (:mod:`absynth.memory`).
        progress: Display to report to.
        method: One of :data:`absynth.certify.provers.METHODS`, with its settings or by name; by default the
            best that certifies the model itself.

    Raises:
        AbsynthError: If the model cannot be certified, or the arguments are wrong.
    """
    chosen, given, numbers = _taken(images, labels, [norm], batch_size)
    return Certifier(model, method)._prove(given, numbers, chosen, exact, batch_size, progress)[0]


class Certifier:
    """Certifies the decisions of one model again and again, and reads and checks it only once.

    For prototypes that is most of the time that a single image takes. Where the same images are asked about
    again, in another norm, they are not compared with the prototypes again. The model must stay as it is
    meanwhile.

    Args:
        model: As :func:`certify` takes it.
        method: Likewise.

    Raises:
        AbsynthError: If the model cannot be certified.
    """

    def __init__(self, model: Any, method: Method | str | None = None) -> None:
        with standard(gradients=False, exact=True):
            self.prover = prover_for(as_module(model), method)

    def certify(
        self,
        images: Any,
        labels: Any,
        norm: Any = "l2",
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> Certificate:
        """What :func:`certify` returns, which has the arguments in full.

        Raises:
            AbsynthError: If the arguments are wrong.
        """
        return self.certify_in(images, labels, (norm,), exact, batch_size, progress)[0]

    def certify_in(
        self,
        images: Any,
        labels: Any,
        norms: Sequence[Any],
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> list[Certificate]:
        """The certificates of the same images in several norms, each as :func:`certify` gives it.

        The images are compared with the prototypes once for all of them.

        Raises:
            AbsynthError: If the arguments are wrong.
        """
        chosen, given, numbers = _taken(images, labels, norms, batch_size)
        return self._prove(given, numbers, chosen, exact, batch_size, progress)

    def _prove(
        self,
        given: Given,
        labels: Labels,
        norms: Sequence[Norm],
        exact: bool,
        batch_size: int,
        progress: Progress | None,
    ) -> list[Certificate]:
        """The certificates of what was taken."""
        with standard(gradients=False, exact=True):
            proven = self.prover.prove(
                given.seen, labels, norms, exact=exact, batch_size=batch_size, progress=progress
            )
            return [for_given(one, given) for one in proven] if given.changed else proven


def _taken(
    images: Any, labels: Any, norms: Sequence[Any], batch_size: int
) -> tuple[list[Norm], Given, Labels]:
    """Norms, images and labels as a prover takes them.

    Raises:
        AbsynthError: If they cannot be taken.
    """
    if batch_size < 1:
        raise AbsynthError(f"The batch size is {batch_size}; it must be at least 1.")
    with standard(gradients=False):
        chosen, given = [parse_norm(norm) for norm in norms], take_images(images)
        return chosen, given, take_labels(labels, len(given.seen), given.home)
