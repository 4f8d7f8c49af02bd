"""Writes docs/comparison.md from the radii, distances and seconds that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from rows import PUBLISHED, ROWS, Row
from torch import Tensor

from absynth.evaluate.certification import radii, read_certificate_file
from absynth.files import write_text
from absynth.norms import Norm
from absynth.report.markdown import markdown_table
from absynth.report.tables import NAMES

SIZES: dict[Norm, tuple[float, ...]] = {
    "l2": (0.3, 1.0, 1.5, 1.58, 2.0, 3.0),
    "linf": (0.1, 0.2, 0.3, 0.4),
    "l1": (1.0, 10.0),
    "l0": (4.0, 8.0, 12.0),
}

UNIONS: tuple[dict[Norm, float], ...] = (
    {"l1": 1.0, "l2": 0.3, "linf": 0.1},
    {"linf": 0.3, "l2": 2.0, "l1": 10.0},
)

NOTHING = "-"

HEAD = """# What is proven of whom

Written by `python docs/tools/comparison/comparison.py page` from what its other parts measured.

Certificates of different kinds are usually quoted from papers that measured them on different images and for
different sizes. Here all rows are of the same {images:,} test images of MNIST (seed 0), and computed by one
program. Every figure but the attacked ones is a **lower bound** on robustness: the share of images, in
percent, that are classified rightly and proven to stay so. Attacked figures are **upper bounds**, over the
first {attacked} of the same images under the suite `quick`. The best figure of a column is bold.

Deterministic rows hold with certainty. Rows of *smoothing* and *ablation* hold with probability 99.9 % for
each image, and they certify another classifier than the network: its majority over {samples:,} random copies
of the image, whose answer costs that much as well. `certified-abs`, `certified-binary-abs` and
`nearest-neighbour` are proven for their own float32 forward pass; networks for real arithmetic
([Certificates](certificates.md)).
"""


@dataclass(frozen=True)
class Measured:
    """What is known of a row.

    Attributes:
        row: The row.
        clean: Share of right decisions.
        radius: By norm, in the order of the images.
        certain: Whether it holds with certainty.
    """

    row: Row
    clean: float
    radius: Mapping[Norm, Float[Tensor, "images"]]
    certain: bool


def read_row(row: Row, path: Path) -> Measured:
    """A row from the file of its radii.

    Raises:
        AbsynthError: If it cannot be read.
    """
    records = read_certificate_file(path, "measure the row again")
    first = [record for record in records if record.norm == row.norms[0]]
    clean = sum(record.prediction == record.label for record in first) / len(first)
    return Measured(
        row,
        clean,
        {norm: radii(records, norm) for norm in row.norms},
        all(record.confidence is None for record in records),
    )


def table(measured: Sequence[Measured], columns: Mapping[str, Callable[[Measured], float | None]]) -> str:
    """A row each, with the best of every column in bold.

    Args:
        measured: The rows.
        columns: By heading, the number of a row, if it has one.
    """
    values = [[number(one) for number in columns.values()] for one in measured]
    best = [
        max((value for value in column if value is not None), default=None)
        for column in zip(*values, strict=True)
    ]
    lines = [
        [one.row.title, *(show(value, top) for value, top in zip(numbers, best, strict=True))]
        for one, numbers in zip(measured, values, strict=True)
        if any(number is not None for number in numbers)
    ]
    return markdown_table(["", *columns], lines)


def show(value: float | None, best: float | None) -> str:
    """A number, bold where it is the best and more than nothing."""
    if value is None:
        return NOTHING
    text = f"{value:.4g}" if value > 0 else "0"
    return f"**{text}**" if value == best and value > 0 else text


def certified(norm: Norm, size: float) -> Callable[[Measured], float | None]:
    """The share in percent that is proven at a size."""

    def share(one: Measured) -> float | None:
        if norm not in one.radius:
            return None
        return round(100 * float((one.radius[norm] >= size).double().mean()), 1)

    return share


def median(norm: Norm) -> Callable[[Measured], float | None]:
    """The median radius."""

    def middle(one: Measured) -> float | None:
        return None if norm not in one.radius else round(float(one.radius[norm].quantile(0.5)), 3)

    return middle


def union(sizes: Mapping[Norm, float]) -> Callable[[Measured], float | None]:
    """The share in percent that is proven at several sizes at once."""

    def share(one: Measured) -> float | None:
        if not sizes.keys() <= one.radius.keys():
            return None
        proven = torch.stack([one.radius[norm] >= size for norm, size in sizes.items()]).all(dim=0)
        return round(100 * float(proven.double().mean()), 1)

    return share


def attacked_table(measured: Sequence[Measured], found: Mapping[str, Mapping[str, list[float]]]) -> str:
    """What attacks leave, for the models that were attacked."""
    models = dict.fromkeys(one.row.model for one in measured if one.row.model in found)
    columns = [(norm, size) for norm, sizes in SIZES.items() for size in sizes[-3:]]
    lines = []
    for model in models:
        cells = []
        for norm, size in columns:
            distances = torch.tensor(found[model][norm], dtype=torch.float64)
            cells.append(f"{100 * float((distances > size).double().mean()):.0f}")
        lines.append([f"`{model}`", *cells])
    return markdown_table(["", *(f"{NAMES[norm]} {size:g}" for norm, size in columns)], lines)


def seconds_table(measured: Sequence[Measured], seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds an image, and whether a row is certain."""
    lines = [
        [
            one.row.title,
            "yes" if one.certain else "no",
            *(f"{seconds[one.row.name][norm]:.3g}" if norm in one.radius else NOTHING for norm in SIZES),
        ]
        for one in measured
        if one.row.name in seconds
    ]
    return markdown_table(["", "deterministic", *(NAMES[norm] for norm in SIZES)], lines)


