"""Why a certified radius holds, rival by rival: what another program needs to check it.

A witness names the own prototype that holds off a rival within the radius: one for nearly all of them,
another one for some, and a mixture (:mod:`absynth.certify.mixture`) where none does alone. So a rival's whole
proof is one half-space, whose distance has a closed form. The format is described in
``docs/reference/proof-format.md``; ``absynth/check_proof.py`` reads it and shares no code with this package.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from absynth.certify.codebook import Codebook
from absynth.certify.dead_zones import pixel_weights
from absynth.certify.front import Threshold
from absynth.certify.growth import growth_within
from absynth.certify.halfspace import crossing, whole
from absynth.certify.mixture import Duels, improve, single
from absynth.certify.rounding import double_slack
from absynth.certify.scan import Batch, exact_scores
from absynth.certify.search import Search
from absynth.certify.sieve import chords, moves_within
from absynth.models.prototypes import loss_roundings
from absynth.norms import Norm
from absynth.rounding import gamma
from absynth.shapes import Images

VERSION = "1"
"""Of the format."""

AT_ONCE = 64
"""Images compared with the prototypes together."""

ROWS_AT_ONCE = 512
"""Rivals of an image looked at together."""

SINGLES = 6
"""Own prototypes tried against a rival before mixtures are."""

STEPS = 24
"""Frank-Wolfe steps towards a mixture."""

SEEDS = 512
"""Rivals near to winning that the price is chosen for, and as many others."""

SHARES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Prices tried, as shares of a typical one."""

TYPICAL = 8
"""Of these rivals, what a typical price is."""

BEYOND = 1 + 2.0**-20
"""How far, beside the radius, rivals are looked for."""

FAR = 1 + 2.0**-21
"""Bounds that exceed the radius by so much are beyond it; less than :data:`BEYOND` less rounding."""

MORE = 1 + 2.0**-39
"""More than float64 loses of a sum; and a little more than the checker allows for."""

LEAST = 1e-30
"""So that a margin can be divided by a length."""

WHOLE = 2**48
"""What the largest weight of a mixture becomes: so large that rounding costs less than a radius keeps off."""


@dataclass
class Witness:
    """Why the radius of one image holds.

    Attributes:
        default: Row of the own prototype that holds off all rivals that are not named.
        price: What the check of all rivals at once may begin with.
        pairs: For some rivals, by row, the row of an own prototype.
        mixtures: For others, rows of own prototypes with their weights, whole numbers.
        missed: Rivals that nothing was found against.
    """

    default: int
    price: float
    pairs: dict[int, int] = field(default_factory=dict)
    mixtures: dict[int, dict[int, int]] = field(default_factory=dict)
    missed: int = 0


def find_witnesses(
    codebook: Codebook,
    images: Float[Tensor, "batch pixel"],
    labels: Sequence[int],
    norm: Norm,
    radii: Sequence[float],
) -> list[Witness]:
    """The witnesses of certified radii.

    Args:
        codebook: The prototypes.
        images: Of one channel, float32.
        labels: Their classes, which the model gives them.
        norm: Of the radii.
        radii: Larger than 0, as certified.
    """
    found: dict[int, Witness] = {}
    for label in sorted(set(labels)):
        search = Search(codebook, label, norm, 1)
        rows = [row for row, own in enumerate(labels) if own == label]
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            sizes = torch.tensor([radii[row] for row in some], dtype=torch.float64, device=images.device)
            found |= zip(some, _find(search, search.look_at(images[some]), sizes), strict=True)
    return [found[row] for row in range(len(labels))]


