"""The exact radius of one image: every rival that could be nearest, projected onto."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from absynth.certify.boxed import project_in_box
from absynth.certify.branching import project_with_fees
from absynth.certify.contest import Array, Contest, Field, preimage
from absynth.certify.flips import flipped_image, project_by_flips, project_by_levels
from absynth.certify.front import GREY, Clamp, Threshold
from absynth.certify.growth import diameter
from absynth.certify.halfspace import whole
from absynth.certify.polytope import project
from absynth.certify.scan import Batch, exact_scores
from absynth.certify.search import NEAR, Search

ENOUGH = 2e-4
"""Rivals whose bound comes this near to the distance of an adversarial are not solved: the gap is closed."""

LIMIT = 1.05
"""How far beyond the best adversarial a projection may go before it is given up."""

TOLERANCE = 5e-4
"""Gap at which branching ends, or share of the distance: half of what counts as closed."""

BEYOND = 1 - 2 * NEAR
"""What rivals that :meth:`Search.rivals_within` leaves out keep of the distance asked for."""

WIDENING = 1.3
"""How much further to look when no adversarial was found."""

NARROW = 1.03
"""The same behind a clamp, where a rival takes longer to look at and pairs come nearer to the truth."""

FURTHER = 1 + 1e-9
"""Makes up for the rounding of a cost."""

SHARE = 0.5
"""Of the time that is left to an image, what one rival may take, so that others get some, too."""

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
        search: Of the predicted class.
        predict: The model's own decision on flat images.
        seconds: How long to look at an image; rivals that are not looked at by then keep their bounds.
    """

    def __init__(
        self,
        search: Search,
        predict: Callable[[Float[Tensor, "batch pixel"]], Int64[Tensor, "batch"]],
        seconds: float,
    ) -> None:
        self.search = search
        self.predict = predict
        self.seconds = seconds
        own = search.codebook.own(search.label)
        self.own_rows = torch.arange(own.start, own.stop, device=search.codebook.images.device)
        self.own = search.codebook.images[own].cpu().numpy()
        self.diameter = diameter(search.norm, search.codebook.pixels, search.channels)

    def solve(self, batch: Batch, slack: Float[Tensor, "1"], known: float) -> Solution:
        """The exact radius of an image, up to the slack, the tolerances and the time.

        Args:
            batch: One image.
            slack: The margin to keep for the forward's own rounding.
            known: A lower bound that is known already.
        """
        if known == math.inf:
            return Solution(known, None, known)
        end = time.monotonic() + self.seconds
        own_scores = exact_scores(self.search.codebook, batch.seen, self.own_rows[None])[0]
        field = Field(self.search, batch, float(slack), self.own_rows, self.own, own_scores)
        best = Solution(known, None, math.inf)
        proven: dict[int, float] = {}
        widening = WIDENING if self.search.codebook.front == GREY else NARROW
        reach = self._further(batch, known, widening)
        while True:
            within = min(reach, best.distance)
            rivals, bounds, covered = self.search.rivals_within(batch, slack, within)
            for rival, bound in zip(rivals.tolist(), self._whole(batch, bounds).tolist(), strict=True):
                now = time.monotonic()
                if rival in proven or bound >= best.distance - ENOUGH or now >= end:
                    proven.setdefault(rival, bound)
                    continue
                contest = field.against(rival)
                limit = min(best.distance, self.diameter)
                found = self._project(contest, bound, limit, now + SHARE * (end - now))
                proven[rival] = max(bound, found.radius)
                best = min(best, found, key=lambda solution: solution.distance)
            if time.monotonic() >= end:
                break
            if covered < within:
                # There are too many rivals, and fewer within the distance of an adversarial found meanwhile.
                if best.distance >= within or covered >= BEYOND * best.distance:
                    break
                continue
            if reach >= BEYOND * min(best.distance, self.diameter):
                break
            reach = self._further(batch, reach * FURTHER, widening)
            widening = min(widening**2, WIDENING)
        beyond = covered * BEYOND if covered < self.diameter else math.inf
        # in float32, the type of the image, it could be rounded up
        least = batch.image.new_tensor([min([*proven.values(), beyond])], dtype=torch.float64)
        radius = self._whole(batch, least)
        return Solution(max(known, float(radius)), best.adversarial, best.distance)

    def _whole(self, batch: Batch, bounds: Float[Tensor, "some"]) -> Float[Tensor, "some"]:
        """Bounds, rounded up to distances that exist."""
        return whole(bounds, batch.image.double(), self.search.norm, self.search.codebook.front)

    def _further(self, batch: Batch, reach: float, widening: float) -> float:
        """How far to look next.

        Args:
            batch: One image.
            reach: How far was looked, or a little more.
            widening: How much further to look where any distance exists.
        """
        norm, front = self.search.norm, self.search.codebook.front
        if norm == "l0":
            return math.floor(reach) + 1.0
        if norm == "linf" and isinstance(front, Threshold):
            # To a level, where few rivals are left, and one of them may win there; then between it and the
            # next, where all are that may.
            levels = front.flip(batch.image.double()).unique()
            between = (levels + torch.cat([levels[1:], levels.new_tensor([self.diameter])])) / 2
            steps = torch.cat([levels * FURTHER, between])
            return float(torch.where(steps > reach, steps, self.diameter).amin())
        return widening * reach + 0.01

    def _project(self, contest: Contest, known: float, limit: float, end: float) -> Solution:
        """The bound and the adversarial that the projection onto one rival's polytope gives.

        Args:
            contest: Of the rival.
            known: A lower bound that is known already.
            limit: The distance beyond which nothing is of interest.
            end: When to stop, in seconds of the clock that only goes forward.
        """
        if isinstance(self.search.codebook.front, Clamp):
            if self.search.norm == "linf":
                nearest = project_in_box(contest, known, limit, end)
            else:
                nearest = project_with_fees(contest, limit, TOLERANCE * max(known, 1.0), end)
            tried = None if nearest.step is None else preimage(contest, nearest.step)[None]
            return self._nearest(contest, nearest.bound, tried)
        if isinstance(self.search.codebook.front, Threshold):

            def fools(step: Array) -> bool:
                return bool(self.predict(flipped_image(contest, step)[None])[0] != self.search.label)

            if self.search.norm == "linf":
                nearest = project_by_levels(contest, known, limit, fools, end)
            else:
                known_limit = limit if limit < self.diameter else math.inf
                tolerance = TOLERANCE * max(known, 1.0)
                nearest = project_by_flips(contest, known_limit, tolerance, fools, end)
            tried = None if nearest.step is None else flipped_image(contest, nearest.step)[None]
            return self._nearest(contest, nearest.bound, tried)
        found = project(
            contest.image.cpu().numpy(),
            contest.rival.cpu().numpy(),
            self.own,
            contest.wanted,
            self.search.norm,
            contest.field.start,
            LIMIT * limit,
        )
        bound = contest.bound(found.rows, found.weights)
        if found.step is None:
            return Solution(bound, None, math.inf)
        point = contest.image + torch.from_numpy(found.step).to(contest.image.device)
        shares = torch.tensor((0.0, *NUDGES), dtype=torch.float64, device=point.device)[:, None]
        return self._nearest(contest, bound, torch.lerp(point, contest.rival, shares).clamp(0, 1).float())

    def _nearest(self, contest: Contest, bound: float, tried: Float[Tensor, "some pixel"] | None) -> Solution:
        """The bound with the nearest of some images that the model itself decides otherwise, if any."""
        if tried is None:
            return Solution(bound, None, math.inf)
        fooled = (self.predict(tried) != self.search.label).nonzero()[:, 0]
        if len(fooled) == 0:
            return Solution(bound, None, math.inf)
        order = {"l2": 2.0, "l1": 1.0, "linf": math.inf, "l0": 0.0}[self.search.norm]
        distances = torch.linalg.vector_norm(tried[fooled].double() - contest.image, ord=order, dim=1)
        nearest = int(distances.argmin())
        return Solution(bound, tried[fooled[nearest]], float(distances[nearest]))
