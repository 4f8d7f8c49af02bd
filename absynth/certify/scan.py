"""Images compared with all prototypes at once by matrix products, and what float32 may lose of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from absynth.certify.codebook import Codebook
from absynth.rounding import gamma

OWN = 32
"""Own prototypes around the image that may enter a mixture."""


@dataclass(frozen=True)
class Batch:
    """Images of one predicted class, and what the matrix products say of them.

    Attributes:
        image: Before the threshold, float32.
        seen: What the prototypes are compared with.
        own_rows: Rows of the nearest own prototypes in the codebook, best first.
        own_high: Upper bounds on their scores less ‖x‖², float32.
        rival_low: Lower bounds on the scores of all prototypes less ‖x‖², infinite for own ones, float32.
        length: Upper bounds on ‖q − p0‖₂ for all prototypes q, float32; None until they are
            asked for.
    """

    image: Float[Tensor, "batch pixel"]
    seen: Float[Tensor, "batch pixel"]
    own_rows: Int64[Tensor, "batch own"]
    own_high: Float[Tensor, "batch own"]
    rival_low: Float[Tensor, "batch entry"]
    length: Float[Tensor, "batch entry"] | None = None

    def select(self, rows: Int64[Tensor, "some"]) -> Batch:
        """Some of the images."""
        return Batch(
            self.image[rows],
            self.seen[rows],
            self.own_rows[rows],
            self.own_high[rows],
            self.rival_low[rows],
            None if self.length is None else self.length[rows],
        )


def prune_slack(codebook: Codebook) -> Float[Tensor, "entry"]:
    """How much each float32 score may be off in :func:`scan`: what pruning has to allow for.

    A score that is added up in any order takes pixels + 3 roundings. Here the energies are shifted by this
    slack (twice for the own prototypes), the slack of the forward is added, and two scores are subtracted,
    five roundings more at the most: fewer than 3 (pixels + 3) in all.
    """
    return 3 * codebook.errors


def scan(codebook: Codebook, image: Float[Tensor, "batch pixel"], label: int) -> Batch:
    """Scores all prototypes for images that the model gives the class ``label``."""
    seen = codebook.front.see(image)
    slack = prune_slack(codebook)
    scores = torch.addmm(codebook.energies - slack, seen, codebook.images.T, alpha=-2)
    own = codebook.own(label)
    count = min(OWN, own.stop - own.start)
    nearest = (scores[:, own] + 2 * slack[own]).topk(count, largest=False)
    scores[:, own] = torch.inf
    return Batch(image, seen, nearest.indices + own.start, nearest.values, scores)


def lengths_from(codebook: Codebook, rows: Int64[Tensor, "batch"]) -> Float[Tensor, "batch entry"]:
    """Upper bounds on the distances of all prototypes from some, float32."""
    relative = rounded_scores(codebook)
    # 2⟨p, q⟩ is at most ‖p‖² + ‖q‖², so all the terms together are at most twice that.
    energy = (codebook.squares[rows][:, None] + codebook.squares) * (1 + 4 * relative)
    squares = energy.addmm_(codebook.images[rows], codebook.images.T, alpha=-2)
    return squares.clamp_(min=0).sqrt_().mul_(1 + 4 * relative)


def rounded_scores(codebook: Codebook) -> float:
    """How much a sum over all pixels, and a few operations more, may be off in float32."""
    return gamma(codebook.pixels + 8, torch.float32)


def exact_scores(
    codebook: Codebook, seen: Tensor, rows: Int64[Tensor, "batch some"]
) -> Float[Tensor, "batch some"]:
    """‖x − p‖² + w in float64, for some prototypes an image."""
    difference = seen[:, None].double() - codebook.images[rows].double()
    return difference.square().sum(-1) + codebook.offsets[rows].double()