def _find(search: Search, batch: Batch, radius: Float[Tensor, "batch"]) -> list[Witness]:
    """The witnesses of some images of one class."""
    slack = slack_within(search, batch, radius)
    bounds = search.bounds_by_best_own(batch, slack, radius * BEYOND)
    own_scores = exact_scores(search.codebook, batch.seen, batch.own_rows)
    witnesses = []
    for row in range(len(radius)):
        this = torch.tensor([row], device=radius.device)
        near = bounds[row].topk(min(SEEDS, bounds.shape[1]), largest=False).indices
        spread = torch.arange(0, bounds.shape[1], bounds.shape[1] // SEEDS + 1, device=near.device)
        one = _Asked(search, batch.select(this), float(slack[row]), float(radius[row]), own_scores[row])
        price = one.price(torch.cat([near, spread]))
        left = (bounds[row] < radius[row] * FAR).nonzero()[:, 0]
        witnesses.append(one.answer(Witness(int(batch.own_rows[row, 0]), price), left))
    return witnesses


def slack_within(search: Search, batch: Batch, radius: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The margin that the model's own rounding asks for within a radius."""
    codebook, norm, front = search.codebook, search.norm, search.codebook.front
    image, own = batch.image.double(), codebook.images[batch.own_rows[:, 0]].double()
    if norm == "l0":
        growth = radius.clamp(max=codebook.pixels)
    elif isinstance(front, Threshold):
        # Each flip adds at most 1.
        costs = front.flip(image).sort(dim=1).values
        spent = {"linf": costs, "l1": costs.cumsum(1), "l2": costs.square().cumsum(1).sqrt()}[norm]
        growth = (spent <= radius[:, None] * MORE).sum(1)
    else:
        growth = growth_within(image, own, radius, norm, front)
    own_score = exact_scores(codebook, batch.seen, batch.own_rows[:, :1])[:, 0]
    return codebook.slack(own_score + growth) * MORE


@dataclass(frozen=True)
class _Asked:
    """One image, and what its witness has to show.

    Attributes:
        search: For rivals.
        batch: The image.
        slack: What margins have to exceed.
        radius: Within which.
        own_scores: Of the own prototypes around the image, float64.
    """

    search: Search
    batch: Batch
    slack: float
    radius: float
    own_scores: Float[Tensor, "own"]

    def answer(self, witness: Witness, rivals: Int64[Tensor, "some"]) -> Witness:
        """The witness, with an answer to each rival that the default does not hold off."""
        for asked in rivals.split(ROWS_AT_ONCE):
            default = self.duels(asked, 1)
            some = asked[~self.holds(default.gradient(torch.zeros_like(asked)), default.margins[:, 0])]
            if len(some) == 0:
                continue
            duels = self.duels(some, self.batch.own_rows.shape[1])
            lengths = torch.stack(
                [(one - own).norm(dim=1) for one, own in zip(duels.rival, duels.own, strict=True)]
            )
            order = (duels.margins / (lengths + LEAST)).argsort(dim=1, descending=True)
            for choice in order[:, :SINGLES].T:
                rows = torch.tensor(
                    [row for row, one in enumerate(some.tolist()) if one not in witness.pairs]
                )
                if len(rows) == 0:
                    break
                trial = duels.select(rows)
                held = self.holds(trial.gradient(choice[rows]), trial.margin(choice[rows]))
                own = self.batch.own_rows[0, choice[rows[held]]]
                witness.pairs |= zip(some[rows[held]].tolist(), own.tolist(), strict=True)
            left = torch.tensor([one not in witness.pairs for one in some.tolist()])
            self._mix(duels.select(left), order[left, 0], witness, some[left])
        return witness

    def duels(self, rivals: Int64[Tensor, "some"], count: int) -> Duels:
        """Rivals against the nearest own prototypes around the image."""
        codebook, batch = self.search.codebook, self.batch
        scores = exact_scores(codebook, batch.seen, rivals[None])[0]
        own_scores = self.own_scores[:count]
        largest = scores.maximum(self.own_scores.amax())
        off = self.slack + double_slack(largest, codebook.lowest_offset, codebook.pixels)
        return Duels(
            batch.image.double().expand(len(rivals), -1),
            codebook.images[rivals].double(),
            codebook.images[batch.own_rows[0, :count]].expand(len(rivals), -1, -1),
            scores[:, None] - own_scores - off[:, None],
        )

    def holds(
        self, gradient: Float[Tensor, "some pixel"], margin: Float[Tensor, "some"]
    ) -> Bool[Tensor, "some"]:
        """Which half-spaces lie beyond the radius."""
        search, image = self.search, self.batch.image.double()
        front = search.codebook.front
        if search.norm == "linf":
            size = torch.tensor([self.radius], dtype=torch.float64, device=image.device)
            up, down = front.up_within(image, size), front.down_within(image, size)
            gains = torch.maximum(gradient * up, -gradient * down).sum(1)
            return gains * (1 + 4 * gamma(image.shape[1] + 8, torch.float64)) < margin
        found = crossing(gradient, margin, image, search.norm, front, search.channels).distance
        return whole(found, image, search.norm, front) > self.radius

    def _mix(self, duels: Duels, choice: Tensor, witness: Witness, rivals: Tensor) -> None:
        """Notes mixtures of own prototypes against rivals that none alone holds off."""
        search = self.search
        settings = search.norm, search.codebook.front, search.channels
        if len(rivals) == 0:
            return
        mixtures = single(duels, choice, *settings)
        for _ in range(STEPS):
            mixtures = improve(duels, mixtures, *settings)
            shares = whole_shares(mixtures.weights)
            weights = shares.double() / shares.sum(1, keepdim=True)
            mixed = torch.bmm(weights[:, None], duels.own.double())[:, 0]
            held = self.holds(2 * (duels.rival - mixed), (weights * duels.margins).sum(1))
            for row in held.nonzero()[:, 0].tolist():
                used = shares[row].nonzero()[:, 0]
                own, parts = self.batch.own_rows[0, used].tolist(), shares[row, used].tolist()
                witness.mixtures[int(rivals[row])] = dict(zip(own, parts, strict=True))
            left = (~held).nonzero()[:, 0]
            duels, mixtures, rivals = duels.select(left), mixtures.select(left), rivals[left]
            if len(rivals) == 0:
                return
        witness.missed += len(rivals)

    def price(self, near: Int64[Tensor, "seed"]) -> float:
        """The price at which the default holds off most of some rivals as all of them are looked at at once.

        Any is right. It is one over the multiplier of :mod:`absynth.certify.dead_zones` in L2 without a
        threshold, that of :mod:`absynth.certify.sieve` in other cases, and of no use in Linf.

        Args:
            near: Some rivals, those that are near to winning first.
        """
        codebook, norm = self.search.codebook, self.search.norm
        duels = self.duels(near, 1)
        margins, image, own = duels.margins[:, 0], duels.image[:1], duels.own[:1, 0].double()
        size = torch.full_like(image[:, 0], self.radius)
        tried: list[tuple[int, float]] = []
        if norm == "l2" and not isinstance(codebook.front, Threshold):
            squares = (duels.rival - own).square()
            typical = (squares[:SEEDS].sum(1).sqrt() / size).median()
            for share in SHARES:
                price = share * typical[None]
                useful = squares @ pixel_weights(image, own, 1 / price, codebook.front)[0]
                gains = price * size.square() + useful / price
                gains = torch.where(useful > (size * price).square(), 2 * size * useful.sqrt(), gains)
                tried.append((int((margins > gains).sum()), float(price)))
        else:
            moves = moves_within(image, size, norm, codebook.front, 1)
            typical = moves.price(2 * (duels.rival - own)[None, :TYPICAL])
            for share in SHARES:
                constant, slope = chords(moves, share * typical, own)
                gains = constant + duels.rival @ slope[0]
                tried.append((int((margins > gains).sum()), float(share * typical)))
        return max(tried)[1]


def whole_shares(weights: Float[Tensor, "some own"]) -> Int64[Tensor, "some own"]:
    """Weights as whole numbers in the same proportion, but for rounding."""
    return (weights / weights.amax(1, keepdim=True) * WHOLE).round().long()


def pack_witnesses(
    norm: Norm,
    digest: str,
    images: Images,
    indices: Sequence[int],
    labels: Sequence[int],
    radii: Sequence[float],
    witnesses: Sequence[Witness],
) -> bytes:
    """Witnesses as the content of a file.

    Args:
        norm: Of all of them.
        digest: SHA-256 of the file of prototypes.
        images: Of one channel, float32.
        indices: Which of their split they are.
        labels: Their classes.
        radii: As certified.
        witnesses: One an image.
    """
    header = {
        "format": "absynth-proof",
        "version": VERSION,
        "norm": norm,
        "roundings": loss_roundings(images.shape[1:].numel()),
        "prototypes": digest,
    }
    mixtures = [mixture for one in witnesses for mixture in one.mixtures.values()]
    arrays: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "images": images.flatten(1).cpu().numpy(),
        "index": np.array(indices, np.int64),
        "class": np.array(labels, np.int64),
        "radius": np.array(radii, np.float64),
        "price": np.array([one.price for one in witnesses], np.float64),
        "default": np.array([one.default for one in witnesses], np.uint32),
        "pairs": _ends(len(one.pairs) for one in witnesses),
        "pair_rival": np.array([rival for one in witnesses for rival in one.pairs], np.uint32),
        "pair_own": np.array([own for one in witnesses for own in one.pairs.values()], np.uint32),
        "mixtures": _ends(len(one.mixtures) for one in witnesses),
        "mixture_rival": np.array([rival for one in witnesses for rival in one.mixtures], np.uint32),
        "mixture_parts": _ends(len(mixture) for mixture in mixtures),
        "part_own": np.array([own for mixture in mixtures for own in mixture], np.uint32),
        "part_weight": np.array([weight for mixture in mixtures for weight in mixture.values()], np.uint64),
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _ends(counts: Iterable[int]) -> NDArray[np.int64]:
    """Where the entries of each image end, after a 0."""
    return np.cumsum([0, *counts], dtype=np.int64)
