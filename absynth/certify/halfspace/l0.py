"""The closed forms in L0, exact and the same whatever stands in front: a changed pixel goes all the way.

The fewest pixels whose gains abs(g) · room, largest first, sum to the target. The last one counts in part, so
that better mixtures score higher though the number stays the same;
:func:`~absynth.certify.halfspace.crossing.whole` takes that back. A pixel counts once whatever its channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.halfspace.problem import Moved, Problem
from absynth.certify.halfspace.searches import greedy


def nearest(problem: Problem) -> Moved:
    """The fewest pixels that reach the target."""
    grouped = over_channels(problem)
    cost, spent = greedy(grouped, torch.ones_like(grouped), problem.target)
    share = spent[..., None, :].expand(*spent.shape[:-1], problem.channels, -1).flatten(-2)
    return Moved(cost, problem.rooms * share)


def farthest(problem: Problem, size: float) -> Float[Tensor, "*rows"]:
    """The most that a number of pixels can gain."""
    grouped = over_channels(problem)
    return grouped.topk(min(int(size), grouped.shape[-1])).values.sum(-1)


def over_channels(problem: Problem) -> Float[Tensor, "*rows position"]:
    """The gain of changing a pixel in all its channels, which counts as one change."""
    grouped: Tensor = problem.gains.unflatten(-1, (problem.channels, -1)).sum(-2)
    return grouped
