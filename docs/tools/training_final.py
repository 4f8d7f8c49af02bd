"""What the certified models prove on MNIST's test images, by the radii that ``absynth certify`` kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow.compute as pc
import pyarrow.parquet as pq

Radii = dict[str, list[float]]
"""By norm, those of the same images in the same order; 0 where the decision is wrong."""

UNION = {"l1": 1.0, "l2": 0.3, "linf": 0.1}
"""Sizes that an image withstands all at once, each in its norm (Croce and Hein 2020, arXiv 1905.11213)."""


@dataclass(frozen=True)
class Figure:
    """One line of a table.

    Attributes:
        name: What it says it is.
        of: The figure as text, from the radii.
    """

    name: str
    of: Callable[[Radii], str]


def share(radii: Sequence[float], size: float) -> str:
    """Of the images, in percent, those that are proven to withstand a size.

    >>> share([0.0, 1.0, 2.0], 1.0)
    '66.67 %'
    """
    return f"{100 * sum(radius >= size for radius in radii) / len(radii):.2f} %"


def certified(norm: str, size: float, unit: str = "") -> Figure:
    """Certified accuracy at a size."""
    name = {"l2": "L2", "l1": "L1", "linf": "Linf", "l0": "L0"}[norm]
    return Figure(f"{name}, certified at {size:g}{unit}", lambda radii: share(radii[norm], size))


def middle(norm: str, digits: int) -> Figure:
    """The median of the radii."""
    name = {"l2": "L2", "l0": "L0"}[norm]
    return Figure(f"{name}, median", lambda radii: f"{median(radii[norm]):.{digits}f}")


def union(radii: Radii) -> str:
    """The share of images that withstand every size of ``UNION``."""
    rows = zip(*(radii[norm] for norm in UNION), strict=True)
    return share([min(row[k] / size for k, size in enumerate(UNION.values())) for row in rows], 1.0)


FIGURES: dict[str, tuple[Figure, ...]] = {
    "certified-abs": (
        *(certified("l2", size) for size in (1.0, 1.5, 1.58, 2.0)),
        middle("l2", 3),
        certified("l0", 12, " pixels"),
        middle("l0", 0),
        certified("linf", 0.1),
        Figure("L1 1, L2 0.3 and Linf 0.1 at once", union),
    ),
    "certified-binary-abs": (
        certified("linf", 0.3),
        certified("l0", 12, " pixels"),
        middle("l0", 0),
    ),
}
"""What is said of each model."""


def read_radii(path: Path) -> tuple[int, float, Radii]:
    """Number of images, clean accuracy and radii of a file that ``absynth certify`` wrote."""
    stored = pq.read_table(path).sort_by([("norm", "ascending"), ("index", "ascending")])
    right = pc.equal(stored["label"], stored["prediction"]).to_numpy()
    radii = {
        norm: stored.filter(pc.equal(stored["norm"], norm))["radius"].to_pylist()
        for norm in stored["norm"].unique().to_pylist()
    }
    return len(next(iter(radii.values()))), float(right.mean()), radii


def final_table(folder: Path) -> str | None:
    """The figures of the models whose radii are in a folder, or nothing where there are none."""
    rows = []
    for name, figures in FIGURES.items():
        path = folder / f"{name}-certificates.parquet"
        if not path.exists():
            continue
        images, clean, radii = read_radii(path)
        rows.append(f"| `{name}` | images | {images:,} |")
        rows.append(f"| | clean | {100 * clean:.2f} % |")
        rows += [f"| | {figure.name} | {figure.of(radii)} |" for figure in figures]
    return "\n".join(["| model | figure | |", "| --- | --- | ---: |", *rows]) if rows else None
