"""One rival against all own prototypes, around one image, whatever stands in front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from absynth.certify.halfspace import crossing
from absynth.certify.polytope import furthest_behind
from absynth.certify.rounding import double_slack
from absynth.certify.scan import Batch, exact_scores
from absynth.certify.search import Search

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

AHEAD = 5e-5
"""By how much a rival has to win at a point that is proposed, so that float32 says so too."""

UNMOVED = 1e-9
"""What is too little to count as a move, and comes of a solver's rounding."""


@dataclass(frozen=True)
class Field:
    """One image and all own prototypes: what the contests of its rivals share.

    Attributes:
        search: Of the predicted class.
        batch: The image.
        slack: The margin to keep for the forward's own rounding.
        own_rows: Rows of the own prototypes in the codebook.
        own: The own prototypes p_k, one a row.
        own_scores: Their scores, float64.
    """

    search: Search
    batch: Batch
    slack: float
    own_rows: Int64[Tensor, "own"]
    own: NDArray[np.float32]
    own_scores: Float[Tensor, "own"]

    @property
    def start(self) -> int:
        """The nearest own prototype."""
        return int(self.own_scores.argmin())

    def against(self, rival: int) -> Contest:
        """The contest with one rival.

        Args:
            rival: Its row in the codebook.
        """
        codebook, image = self.search.codebook, self.batch.image[0].double()
        row = torch.tensor([[rival]], device=image.device)
        score = exact_scores(codebook, self.batch.seen, row)[0, 0]
        margins = score - self.own_scores
        return Contest(self, image, codebook.images[rival].double(), score, margins, margins.cpu().numpy())


@dataclass(frozen=True)
class Pool:
    """Own prototypes whose constraints are of use against a rival.

    Attributes:
        rows: Which.
        gradients: g_k, one row each.
        ahead: What ⟨g_k, δ⟩ has to be so that the model says itself that the rival wins.
        proven: What it is at least wherever the model may say so.
    """

    rows: Rows
    gradients: Array
    ahead: Array
    proven: Array


@dataclass(frozen=True)
class Contest:
    """One rival against all own prototypes: it wins where ⟨g_k, δ⟩ ≥ m_k for all of them.

    Attributes:
        field: What the contests of an image share.
        image: x, float64.
        rival: q, float64.
        score: Its score.
        margins: m_k = s_q(x) − s_k(x), float64.
        wanted: The same for NumPy.
    """

    field: Field
    image: Float[Tensor, "pixel"]
    rival: Float[Tensor, "pixel"]
    score: Float[Tensor, ""]
    margins: Float[Tensor, "own"]
    wanted: Array

    def gradients(self, rows: Rows) -> Array:
        """g_k = 2(q − p_k) of some own prototypes."""
        return 2 * (self.rival.cpu().numpy() - self.field.own[rows].astype(np.float64))

    def behind(self, step: Array) -> Array:
        """By how much each own prototype still beats the rival after a step: m_k − ⟨g_k, δ⟩."""
        rival = self.rival.cpu().numpy()
        return self.wanted - 2 * (rival @ step - self.field.own @ step.astype(np.float32))

    def missed(self, step: Array, rows: Rows, enough: float) -> Rows:
        """The own prototypes that the rival is least ahead of after a step, as far as that is not enough.

        Args:
            step: δ.
            rows: Own prototypes that are looked at already.
            enough: By how much it has to be ahead.
        """
        return furthest_behind(self.behind(step), rows, -enough)

    def pool(self, rows: Rows) -> Pool:
        """Some own prototypes and what they ask for."""
        ahead = self.wanted[rows] + AHEAD + self.field.slack
        return Pool(rows, self.gradients(rows), ahead, self.less_slack(rows))

    def rounding(self, rows: Int64[Tensor, "some"]) -> Tensor:
        """What a margin of a mixture of some own prototypes can be off by in float64."""
        codebook = self.field.search.codebook
        largest = torch.maximum(self.score, self.field.own_scores[rows].max())
        return len(rows) * double_slack(largest, codebook.lowest_offset, codebook.pixels)

    def less_slack(self, rows: Rows) -> Array:
        """The margins of some own prototypes less all that rounding can take from each of them."""
        chosen = torch.from_numpy(rows).to(self.image.device)
        rounding = float(self.rounding(chosen)) / len(rows)
        return self.wanted[rows] - self.field.slack - rounding

    def bound(self, rows: Rows, weights: Array) -> float:
        """The closed form of the distance to the half-space of a mixture: a lower bound, whatever it is.

        Args:
            rows: Own prototypes.
            weights: μ ≥ 0, not all zero.
        """
        search = self.field.search
        shares = torch.from_numpy(weights / weights.sum()).to(self.image.device)
        chosen = torch.from_numpy(rows).to(self.image.device)
        own = search.codebook.images[self.field.own_rows[chosen]].double()
        mixed = (shares[:, None] * own).sum(0)
        margin = (shares * self.margins[chosen]).sum() - self.field.slack - self.rounding(chosen)
        gradient = 2 * (self.rival - mixed)
        front, channels = search.codebook.front, search.channels
        return float(crossing(gradient, margin, self.image, search.norm, front, channels).distance)


def preimage(contest: Contest, step: Array) -> Float[Tensor, "pixel"]:
    """The nearest image of which what is seen has moved by a step; pixels that do not move stay as they are.

    Args:
        contest: Whose image it is.
        step: δ.
    """
    front = contest.field.search.codebook.front
    moved = torch.from_numpy(step).to(contest.image.device)
    seen = (front.see(contest.image) + moved).clamp(front.low, front.high)
    return torch.where(moved.abs() > UNMOVED, seen, contest.image).float()
