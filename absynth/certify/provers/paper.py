"""The paper's own bound for continuous ABS (Schott et al. 2019, section 5): an estimate, not a proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.certify.certificate import Certificate
from absynth.certify.prover import Scope
from absynth.errors import AbsynthError
from absynth.inputs import check_classes
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels, Losses

WARNING = (
    "This is the paper's estimate and not a proof: it assumes that the search over latents found the global "
    "minimum for every class."
)

LATENT_RULE = "argmin over c of min over z of |x - G_c(z)|^2 + |z|^2 / 2, the minimum over all z"
"""The decision rule that the paper's estimate is about."""


@dataclass(frozen=True)
class Paper:
    """The paper's estimate in L2, for models that infer latents."""

    name: ClassVar[str] = "paper"
    automatic: ClassVar[bool] = True

    def scope(self, model: nn.Module) -> Scope | None:
        """An estimate in L2 for a model that infers."""
        return Scope(proven=False, norms=("l2",)) if hasattr(model, "infer") else None

    def prover(self, model: nn.Module) -> PaperProver:
        """The estimate for a model."""
        return PaperProver(model)


class PaperProver:
    """The estimate for models that infer latents (continuous ABS), in L2.

    Args:
        model: What :func:`paper_certificate` takes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

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
        """The estimates; there are no exact ones.

        Raises:
            AbsynthError: If a norm is another than L2, or a label is no class of the model.
        """
        return [self._estimate(images, labels, norm, batch_size) for norm in norms]

    def _estimate(self, images: Images, labels: Labels, norm: Norm, batch_size: int) -> Certificate:
        """The estimate in one norm."""
        if norm != "l2":
            raise AbsynthError(
                f"The paper's estimate for continuous ABS is for l2, not {norm}; certify codebook-abs."
            )
        parts = [
            paper_certificate(self.model, some, some_labels)
            for some, some_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
        radius, prediction = (torch.cat(part) for part in zip(*parts, strict=True))
        return Certificate(norm, radius, prediction, "paper", False, LATENT_RULE, WARNING)


def paper_bound(
    losses: Losses, distances: Losses, own_distances: Float[Tensor, "batch"], labels: Labels
) -> Float[Tensor, "batch"]:
    """ε = min_{c ≠ y} max(0, (d_c² − s_y) / (2(‖x − G_y(z*)‖ + d_c))) in L2.

    A change of size ε raises the own loss to at most s_y + 2ε‖x − G_y(z*)‖ + ε², and lowers a rival's to no
    less than (d_c − ε)², with d_c = min_z ‖x − G_c(z)‖ without the prior; the two meet at ε.

    Args:
        losses: s_c of each class.
        distances: d_c of each class.
        own_distances: ‖x − G_y(z*)‖.
        labels: y.

    >>> losses, distances = torch.tensor([[4.0, 26.0]]), torch.tensor([[1.0, 5.0]])
    >>> paper_bound(losses, distances, torch.tensor([2.0]), torch.tensor([0]))
    tensor([1.5000], dtype=torch.float64)
    """
    own = losses.double().gather(1, labels[:, None])
    rivals = distances.double()
    bounds = (rivals.square() - own) / (2 * (own_distances.double()[:, None] + rivals))
    return bounds.scatter(1, labels[:, None], torch.inf).amin(dim=1).clamp(min=0)


@torch.no_grad()
def paper_certificate(model: Any, images: Images, labels: Labels) -> tuple[Tensor, Int64[Tensor, "batch"]]:
    """The estimate and the predictions for a model that infers, 0 where the prediction is not the label.

    Args:
        model: Has ``infer(images)`` with ``losses`` (batch, class), ``logits`` and ``reconstructions``
            (batch, class, channel, height, width). With ``distances(images)`` (batch, class) it may give d_c;
            else the distances to its reconstructions are taken.
        images: In [0, 1].
        labels: y.
    """
    synthesis = model.infer(images)
    check_classes(labels, synthesis.losses.shape[1])
    errors = (images[:, None] - synthesis.reconstructions).double().flatten(2).norm(dim=2)
    distances = model.distances(images) if hasattr(model, "distances") else errors
    own = errors.gather(1, labels[:, None])[:, 0]
    prediction: Tensor = synthesis.logits.argmax(dim=1)
    return paper_bound(synthesis.losses, distances, own, labels) * (prediction == labels), prediction
