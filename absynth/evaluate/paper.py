"""What the paper measured, to stand beside our own figures.

Source: Schott, Rauber, Bethge, Brendel, "Towards the first adversarially robust neural network model on
MNIST", ICLR 2019, arXiv 1805.09190, Table 1 ("All" rows; 1,000 test images). These are results of attacks:
upper bounds on robustness.
"""

from __future__ import annotations

from typing import NamedTuple

from absynth.norms import Norm

THRESHOLDS: dict[Norm, float] = {"l2": 1.5, "linf": 0.3, "l0": 12.0}
"""The distance at which Table 1 gives accuracy, by norm (L0 in pixels)."""


class PaperFigure(NamedTuple):
    """Median adversarial distance, and the accuracy at the norm's threshold."""

    median: float
    accuracy: float


PAPER: dict[str, dict[Norm, PaperFigure]] = {
    "abs": {
        "l2": PaperFigure(2.24, 0.80),
        "linf": PaperFigure(0.23, 0.08),
        "l0": PaperFigure(16.0, 0.69),
    },
    "binary-abs": {
        "l2": PaperFigure(1.33, 0.39),
        "linf": PaperFigure(0.44, 0.77),
        "l0": PaperFigure(21.0, 0.77),
    },
    "cnn": {
        "l2": PaperFigure(1.09, 0.08),
        "linf": PaperFigure(0.08, 0.00),
        "l0": PaperFigure(9.0, 0.19),
    },
    "binary-cnn": {
        "l2": PaperFigure(0.86, 0.03),
        "linf": PaperFigure(0.34, 0.64),
        "l0": PaperFigure(11.0, 0.38),
    },
    "nearest-neighbour": {
        "l2": PaperFigure(1.54, 0.53),
        "linf": PaperFigure(0.19, 0.22),
        "l0": PaperFigure(10.0, 0.34),
    },
    "madry": {
        "l2": PaperFigure(1.36, 0.35),
        "linf": PaperFigure(0.34, 0.88),
        "l0": PaperFigure(4.0, 0.00),
    },
}
"""By the name that the model has in our zoo."""
