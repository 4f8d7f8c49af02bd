"""What the paper measured, to stand beside our own figures.

Source: Schott, Rauber, Bethge, Brendel, "Towards the first adversarially robust neural network model on
MNIST", ICLR 2019, arXiv 1805.09190, Table 1 ("All" rows; 1,000 test images) and Figure 2, from whose curves
the medians and the accuracies at other distances are taken. These are results of attacks: upper bounds on
robustness.
"""

from __future__ import annotations

from dataclasses import dataclass

from absynth.norms import Norm

THRESHOLDS: dict[Norm, float] = {"l2": 1.5, "linf": 0.3, "l0": 12.0}
"""The distance at which Table 1 gives accuracy, by norm (L0 in pixels)."""

SIZES: dict[Norm, tuple[float, ...]] = {
    "l2": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "linf": (0.1, 0.2, 0.3, 0.35, 0.4),
    "l0": (4.0, 8.0, 12.0, 20.0, 30.0, 40.0),
}
"""Distances at which Figure 2 is read, by norm; the thresholds of Table 1 are among them."""

IMAGES = 1000
"""How many test images the paper attacked."""


DATA = "mnist"
"""What the paper is about: on other data neither its thresholds nor its figures mean anything."""


def is_paper_data(dataset: str) -> bool:
    """Whether the paper's thresholds and figures may stand beside figures of a data set.

    >>> is_paper_data("MNIST"), is_paper_data("letters.npz")
    (True, False)
    """
    return dataset.strip().lower() == DATA


def paper_threshold(dataset: str, norm: Norm) -> float | None:
    """The distance at which Table 1 gives accuracy; None on other data and in L1.

    >>> paper_threshold("mnist", "l2"), paper_threshold("letters.npz", "l2")
    (1.5, None)
    """
    return THRESHOLDS.get(norm) if is_paper_data(dataset) else None


@dataclass(frozen=True)
class PaperFigure:
    """A model of the paper under all its attacks of one norm.

    Attributes:
        median: Median adversarial distance.
        accuracies: Fraction of images with no adversarial at or below a distance, by distance.
    """

    median: float
    accuracies: dict[float, float]


def _figure(norm: Norm, median: float, *percent: int) -> PaperFigure:
    accuracies = dict(zip(SIZES[norm], (share / 100 for share in percent), strict=True))
    return PaperFigure(median, accuracies)


PAPER: dict[str, dict[Norm, PaperFigure]] = {
    "abs": {
        "l2": _figure("l2", 2.24, 92, 86, 80, 68, 31, 14),
        "linf": _figure("linf", 0.232, 88, 73, 8, 1, 0),
        "l0": _figure("l0", 16.3, 90, 81, 69, 34, 14, 3),
    },
    "binary-abs": {
        "l2": _figure("l2", 1.33, 87, 74, 39, 15, 2, 0),
        "linf": _figure("linf", 0.440, 94, 87, 77, 72, 61),
        "l0": _figure("l0", 21.3, 90, 83, 77, 56, 35, 18),
    },
    "cnn": {
        "l2": _figure("l2", 1.09, 89, 61, 8, 1, 0, 0),
        "linf": _figure("linf", 0.075, 13, 0, 0, 0, 0),
        "l0": _figure("l0", 8.7, 85, 52, 19, 4, 1, 1),
    },
    "binary-cnn": {
        "l2": _figure("l2", 0.86, 82, 35, 3, 0, 0, 0),
        "linf": _figure("linf", 0.338, 95, 87, 64, 48, 31),
        "l0": _figure("l0", 10.7, 88, 62, 38, 11, 5, 5),
    },
    "nearest-neighbour": {
        "l2": _figure("l2", 1.54, 86, 76, 53, 30, 13, 5),
        "linf": _figure("linf", 0.190, 81, 45, 22, 9, 0),
        "l0": _figure("l0", 10.0, 85, 68, 34, 10, 2, 0),
    },
    "madry": {
        "l2": _figure("l2", 1.36, 90, 77, 35, 2, 0, 0),
        "linf": _figure("linf", 0.341, 96, 92, 88, 36, 2),
        "l0": _figure("l0", 4.0, 37, 4, 0, 0, 0, 0),
    },
}
"""By the name that the model has in our zoo, then by norm."""
