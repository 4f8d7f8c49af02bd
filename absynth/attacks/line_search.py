"""Moving an adversarial back towards the clean image as far as it stays one, and sizes to look for it at."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from absynth.attacks.batch import Mask, Scalars, choose, per_image
from absynth.attacks.target import Target
from absynth.shapes import Images

Path = Callable[[Scalars], Images]
Ask = Callable[[Target, Images, float], Images]
"""What an attack of a given size answers for some images."""


@torch.no_grad()
def bisect(target: Target, path: Path, low: Scalars, high: Scalars, steps: int) -> Scalars:
    """The smallest position on a path that is known to be adversarial, by bisection.

    Args:
        target: The model with the labels.
        path: From a position of each image to images.
        low: Positions that are not adversarial, or 0.
        high: Positions that are.
        steps: Queries.

    Returns:
        Adversarial positions, at most ``high``.
    """
    for _ in range(steps):
        middle = (low + high) / 2
        adversarial = target.is_adversarial(path(middle))
        low, high = torch.where(adversarial, low, middle), torch.where(adversarial, middle, high)
    return high


@torch.no_grad()
def shrink(target: Target, images: Images, adversarials: Images, success: Mask, steps: int) -> Images:
    """Pulls adversarials along the straight line to their clean images, onto the boundary.

    This changes the size in L2, L1 and Linf in proportion, and in L0 not at all.

    Args:
        target: The model with the labels.
        images: The clean images.
        adversarials: Adversarials where ``success`` is set; elsewhere they are returned as they are.
        success: Where to search.
        steps: Queries for each of those.
    """
    rows = success.nonzero().squeeze(1)
    if len(rows) == 0 or steps == 0:
        return adversarials
    clean, far = images[rows], adversarials[rows]

    def path(position: Tensor) -> Images:
        return (clean + per_image(position) * (far - clean)).clamp(0, 1)

    start = torch.ones(len(rows), dtype=images.dtype, device=images.device)
    position = bisect(target.select(rows), path, torch.zeros_like(start), start, steps)
    result = adversarials.clone()
    # clean + 1 · (far − clean) need not round to far: what was never moved stays as it was
    result[rows] = choose(position < 1, path(position), far)
    return result


def ascend(target: Target, images: Images, sizes: Iterable[float], ask: Ask) -> tuple[Images, Mask]:
    """Tries an attack of a given size at several, each on the images that no smaller one fooled.

    Args:
        target: The model with the labels.
        images: The clean images.
        sizes: In any order.
        ask: The attack.

    Returns:
        The adversarials, the clean image where there is none, and where there is one.
    """
    candidates, found = images, torch.zeros_like(target.labels, dtype=torch.bool)
    for size in sorted(sizes):
        rows = (~found).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        part = target.select(rows)
        tried = ask(part, images[rows], size)
        success = part.is_adversarial(tried)
        candidates = candidates.index_copy(0, rows, choose(success, tried, images[rows]))
        found = found.index_copy(0, rows, success)
    return candidates, found
