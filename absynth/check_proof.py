"""Checks witnesses of certified radii; it needs Python, NumPy and this file alone, and no code of the prover.

    python check_proof.py FOLDER [--prototypes FILE] [--images FILE] [--out FILE]

**What is checked**, of an image x, a class y, a norm, a radius r and a number of roundings that a witness
names: for every x' in [0, 1]^n with ‖x' − x‖ ≤ r, in real numbers, some prototype of class y scores lower
than every prototype of every other class by more than a slack s. The score of a prototype p with offset w is
‖F(x') − p‖² + w, where F is the identity, a clamp or the threshold at 1/2, as the file of prototypes says.
The slack is what `forward_slack` says; with no roundings it is 0.

**The argument.** Let v = F(x), let e = F(x') − v be how far what is seen has moved, and let the *answer* to a
rival q be a mean of own prototypes p_k, with weights c_k ≥ 0 that sum to 1. The score of q less the mean of
the scores of the p_k is m − ⟨g, e⟩, with m its value at v and g = 2(q − Σ c_k p_k). It is enough that it
exceeds s, as some p_k scores no higher than the mean. Let k_i(e_i) be what moving pixel i costs, so that x'
is in the ball only if Σ k_i(e_i) ≤ B. Then for every price t ≥ 0

    ⟨g, e⟩ ≤ t B + Σ_i max(0, max over e_i of g_i e_i − t k_i(e_i)),

so a price at which m − s exceeds the right-hand side proves that q stays behind. All of this is computed in
float64 with a bound on its rounding (`rounding`), and again in fractions where that bound leaves it open.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = Any  # of NumPy: of float64, or of fractions
VERSION = "1"
ROWS = 2048  # prototypes compared with all images of a file at once
TOGETHER = 512  # rivals of one image looked at together
SEARCHED = 60  # prices tried for a rival
REACH = 1 + 2.0**-50  # so that rounding hides no flip that is within the radius
MORE = 1 + 2.0**-40  # more than float64 loses of a sum
FIELDS = {
    "images": ("<f4", 2),
    "index": ("<i8", 1),
    "class": ("<i8", 1),
    "radius": ("<f8", 1),
    "price": ("<f8", 1),
    "default": ("<u4", 1),
    "pairs": ("<i8", 1),
    "pair_rival": ("<u4", 1),
    "pair_own": ("<u4", 1),
    "mixtures": ("<i8", 1),
    "mixture_rival": ("<u4", 1),
    "mixture_parts": ("<i8", 1),
    "part_own": ("<u4", 1),
    "part_weight": ("<u8", 1),
}


class UnusableError(Exception):
    """A file that is no witness or table of prototypes, or belongs to another one."""


class Table(NamedTuple):
    """The prototypes of a file, row by row, and what stands in front of them."""

    images: NDArray[np.float32]
    offsets: NDArray[np.float64]
    classes: NDArray[np.int64]
    front: str
    low: float
    high: float
    digest: str


class Moves(NamedTuple):
    """How far what is seen of each pixel can move up and down, and what that costs.

    In L2, but for a threshold, a move by e costs (fee + e)², and the costs here are the fees. In all other
    cases a pixel moves by its whole room or not at all: a shorter move costs at least its share of that.
    """

    seen: Array
    up: Array
    down: Array
    up_cost: Array
    down_cost: Array
    budget: Any
    squared: bool


class Verdict(NamedTuple):
    """What the check of one image says."""

    image: int
    label: int
    norm: str
    radius: float
    word: str
    reason: str


def read_table(path: Path) -> Table:
    """The prototypes of a safetensors file: eight bytes with the length of a JSON header, it, and numbers."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(2**20):
            digest.update(piece)
        total = file.tell()
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(2**20, total - 8):
            raise UnusableError(f"{path} is no file of prototypes.")
        header = json.loads(file.read(length))
    about = header["__metadata__"]
    if about["format"] != "absynth-prototypes" or about["version"] != VERSION:
        raise UnusableError(f"{path} is no file of prototypes of version {VERSION}.")
    kinds = {"F32": "<f4", "I32": "<i4"}

    def numbers(name: str, kind: str, dimensions: int) -> Array:
        tensor = header[name]
        shape, (start, end) = tuple(int(size) for size in tensor["shape"]), tensor["data_offsets"]
        fits = 0 <= start <= end <= total - 8 - length and end - start == 4 * math.prod(shape)
        if tensor["dtype"] != kind or len(shape) != dimensions or min(shape) < 1 or not fits:
            raise UnusableError(f"{path} has no proper tensor '{name}'.")
        return np.memmap(path, kinds[kind], "r", 8 + length + start, shape)

    images, offsets, classes = (
        numbers("prototypes", "F32", 2),
        numbers("offsets", "F32", 1).astype(np.float64),
        numbers("classes", "I32", 1).astype(np.int64),
    )
    front, low, high = about["front"], float.fromhex(about["low"]), float.fromhex(about["high"])
    if not (len(images) == len(offsets) == len(classes) and np.isfinite(offsets).all()):
        raise UnusableError(f"{path} has not one finite offset and one class for each prototype.")
    if front not in ("identity", "clamp", "threshold") or not 0 <= low < high <= 1:
        raise UnusableError(f"{path} has something unknown in front of its prototypes.")
    if front != "clamp" and (low, high) != (0, 1):
        raise UnusableError(f"{path} has limits without a clamp.")
    return Table(images, offsets, classes, front, low, high, digest.hexdigest())


