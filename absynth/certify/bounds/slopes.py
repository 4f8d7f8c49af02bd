"""Better lines below: α-CROWN (Xu et al. 2021, arXiv 2011.13824) for the last bounds.

Where there is a choice of the line below a function, every choice gives a bound that holds. The choices of
every image and rival are moved along the gradient of its margin, by Adam, and the best margin that was met is
kept. The bounds of the values before the functions stay those of CROWN, so that this is the cheap part of the
method, and gains little.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from absynth.certify.bounds.curves import HALVES
from absynth.certify.bounds.nodes import Activation
from absynth.certify.bounds.propagation import Propagation, margins

RATE = 0.1
"""Of Adam, as in the paper; a choice lies in [0, 1]."""

DECAY = 0.98
"""Of the rate, after every step."""


def optimised_margins(found: Propagation, labels: Tensor, *, steps: int, until: float) -> Tensor:
    """Lower bounds of the label's logit minus every other one, the best of all that were met.

    Args:
        found: What is known of the balls.
        labels: Shape (batch,).
        steps: Of Adam at the most.
        until: When to stop (:func:`time.monotonic`).
    """
    best = margins(found, labels, straight=True)
    choices = _begin(found, best.shape[1])
    if not choices:
        return best
    optimizer = torch.optim.Adam(list(choices.values()), lr=RATE)
    for _ in range(steps):
        if bool((best > 0).all()) or time.monotonic() >= until:
            break
        with torch.enable_grad():
            now = margins(found, labels, straight=True, choices=choices)
            # a margin that is proven already needs no better line
            loss = -now[best <= 0].sum()
        best = best.fmax(now.detach())
        if not bool(loss.isfinite()):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for choice in choices.values():
            choice.clamp_(0, 1)
        optimizer.param_groups[0]["lr"] *= DECAY
    return best


def _begin(found: Propagation, rows: int) -> dict[int, Tensor]:
    """The choices that CROWN makes, for every row by itself."""
    choices: dict[int, Tensor] = {}
    for number, node in enumerate(found.network.nodes):
        if isinstance(node, Activation):
            before = found.intervals[node.parents[0]]
            choice = node.curve.default_choice(before.low, before.high).nan_to_num(HALVES)[:, None]
            choices[number] = choice.expand(-1, rows, *choice.shape[2:]).clone().requires_grad_()
    return choices