def write_page(page: Path, kept: Path) -> None:
    """Writes the page.

    Args:
        page: Where to.
        kept: Folder of what was measured.
    """
    measured = [read_row(row, path) for row in ROWS if (path := kept / f"{row.name}.parquet").exists()]
    attacked = json.loads((kept / "attacked.json").read_text())
    seconds = json.loads((kept / "seconds.json").read_text())
    parts = [
        HEAD.format(
            images=len(next(iter(measured[0].radius.values()))),
            attacked=len(next(iter(attacked.values()))["l2"]),
            samples=10_000,
        ).rstrip()
    ]
    for norm, sizes in SIZES.items():
        columns: dict[str, Callable[[Measured], float | None]] = {}
        if norm == "l2":
            columns["clean"] = lambda one: round(100 * one.clean, 1)
        columns |= {f"at {size:g}": certified(norm, size) for size in sizes}
        columns["median radius"] = median(norm)
        parts += [f"## {NAMES[norm]}", table(measured, columns)]
    titles = [", ".join(f"{NAMES[norm]} {size:g}" for norm, size in sizes.items()) for sizes in UNIONS]
    parts += [
        "## Several norms at once",
        table(measured, {title: union(sizes) for title, sizes in zip(titles, UNIONS, strict=True)}),
        "## What attacks leave",
        "Upper bounds, in percent of the images; the networks themselves, not their smoothed classifiers.",
        attacked_table(measured, attacked),
        "## Cost",
        "Seconds an image, one thread, ten images.",
        seconds_table(measured, seconds),
        "## What others have published",
        "Not measured here, on all 10,000 test images. The best that we know of.",
        markdown_table(
            ["", "proven", "to know", "source"],
            [[one.what, one.figures, one.note, one.source] for one in PUBLISHED],
            others="---",
        ),
        "## The commands",
        "\n".join(f"- `{one.row.command}`" for one in measured),
    ]
    write_text(page, "\n\n".join(parts) + "\n")
