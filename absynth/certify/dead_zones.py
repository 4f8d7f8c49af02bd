"""What the dead zones of a clamp add to the L2 distances of all rivals: two matrix products.

The dual of :mod:`absynth.certify.halfspace.l2` gives, for any multiplier λ,

    distance² ≥ λ m − Σ_i φ_i(λ abs(g_i)),   φ_i(a) = max(0, max_{0 < e ≤ room_i} a e − (dead_i + e)²).

φ_i(a) is at most a² / 4 − a dead_i, and 0 below a = 4 dead_i; and (dead + e)² ≥ e² (1 + dead / room)², so
that it is at most a² / 4 · (room / (dead + room))² too. So as long as λ abs(g_i) is at most some a_i,

    φ_i(λ abs(g_i)) ≤ c_i (λ g_i)²,   c_i = min((1/4 − dead_i / a_i)⁺, (room_i / (dead_i + room_i))² / 4),

where pixels without dead zone have ¼. With one λ₀ and the largest abs(g_i) = 2 max(p_i, 1 − p_i) that a
prototype could have, the c_i belong to the image alone. Then S = Σ 4 c_i (q_i − p_i)² comes from matrix
products for all rivals q at once, and λ m − λ² S is a bound for any λ ≤ λ₀, the largest at m / 2S or at λ₀.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.front import Clamp, Grey

TRIALS = (1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.5)
"""Values of λ₀ tried, as shares of what suits typical rivals without dead zones."""

LEAST_USEFUL = 1e-12
"""So that a margin can be divided by S; a larger S only makes a bound smaller."""

ROWS_AT_ONCE = 4096
"""Prototypes squared together (12 MiB of 784 pixels)."""


def pixel_weights(
    image: Float[Tensor, "batch pixel"],
    own: Float[Tensor, "batch pixel"],
    multiplier: Float[Tensor, "batch"],
    front: Clamp | Grey,
) -> Float[Tensor, "batch pixel"]:
    """4 c_i, from 0 to 1: the share of a pixel's part of ‖g‖² that is of use.

    Args:
        image: x, float64.
        own: p, float64.
        multiplier: λ₀.
        front: A clamp, or nothing: then every pixel with room is of full use.
    """
    largest = 2 * multiplier[:, None] * torch.maximum(own, 1 - own)
    weights = torch.zeros_like(image)
    for room, dead in (
        (front.up(image), front.dead_up(image)),
        (front.down(image), front.dead_down(image)),
    ):
        costly = (1 - 4 * dead / largest).clamp(min=0)
        limited = torch.where(room > 0, room / (dead + room), 0).square()
        weights = weights.maximum(costly.minimum(limited))
    return weights


def squared_bounds(
    margin: Float[Tensor, "*rows"], useful: Float[Tensor, "*rows"], multiplier: Float[Tensor, "*#rows"]
) -> Float[Tensor, "*rows"]:
    """The largest λ m − λ² S over λ ≤ λ₀.

    Args:
        margin: m ≥ 0.
        useful: S ≥ 0.
        multiplier: λ₀.
    """
    best = (margin / (2 * useful)).minimum(multiplier)
    return best * (margin - best * useful)


def clamped_bounds(
    image: Float[Tensor, "batch pixel"],
    own: Float[Tensor, "batch pixel"],
    seeds: Float[Tensor, "batch seed pixel"],
    seed_margins: Float[Tensor, "batch seed"],
    rivals: Float[Tensor, "entry pixel"],
    margins: Float[Tensor, "batch entry"],
    front: Clamp,
    relative: float,
) -> Float[Tensor, "batch entry"]:
    """Lower bounds on the L2 distances to where rivals beat one own prototype behind a clamp.

    Args:
        image: x, float32.
        own: One own prototype p an image, float32.
        seeds: A few rivals near to winning, float32, which λ₀ is chosen for.
        seed_margins: Their margins.
        rivals: All prototypes q, float32.
        margins: Lower bounds on s_q − s_p less every slack, float32, at least 0.
        front: A clamp.
        relative: γ of as many float32 roundings as there are pixels, and a few more.
    """
    exact_image, exact_own = image.double(), own.double()
    squares = (seeds.double() - exact_own[:, None]).square()
    targets = seed_margins.double()
    typical = (targets / (2 * squares.sum(-1) + LEAST_USEFUL)).median(dim=1).values + LEAST_USEFUL
    trials = [share * typical for share in TRIALS]
    weighed = [pixel_weights(exact_image, exact_own, trial, front) for trial in trials]
    reached = []
    for trial, weights in zip(trials, weighed, strict=True):
        useful = (squares @ weights[:, :, None])[:, :, 0] + LEAST_USEFUL
        reached.append(squared_bounds(targets, useful, trial[:, None]).sum(1))
    best = torch.stack(reached).argmax(0)
    rows = torch.arange(len(best), device=best.device)
    multiplier = torch.stack(trials)[best, rows].float()[:, None]
    weights = torch.stack(weighed)[best, rows]
    crossed = (weights * exact_own).float()
    constant = (weights * exact_own.square()).sum(1).float()[:, None]
    weights = weights.float()
    multiplier = multiplier * (1 - 4 * relative)
    bounds = torch.empty_like(margins)
    for start in range(0, len(rivals), ROWS_AT_ONCE):
        some = rivals[start : start + ROWS_AT_ONCE]
        # 2⟨p, q⟩ is at most ‖p‖² + ‖q‖², with weights too, so all terms together are at most twice that.
        energy = torch.addmm(constant, weights, some.square().T).mul_(1 + 8 * relative)
        useful = energy.addmm_(crossed, some.T, alpha=-2).clamp_(min=LEAST_USEFUL)
        part = slice(start, start + ROWS_AT_ONCE)
        bounds[:, part] = squared_bounds(margins[:, part], useful, multiplier)
    return bounds.mul_(1 - 8 * relative).clamp_(min=0).sqrt_()
