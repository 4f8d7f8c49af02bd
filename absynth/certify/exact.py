"""The exact radius of one image: every rival that could be nearest, projected onto."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from absynth.certify.growth import diameter
from absynth.certify.halfspace import crossing
from absynth.certify.polytope import project
from absynth.certify.rounding import double_slack
from absynth.certify.scan import Batch, exact_scores
from absynth.certify.search import NEAR, Search

ENOUGH = 2e-4
"""Rivals whose bound comes this near to the distance of an adversarial are not solved: the gap is closed."""

LIMIT = 1.05
"""How far beyond the best adversarial a projection may go before it is given up."""

BEYOND = 1 - 2 * NEAR
"""What rivals that :meth:`Search.rivals_within` leaves out keep of the distance asked for."""

WIDENING = 1.3
"""How much further to look when no adversarial was found."""

NUDGES = tuple(10 ** (-7 + 0.5 * index) for index in range(13))
"""Shares of the way from the projected point to the rival, tried until the model itself changes its mind."""


@dataclass(frozen=True)
class Solution:
    """The answer for one image.

    Attributes:
        radius: Lower bound on the distance of every adversarial.
        adversarial: The nearest one found, flat; None if there is none.
        distance: How far it is; infinite if there is none.
    """

    radius: float
    adversarial: Float[Tensor, "pixel"] | None
    distance: float


class Solver:
    """Projects one image after another.

    Args:
        search: Of the predicted class, for grey input.
        predict: The model's own decision on flat images.
    """

    def __init__(
        self, search: Search, predict: Callable[[Float[Tensor, "batch pixel"]], Int64[Tensor, "batch"]]
    ) -> None:
        self.search = search
        self.predict = predict
        own = search.codebook.own(search.label)
        self.own_rows = torch.arange(own.start, own.stop, device=search.codebook.images.device)
        self.own = search.codebook.images[own].cpu().numpy()
        self.diameter = diameter(search.norm, search.codebook.pixels, search.channels)

    def solve(self, batch: Batch, slack: Float[Tensor, "1"], known: float) -> Solution:
        """The exact radius of an image, up to the slack and the tolerances.

        Args:
            batch: One image.
            slack: The margin to keep for the forward's own rounding.
            known: A lower bound that is known already.
        """
        if known == math.inf:
            return Solution(known, None, known)
        codebook = self.search.codebook
        own_scores = exact_scores(codebook, batch.seen, self.own_rows[None])[0]
        best = Solution(known, None, math.inf)
        proven: dict[int, float] = {}
        reach = WIDENING * known + 0.01
        while True:
            within = min(reach, best.distance)
            rivals, bounds = self.search.rivals_within(batch, slack, within)
            for rival, bound in zip(rivals.tolist(), bounds.tolist(), strict=True):
                if rival in proven or bound >= best.distance - ENOUGH:
                    proven.setdefault(rival, bound)
                    continue
                found = self._project(batch, slack, own_scores, rival, min(best.distance, self.diameter))
                proven[rival] = max(bound, found.radius)
                best = min(best, found, key=lambda solution: solution.distance)
            if reach >= min(best.distance, self.diameter):
                break
            reach *= WIDENING
        beyond = within * BEYOND if within < self.diameter else math.inf
        return Solution(max(known, min([*proven.values(), beyond])), best.adversarial, best.distance)

    def _project(
        self,
        batch: Batch,
        slack: Float[Tensor, "1"],
        own_scores: Float[Tensor, "own"],
        rival: int,
        limit: float,
    ) -> Solution:
        """The bound and the adversarial that the projection onto one rival's polytope gives."""
        search, codebook = self.search, self.search.codebook
        image, prototype = batch.image[0].double(), codebook.images[rival].double()
        score = exact_scores(codebook, batch.seen, torch.tensor([[rival]], device=image.device))[0, 0]
        margins = score - own_scores
        found = project(
            image.cpu().numpy(),
            prototype.cpu().numpy(),
            self.own,
            margins.cpu().numpy(),
            search.norm,
            int(own_scores.argmin()),
            LIMIT * limit,
        )
        weights = torch.from_numpy(found.weights / found.weights.sum()).to(image.device)
        rows = torch.from_numpy(found.rows).to(image.device)
        mixed = (weights[:, None] * codebook.images[self.own_rows[rows]].double()).sum(0)
        rounding = double_slack(
            torch.maximum(score, own_scores[rows].max()), codebook.lowest_offset, codebook.pixels
        )
        margin = (weights * margins[rows]).sum() - slack[0] - len(rows) * rounding
        bound = float(crossing(2 * (prototype - mixed), margin, image, search.norm).distance)
        if found.step is None:
            return Solution(bound, None, math.inf)
        point = image + torch.from_numpy(found.step).to(image.device)
        shares = torch.tensor((0.0, *NUDGES), dtype=torch.float64, device=image.device)[:, None]
        tried = torch.lerp(point, prototype, shares).clamp(0, 1).float()
        fooled = (self.predict(tried) != search.label).nonzero()[:, 0]
        if len(fooled) == 0:
            return Solution(bound, None, math.inf)
        order = {"l2": 2.0, "l1": 1.0, "linf": math.inf}[search.norm]
        distances = torch.linalg.vector_norm(tried[fooled].double() - image, ord=order, dim=1)
        nearest = int(distances.argmin())
        return Solution(bound, tried[fooled[nearest]], float(distances[nearest]))
