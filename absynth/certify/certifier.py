"""The front door: certify a model's decisions on a batch of images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from absynth.certify.arguments import check_images
from absynth.certify.certificate import Certificate
from absynth.certify.provers import prover_for
from absynth.norms import parse_norm
from absynth.progress import Progress

BATCH_SIZE = 64
"""Images certified together, unless the memory holds fewer."""


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str = "l2",
    exact: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Certificate:
    """Proves how far each image can be changed without changing the model's decision.

    Works for classifiers by prototypes (codebook ABS, nearest neighbour), alone or behind the threshold at ½.
    For a model that infers latents (continuous ABS) it gives the paper's L2 estimate, which is no proof.

    Args:
        model: The classifier.
        images: Shape (batch, channel, height, width), float32 in [0, 1].
        labels: The true classes, int64 of shape (batch,).
        norm: ``"l2"``, ``"l1"``, ``"linf"`` or ``"l0"``.
        exact: Also find the smallest adversarials, which shows how tight the radii are. For L0, and behind
            the threshold, that is a combinatorial problem: the answer is then the bound, with a warning and
            ``exact=False``.
        batch_size: Images certified together, if the memory holds so many (:mod:`absynth.memory`).
        progress: Display to report to.

    Raises:
        AbsynthError: If the model cannot be certified, or the arguments are wrong.
    """
    parse_norm(norm)
    check_images(images, labels)
    return Certifier(model).certify(images, labels, norm, exact, batch_size, progress)


class Certifier:
    """Certifies the decisions of one model again and again, and reads and checks it only once.

    For prototypes that is most of the time that a single image takes. Where the same images are asked about
    again, in another norm, they are not compared with the prototypes again. The model must stay as it is
    meanwhile.

    Args:
        model: As :func:`certify` takes it.

    Raises:
        AbsynthError: If the model cannot be certified.
    """

    def __init__(self, model: nn.Module) -> None:
        self.prover = prover_for(model)

    def certify(
        self,
        images: Tensor,
        labels: Tensor,
        norm: str = "l2",
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
        images: Tensor,
        labels: Tensor,
        norms: Sequence[str],
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> list[Certificate]:
        """The certificates of the same images in several norms, each as :func:`certify` gives it.

        The images are compared with the prototypes once for all of them.

        Raises:
            AbsynthError: If the arguments are wrong.
        """
        chosen = [parse_norm(norm) for norm in norms]
        check_images(images, labels)
        return self.prover.prove(
            images, labels, chosen, exact=exact, batch_size=batch_size, progress=progress
        )
