"""An oracle that shares nothing with the certificates but the definition of the classifier."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.models.prototypes import PrototypeClassifier

Array = NDArray[np.float64]


class Codebook(PrototypeClassifier):
    """A classifier by given prototypes.

    Args:
        images: Shape (class, prototype, pixel).
        offsets: Shape (class, prototype).
    """

    type_name = "test-codebook"

    def __init__(self, images: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototype_images", images)
        self.register_buffer("prototype_offsets", offsets)
        self.index()


def random_codebook(seed: int, classes: int, count: int, pixels: int, offset: float = 0.2) -> Codebook:
    """Prototypes that are partly black, partly white and partly grey, as decoded digits are."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(classes, count, pixels, generator=generator)
    extreme = (torch.rand(classes, count, pixels, generator=generator) < 0.5).float()
    mixed = torch.where(torch.rand(classes, count, pixels, generator=generator) < 0.6, extreme, grey)
    return Codebook(mixed, offset * torch.rand(classes, count, generator=generator))


def random_images(seed: int, count: int, height: int, width: int) -> Tensor:
    """Images with many pixels at 0, 1 and exactly ½, where the closed forms have their corners."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5, 0.25, 0.7])
    picked = levels[torch.randint(len(levels), (count, 1, height, width), generator=generator)]
    noise = torch.rand(count, 1, height, width, generator=generator)
    return torch.where(torch.rand(count, 1, height, width, generator=generator) < 0.7, picked, noise)


@dataclass(frozen=True)
class Oracle:
    """Distances to the nearest image that is decided otherwise, by brute force and by general solvers.

    Everything is in float64 and from the model's two tables alone.
    """

    images: Array
    offsets: Array

    def scores(self, points: Array) -> Array:
        """Class scores, shape (point, class)."""
        squares = ((points[:, None, None] - self.images[None]) ** 2).sum(-1)
        return np.asarray((squares + self.offsets).min(-1))

    def decided_otherwise(self, points: Array, label: int) -> NDArray[np.bool_]:
        """Whether some other class scores at least as well as the label."""
        scores = self.scores(points)
        return np.asarray(np.delete(scores, label, axis=1).min(1) <= scores[:, label])

    def _duels(self, label: int) -> list[tuple[Array, Array]]:
        """For each rival the matrix and right-hand side of {x : it beats all own prototypes}: A x ≥ b."""
        own, own_offsets = self.images[label], self.offsets[label]
        own, own_offsets = own[np.isfinite(own_offsets)], own_offsets[np.isfinite(own_offsets)]
        result = []
        for rival_class in range(len(self.images)):
            for rival, offset in zip(self.images[rival_class], self.offsets[rival_class], strict=True):
                if rival_class == label or not math.isfinite(offset):
                    continue
                matrix = 2 * (rival - own)
                right = (rival**2).sum() + offset - (own**2).sum(1) - own_offsets
                result.append((matrix, right))
        return result

    def exact(self, image: Array, label: int, norm: str) -> float:
        """The distance by SLSQP (L2), one linear program a rival (L1, Linf), or all sets of pixels (L0)."""
        return min((self._nearest(image, *duel, norm) for duel in self._duels(label)), default=math.inf)

    def clamped(self, image: Array, label: int, norm: str, tail: float) -> float:
        """The distance behind a clamp: Linf by bisection, L2 and L1 over all sets of pixels in dead zones."""
        seen = image.clip(tail, 1 - tail)
        low, high = tail - seen, 1 - tail - seen
        dead_up, dead_down = (tail - image).clip(0), (image - 1 + tail).clip(0)
        hidden = np.flatnonzero(dead_up + dead_down)
        best = math.inf
        for matrix, right in self._duels(label):
            if norm == "linf":
                wanted = right - matrix @ seen

                def possible(size: float, matrix: Array = matrix, wanted: Array = wanted) -> bool:
                    up, down = (size - dead_up).clip(0, high), (size - dead_down).clip(0, -low)
                    return _feasible(matrix, wanted, -down, up)

                below, above = 0.0, 1.0
                if not possible(above):
                    continue
                while above - below > 1e-6:
                    middle = (below + above) / 2
                    below, above = (below, middle) if possible(middle) else (middle, above)
                best = min(best, above)
                continue
            for moves in itertools.product((False, True), repeat=len(hidden)):
                still = hidden[~np.array(moves, dtype=bool)]
                base, least, most = image.copy(), tail - image, 1 - tail - image
                base[still] = seen[still]
                least[still] = most[still] = 0
                best = min(best, _shortest(matrix, right - matrix @ base, least, most, norm))
        return best

    def _nearest(self, image: Array, matrix: Array, right: Array, norm: str) -> float:
        pixels = len(image)
        wanted = right - matrix @ image
        low, high = -image, 1 - image
        if norm != "l0":
            return _shortest(matrix, wanted, low, high, norm)
        for count in range(pixels + 1):
            for chosen in itertools.combinations(range(pixels), count):
                free = np.isin(np.arange(pixels), chosen)
                if _feasible(matrix, wanted, np.where(free, low, 0), np.where(free, high, 0)):
                    return count
        return math.inf

    def grid(self, image: Array, label: int, norm: str, levels: int, tail: float = 0.0) -> float:
        """The distance to the nearest point of a grid over the box that is decided otherwise.

        The grid holds the image's own values, so that it sees sparse changes. With a tail the classifier
        sees values from it to 1 − tail alone.
        """
        axes = [np.unique([*np.linspace(0, 1, levels), tail, 1 - tail, value]) for value in image]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(image))
        found = points[self.decided_otherwise(points.clip(tail, 1 - tail), label)] - image
        if len(found) == 0:
            return math.inf
        if norm == "l0":
            return float((found != 0).sum(1).min())
        return float(np.linalg.norm(found, ord={"l2": 2, "l1": 1, "linf": np.inf}[norm], axis=1).min())

    def binary(self, image: Array, label: int, norm: str) -> float:
        """The infimum of the changes that flip the decision behind the threshold, over all binary images."""
        seen = (image > 0.5).astype(float)
        every = np.array(list(itertools.product((0.0, 1.0), repeat=len(image))))
        flips = every[self.decided_otherwise(every, label)] != seen
        costs = np.where(flips, 1.0 if norm == "l0" else np.abs(image - 0.5), 0)
        if len(flips) == 0:
            return math.inf
        order = {"l0": 1, "l1": 1, "l2": 2, "linf": np.inf}[norm]
        return float(np.linalg.norm(costs, ord=order, axis=1).min())


def _shortest(matrix: Array, wanted: Array, low: Array, high: Array, norm: str) -> float:
    """The smallest ‖δ‖ with A δ ≥ b in the box; infinite if there is none."""
    pixels = len(low)
    if not _feasible(matrix, wanted, low, high):
        return math.inf
    if norm == "l2":
        return _least_squares(matrix, wanted, low, high)
    # abs(δ_i) ≤ t_i, with one t for all pixels under Linf.
    slots = 1 if norm == "linf" else pixels
    spread = np.ones((pixels, 1)) if norm == "linf" else np.eye(pixels)
    constraints = np.block(
        [[-matrix, np.zeros((len(matrix), slots))], [np.eye(pixels), -spread], [-np.eye(pixels), -spread]]
    )
    result = linprog(
        np.concatenate([np.zeros(pixels), np.ones(slots)]),
        A_ub=constraints,
        b_ub=np.concatenate([-wanted, np.zeros(2 * pixels)]),
        bounds=[*zip(low, high, strict=True), *[(0, None)] * slots],
    )
    return float(result.fun)


def _feasible(matrix: Array, wanted: Array, low: Array, high: Array) -> bool:
    """Whether some δ in the box has A δ ≥ b."""
    bounds = list(zip(low, high, strict=True))
    return linprog(np.zeros(len(low)), A_ub=-matrix, b_ub=-wanted, bounds=bounds).status == 0


def _least_squares(matrix: Array, wanted: Array, low: Array, high: Array) -> float:
    """The smallest ‖δ‖ with A δ ≥ b in the box, the best of a few starts."""
    best = math.inf
    for start in (np.zeros_like(low), (low + high) / 2):
        result = minimize(
            lambda step: step @ step,
            start,
            jac=lambda step: 2 * step,
            bounds=list(zip(low, high, strict=True)),
            constraints={
                "type": "ineq",
                "fun": lambda step: matrix @ step - wanted,
                "jac": lambda step: matrix,
            },
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        if (matrix @ result.x - wanted).min() > -1e-7:
            best = min(best, math.sqrt(max(result.fun, 0)))
    return best


@dataclass(frozen=True)
class Toolbox:
    """What the tests of this folder share."""

    codebook: type[Codebook] = Codebook

    def random_codebook(
        self, seed: int, classes: int, count: int, pixels: int, offset: float = 0.2
    ) -> Codebook:
        return random_codebook(seed, classes, count, pixels, offset)

    def random_images(self, seed: int, count: int, height: int, width: int) -> Tensor:
        return random_images(seed, count, height, width)

    def behind(self, front: str, model: PrototypeClassifier) -> nn.Module:
        """The model behind nothing (``grey``), behind a threshold or behind a clamp."""
        fronts = {"grey": lambda model: model, "binary": Binarized, "clamped": Clamped}
        classifier: nn.Module = fronts[front](model)
        return classifier

    def oracle(self, model: PrototypeClassifier) -> Oracle:
        stored = model.prototypes()
        return Oracle(stored.images.double().numpy(), stored.offsets.double().numpy())


@pytest.fixture(scope="session")
def toolbox() -> Toolbox:
    return Toolbox()