class Claims(NamedTuple):
    """What a file of witnesses says; nothing of it is trusted but the shapes of the arrays."""

    norm: str
    roundings: int
    arrays: dict[str, Array]

    def of(self, one: int) -> tuple[Array, Any, int]:
        """The image, the radius and the default own prototype of one claim."""
        image = self.arrays["images"][one].astype(np.float64)
        return image, self.arrays["radius"][one], int(self.arrays["default"][one])

    def part(self, name: str, one: int) -> slice:
        """Where what belongs to one claim, or to one mixture, lies in other arrays."""
        return slice(*self.arrays[name][one : one + 2].tolist())


def read_claims(path: Path, table: Table) -> Claims:
    """The content of a file of witnesses for these prototypes."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        header = json.loads(bytes(stored["header"]))
        arrays = {name: stored[name] for name in FIELDS}
    if header["format"] != "absynth-proof" or header["version"] != VERSION:
        raise UnusableError(f"{path} is no file of witnesses of version {VERSION}.")
    if header["prototypes"] != table.digest:
        raise UnusableError(f"{path} is for other prototypes, with SHA-256 {header['prototypes']}.")
    if header["norm"] not in ("l2", "l1", "linf", "l0"):
        raise UnusableError(f"{path} is for an unknown norm.")
    if not (isinstance(header["roundings"], int) and 0 <= header["roundings"] <= 2**22):
        raise UnusableError(f"{path} does not say for how many roundings it is.")
    for name, (kind, dimensions) in FIELDS.items():
        if arrays[name].dtype != np.dtype(kind) or arrays[name].ndim != dimensions:
            raise UnusableError(f"{path} has no proper array '{name}'.")
    count = len(arrays["images"])
    each = ("index", "class", "radius", "price", "default")
    if any(len(arrays[name]) != count for name in each) or arrays["images"].shape[1] != table.images.shape[1]:
        raise UnusableError(f"{path} has not one entry an image, or images of another size.")
    for name, parts, entries in (
        ("pairs", count, ("pair_rival", "pair_own")),
        ("mixtures", count, ("mixture_rival",)),
        ("mixture_parts", len(arrays["mixture_rival"]), ("part_own", "part_weight")),
    ):
        ends = arrays[name]
        good = len(ends) == parts + 1 and ends[0] == 0 and (np.diff(ends) >= 0).all()
        if not good or any(len(arrays[entry]) != ends[-1] for entry in entries):
            raise UnusableError(f"{path} has an array '{name}' that does not count what belongs to it.")
    return Claims(header["norm"], header["roundings"], arrays)


def exact(values: Array) -> Array:
    """The same numbers as fractions."""
    found = np.array([Fraction(value) for value in values.ravel().tolist()], dtype=object)
    return found.reshape(values.shape)


def moves(table: Table, norm: str, image: Array, radius: Any) -> Moves:
    """The moves within the ball around an image; in fractions if the image consists of them."""
    number = type(radius)
    low, high, half = number(table.low), number(table.high), number(1) / 2
    if table.front == "threshold":
        # The infimum of the changes that flip a pixel.
        flip = abs(image - half)
        seen = np.where(image > half, number(1), number(0))
        up, down = 1 - seen, seen
        up_cost = down_cost = flip * flip if norm == "l2" else flip
        if norm == "linf":
            up, down = (np.where(flip <= radius * number(REACH), room, number(0)) for room in (up, down))
    else:
        seen = np.minimum(np.maximum(image, low), high)
        up, down = high - seen, seen - low
        up_fee, down_fee = np.maximum(low - image, number(0)), np.maximum(image - high, number(0))
        if norm == "linf":
            up = np.minimum(up, np.maximum(radius - up_fee, number(0)))
            down = np.minimum(down, np.maximum(radius - down_fee, number(0)))
        if norm == "l2":
            return Moves(seen, up, down, up_fee, down_fee, radius * radius, True)
        up_cost, down_cost = up_fee + up, down_fee + down
    if norm in ("linf", "l0"):
        up_cost = down_cost = np.full(image.shape, number(1 if norm == "l0" else 0))
    budget = {"l2": radius * radius, "l1": radius, "linf": number(0), "l0": radius}[norm]
    return Moves(seen, up, down, up_cost, down_cost, budget, False)


def gains(ball: Moves, gradient: Array, price: Array) -> tuple[Array, Array]:
    """The most that each pixel gains beyond its cost at a price, at least 0, and what it then costs."""
    if ball.squared:
        rising, slope = gradient > 0, abs(gradient)
        room, fee = np.where(rising, ball.up, ball.down), np.where(rising, ball.up_cost, ball.down_cost)
        step = np.minimum(np.maximum(slope / (2 * price) - fee, 0 * price), room)
        cost = (fee + step) * (fee + step)
        gain = slope * step - price * cost
    else:
        rise, fall = gradient * ball.up - price * ball.up_cost, -gradient * ball.down - price * ball.down_cost
        gain, cost = np.maximum(rise, fall), np.where(rise > fall, ball.up_cost, ball.down_cost)
    return np.maximum(gain, 0 * price), np.where(gain > 0, cost, 0 * price)


def rounding(pixels: int, parts: int, offsets: Any, spent: Any) -> Any:
    """How far float64 may be off in m − s − t B − Σ gains, with u = 2⁻⁵³ and n pixels.

    Every square, product and room is at most 2, so that the two scores consist of terms that sum to at most n
    + |w| each, and the gains to at most 2n, as does what is paid where there is a gain. The scores take fewer
    than n + parts + 8 roundings each, the sum of gains n, each gain fewer than parts + 16 of terms up to 4.
    So all is off by at most u (n + parts + 64) (8n + Σ|w| + t B); this is twice that.
    """
    return 2.0**-52 * (pixels + parts + 64) * (8 * pixels + offsets + spent)


def first_price(ball: Moves, gradient: Array) -> Array:
    """A price a row: the best one where pixels move wholly, and else what it is without limits and fees."""
    if ball.squared:
        length = np.sqrt((gradient * gradient).sum(1, keepdims=True))
        return np.maximum(length / (2 * math.sqrt(ball.budget) + 1e-9), 1e-9)
    cost: Array = np.where(gradient > 0, ball.up_cost, ball.down_cost)
    gain = np.maximum(gradient * ball.up, -gradient * ball.down)
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = np.where(cost > 0, gain / cost, 0)
    order: Array = np.argsort(-worth, axis=1)
    spent: Array = np.cumsum(np.take_along_axis(cost, order, 1), axis=1)
    last = np.minimum((spent <= ball.budget).sum(1, keepdims=True), gradient.shape[1] - 1)
    worth = np.take_along_axis(worth, np.take_along_axis(order, last, 1), 1)
    return np.where(spent[:, -1:] <= ball.budget, 0, worth)


def held_off(
    ball: Moves, margin: Array, gradient: Array, offsets: Array, parts: int
) -> tuple[Array, Array, Array]:
    """By how much rivals stay behind (at least, in float64), how far that may be off, and at which price."""
    pixels = gradient.shape[1]
    price = first_price(ball, gradient)
    best, error, chosen = np.full(len(margin), -np.inf), np.zeros(len(margin)), price[:, 0].copy()
    rows, step = np.arange(len(margin)), 2.0
    for _ in range(SEARCHED if ball.squared else 1):
        gain, cost = gains(ball, gradient[rows], price)
        ahead = margin[rows] - price[:, 0] * ball.budget - gain.sum(1)
        off = rounding(pixels, parts, offsets[rows], price[:, 0] * ball.budget)
        better = ahead - off > best[rows] - error[rows]
        improved = rows[better]
        best[improved], error[improved], chosen[improved] = ahead[better], off[better], price[better, 0]
        # The bound is convex in the price; too much spent means that the price was too low.
        price = np.maximum(price * np.where(cost.sum(1, keepdims=True) > ball.budget, step, 1 / step), 1e-9)
        step **= 0.7
        left = ~(ahead > off)
        rows, price = rows[left], price[left]
        if len(rows) == 0:
            break
    return best, error, chosen


def screen(ball: Moves, own: Array, price: float) -> tuple[Array, Array, float]:
    """Vectors a, b and a number c that bound the gains of all rivals q of one own prototype p at once.

    Where pixels move wholly, t B + Σ gains ≤ ⟨a, q⟩ + c for every q in [0, 1]^n, with t the price: a gain is
    convex in q_i, and so at most its chord between q_i = 0 and q_i = 1. Else S = ⟨b, q²⟩ + ⟨a, q⟩ + c is Σ
    b_i (q_i − p_i)², and at every price t' ≥ t the gain of a pixel is at most b_i (q_i − p_i)² / t', so that
    t' B + S / t' is at least Σ gains + t' B. For with g = 2 abs(q_i − p_i) a gain is g e − t' (fee + e)² for
    some e ≤ room, which is at most g² / 4t' − g fee ≤ g² / 4t' (1 − 2 fee t / max(p_i, 1 − p_i)), and at most
    g² / 4t' (room / (fee + room))², as g e ≤ g² / 4t' (e / (fee + e))² + t' (fee + e)².
    """
    if not ball.squared:
        black, white = (gains(ball, 2 * (end - own), price)[0] for end in (0.0, 1.0))
        return white - black, np.zeros_like(own), float(black.sum() + price * ball.budget)
    share = np.zeros_like(own)
    for room, fee in ((ball.up, ball.up_cost), (ball.down, ball.down_cost)):
        costly = np.maximum(1 - 2 * fee * price / np.maximum(own, 1 - own), 0)
        whole = np.where(room > 0, fee + room, 1)
        share = np.maximum(share, np.minimum(costly, (room / whole) ** 2))
    return -2 * share * own, share, float((share * own * own).sum())


def scores(table: Table, seen: Array, rows: Array) -> Array:
    """Of some prototypes, in float64."""
    difference = seen - table.images[rows].astype(np.float64)
    return (difference * difference).sum(1) + table.offsets[rows]


def forward_slack(table: Table, claims: Claims, one: int) -> float:
    """The margin at which a forward pass in float32 decides as real numbers do, anywhere in the ball.

    Let a term of a computed score go through at most k roundings, γ = k u / (1 − k u) with u = 2⁻²⁴, and W be
    as much as an offset lies below 0 at the most. Then a score s is computed as a number between (1 − γ) s −
    2γW and (1 + γ) s + 2γW, and that of y is below that of another class if it is smaller by more than (2γ s
    + 4γW) / (1 − γ), which is at most 3γ s + 6γW. Of s the default own prototype is a bound, by what it is at
    v and can grow: a pixel at a distance a from it that moves by e adds 2ae + e², at most 2e and at most 1.
    """
    image, radius, own = claims.of(one)
    norm, pixels = claims.norm, len(image)
    ball = moves(table, "l1", image, radius)
    away = np.abs(ball.seen - table.images[own])
    if norm == "l0":
        growth = radius
    elif table.front == "threshold":
        costs = np.sort(ball.up_cost) ** (2 if norm == "l2" else 1)
        spent = costs if norm == "linf" else np.cumsum(costs)
        growth = (spent <= (radius * radius if norm == "l2" else radius) * MORE).sum()
    elif norm == "l1":
        growth = 2 * radius
    elif norm == "l2":
        growth = 2 * radius * np.sqrt((away * away).sum()) + radius * radius
    else:
        growth = 2 * radius * away.sum() + pixels * radius * radius
    score = (away * away).sum() + table.offsets[own] + min(growth, pixels)
    relative = claims.roundings * 2.0**-24 / (1 - claims.roundings * 2.0**-24)
    below = max(0.0, -float(table.offsets.min()))
    return float(3 * relative * (max(score, 0) + 2 * below) * MORE)


def unscreened(table: Table, claims: Claims, usable: Sequence[int]) -> list[Array]:
    """The rivals of each usable image that its default own prototype is not seen at once to hold off."""
    asked = [claims.of(one) for one in usable]
    balls = [moves(table, claims.norm, image, radius) for image, radius, _ in asked]
    own = [table.images[row].astype(np.float64) for _, _, row in asked]
    price = np.maximum(claims.arrays["price"][usable, None], 1e-9)
    bounds = [screen(*three) for three in zip(balls, own, price[:, 0], strict=True)]
    first, second = np.stack([bound[0] for bound in bounds]), np.stack([bound[1] for bound in bounds])
    constant, seen = np.array([[bound[2]] for bound in bounds]), np.stack([ball.seen for ball in balls])
    budget = np.array([[float(ball.budget)] for ball in balls])
    needed = np.array(
        [
            forward_slack(table, claims, one) + scores(table, ball.seen, np.array([row]))[0]
            for one, ball, (_, _, row) in zip(usable, balls, asked, strict=True)
        ]
    )[:, None] - (seen * seen).sum(1, keepdims=True)
    # Two more sums of products than in `rounding`, and what the slack may be.
    off = 2 * rounding(seen.shape[1], 1, 2 * np.abs(table.offsets).max() + np.abs(needed), price * budget)
    left: list[list[int]] = [[] for _ in usable]
    for start in range(0, len(table.images), ROWS):
        rival = table.images[start : start + ROWS].astype(np.float64)
        if not (rival.min() >= 0 and rival.max() <= 1):
            raise UnusableError("There are prototypes outside [0, 1].")
        squares = rival * rival
        margin = squares.sum(1) + table.offsets[start : start + ROWS] - needed
        if balls[0].squared:
            margin -= 2 * seen @ rival.T
            useful = np.maximum(first @ rival.T + second @ squares.T + constant, 0) + off
            cheap, dear = price * budget + useful / price, 2 * np.sqrt(budget * useful)
            gain = np.where(useful > budget * price * price, dear, cheap)
        else:
            margin -= (2 * seen + first) @ rival.T
            gain = constant
        unclear = ~(margin - gain > off) & (
            table.classes[start : start + ROWS] != claims.arrays["class"][usable, None]
        )
        for one, row in zip(*(found.tolist() for found in np.nonzero(unclear)), strict=True):
            left[one].append(start + row)
    return [np.array(rows, dtype=np.int64) for rows in left]


def unfit(table: Table, claims: Claims, one: int) -> str:
    """What makes a claim unfit for any check; nothing if it is fit."""
    arrays, rows = claims.arrays, len(table.images)
    image, label = arrays["images"][one], arrays["class"][one]
    if not (image.min() >= 0 and image.max() <= 1):
        return "the image is not in [0, 1]"
    if not (0 <= arrays["radius"][one] <= len(image) and 0 <= arrays["price"][one] <= 2**30):
        return "the radius or the price is out of range"
    pairs, mixtures = claims.part("pairs", one), claims.part("mixtures", one)
    parts = slice(*arrays["mixture_parts"][[mixtures.start, mixtures.stop]].tolist())
    own = np.concatenate(
        [arrays["default"][one : one + 1], arrays["pair_own"][pairs], arrays["part_own"][parts]]
    )
    rivals = np.concatenate([arrays["pair_rival"][pairs], arrays["mixture_rival"][mixtures]])
    if (own >= rows).any() or (rivals >= rows).any():
        return "there is no such prototype"
    if (table.classes[own] != label).any() or (table.classes[rivals] == label).any():
        return "an own prototype is of another class, or a rival of the image's"
    if any(
        not arrays["part_weight"][claims.part("mixture_parts", number)].any() for number in _numbers(mixtures)
    ):
        return "the weights of a mixture are all zero"
    return ""


def _numbers(part: slice) -> range:
    return range(part.start, part.stop)


class Question(NamedTuple):
    """What the check of one image asks of each rival."""

    table: Table
    norm: str
    image: Array
    radius: Any
    slack: float

    def held(self, rivals: Array, parts: Array, weights: Array) -> tuple[Array, Array]:
        """Which rivals are held off by a mean of own prototypes, and about by how much.

        Args:
            rivals: Rows of the table.
            parts: Rows of own prototypes, for each rival.
            weights: Whole numbers in the same shape; divided by their sum they are the weights.
        """
        table, ball = self.table, moves(self.table, self.norm, self.image, self.radius)
        share = weights / weights.sum(1, keepdims=True)
        own = (share[:, :, None] * table.images[parts]).sum(1)
        score = (share * np.stack([scores(table, ball.seen, rows) for rows in parts.T], 1)).sum(1)
        margin = scores(table, ball.seen, rivals) - score - self.slack
        offsets = np.abs(table.offsets[rivals]) + np.abs(table.offsets[parts]).max(1) + self.slack
        gradient = 2 * (table.images[rivals] - own)
        best, error, price = held_off(ball, margin, gradient, offsets, parts.shape[1])
        proven = best > error
        for row in np.flatnonzero(~proven & (best > -error)):
            proven[row] = self.exactly(int(rivals[row]), parts[row], weights[row], float(price[row])) > 0
        return proven, best

    def exactly(self, rival: int, parts: Array, weights: Array, price: float) -> Fraction:
        """By how much a rival is held off at a price, in fractions and so without any rounding."""
        table, cost = self.table, Fraction(price)
        ball = moves(table, self.norm, exact(self.image), Fraction(float(self.radius)))
        own, against = exact(table.images[parts]), exact(table.images[rival])
        share = exact(weights) / exact(weights).sum()
        margin = ((ball.seen - against) ** 2).sum() + Fraction(float(table.offsets[rival]))
        margin -= (share * (((ball.seen - own) ** 2).sum(1) + exact(table.offsets[parts]))).sum()
        gain, _ = gains(ball, 2 * (against - (share[:, None] * own).sum(0)), cost)
        return Fraction(margin - Fraction(self.slack) - cost * ball.budget - gain.sum())


def check_claim(table: Table, claims: Claims, one: int, rivals: Array) -> str:
    """Why a claim is not proven; nothing if it is.

    Args:
        table: The prototypes.
        claims: Of a file.
        one: Which of them.
        rivals: All rivals but those that the default own prototype is known to hold off.
    """
    arrays = claims.arrays
    image, radius, default = claims.of(one)
    question = Question(table, claims.norm, image, radius, forward_slack(table, claims, one))
    pairs, mixtures = claims.part("pairs", one), claims.part("mixtures", one)
    rivals = np.setdiff1d(rivals, arrays["mixture_rival"][mixtures])
    answer = dict(zip(arrays["pair_rival"][pairs].tolist(), arrays["pair_own"][pairs].tolist(), strict=True))
    own = np.array([answer.get(rival, default) for rival in rivals.tolist()], dtype=np.int64)[:, None]
    asked = []
    for start in range(0, len(rivals), TOGETHER):
        some = slice(start, start + TOGETHER)
        asked.append((rivals[some], own[some], np.ones(own[some].shape)))
    for number in _numbers(mixtures):
        among = claims.part("mixture_parts", number)
        parts, weights = arrays["part_own"][None, among], arrays["part_weight"][None, among]
        asked.append((arrays["mixture_rival"][number : number + 1], parts, weights.astype(np.float64)))
    worst, missed = math.inf, -1
    for against, parts, weights in asked:
        proven, ahead = question.held(against, parts, weights)
        for row in np.flatnonzero(~proven):
            if missed < 0 or ahead[row] < worst:
                worst, missed = float(ahead[row]), int(against[row])
    if missed < 0:
        return ""
    return f"rival {missed} of class {table.classes[missed]} is not held off, by {-worst:.3g} of the score"


def check_file(path: Path, table: Table, known: Array | None) -> Iterator[Verdict]:
    """The verdicts on all claims of a file.

    Args:
        path: Of the file.
        table: The prototypes.
        known: The images that the claims should be about, by their index.
    """
    claims = read_claims(path, table)
    yield from check_claims(table, claims, known)


def check_claims(table: Table, claims: Claims, known: Array | None = None) -> Iterator[Verdict]:
    """The verdicts on some claims."""
    arrays = claims.arrays
    count = len(arrays["images"])
    lacking = [unfit(table, claims, one) for one in range(count)]
    for one, index in enumerate(arrays["index"].tolist()):
        if known is not None and not lacking[one]:
            there = 0 <= index < len(known) and np.array_equal(known[index], arrays["images"][one])
            lacking[one] = "" if there else "the image is not the one of this index"
    usable = [one for one in range(count) if not lacking[one]]
    failed = dict(zip(usable, unscreened(table, claims, usable) if usable else [], strict=True))
    for one in range(count):
        reason = lacking[one] or check_claim(table, claims, one, failed[one])
        word = "not covered" if lacking[one] else "refuted" if reason else "proven"
        index, label, radius = (arrays[name][one].item() for name in ("index", "class", "radius"))
        yield Verdict(index, label, claims.norm, radius, word, reason)


def read_images(path: Path) -> Array:
    """The images of an IDX file of bytes, perhaps compressed, as numbers b / 255 rounded to float32."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    count, height, width = (int.from_bytes(content[start : start + 4], "big") for start in (4, 8, 12))
    if content[:4] != b"\0\0\x08\x03" or len(content) != 16 + count * height * width:
        raise UnusableError(f"{path} is no IDX file of images.")
    values = np.frombuffer(content, np.uint8, offset=16).reshape(count, height * width)
    return values.astype(np.float32) / np.float32(255)


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks all witnesses of a folder and says what of each image is proven.

    Returns:
        0 if every claim is proven, 1 if some are not, 2 if a file cannot be used.
    """
    parser = argparse.ArgumentParser(description="Checks witnesses of certified radii.")
    parser.add_argument("proofs", type=Path, help="a folder of .npz files, or one of them")
    parser.add_argument("--prototypes", type=Path, help="by default prototypes.safetensors beside the proofs")
    parser.add_argument("--images", type=Path, help="IDX file of the images, to see that they are these")
    parser.add_argument("--out", type=Path, help="CSV file for the verdicts")
    chosen = parser.parse_args(arguments)
    folder = chosen.proofs if chosen.proofs.is_dir() else chosen.proofs.parent
    files = sorted(folder.glob("*.npz")) if chosen.proofs.is_dir() else [chosen.proofs]
    verdicts: list[Verdict] = []
    try:
        if not files:
            raise UnusableError(f"There are no witnesses in {folder}.")
        table = read_table(chosen.prototypes or folder / "prototypes.safetensors")
        known = None if chosen.images is None else read_images(chosen.images)
        for file in files:
            for verdict in check_file(file, table, known):
                index, label, norm, radius, word, reason = verdict
                print(f"image {index}, class {label}, {norm} {radius:.6g}: {word}{reason and ': ' + reason}")
                verdicts.append(verdict)
    except Exception as error:  # whatever a damaged file may lead to: nothing of it counts as proven
        print(f"Not checked: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if chosen.out is not None:
        with chosen.out.open("w", newline="") as target:
            rows = csv.writer(target)
            rows.writerow(Verdict._fields)
            rows.writerows([*verdict[:3], verdict.radius.hex(), *verdict[4:]] for verdict in verdicts)
    proven = sum(verdict.word == "proven" for verdict in verdicts)
    print(f"{proven} of {len(verdicts)} claims proven, for prototypes with SHA-256 {table.digest}.")
    return 0 if proven == len(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
