"""What the certified models prove on MNIST's test images, by the radii that ``absynth certify`` kept."""

from __future__ import annotations

from pathlib import Path

from cells import number, percent

from absynth.certify.summary import UNION, certified_accuracy, union_accuracy
from absynth.evaluate.certification import radii, read_certificate_file
from absynth.norms import Norm
from absynth.report.markdown import markdown_table
from absynth.report.tables import NAMES

PROVEN: dict[str, dict[Norm, tuple[float, ...]]] = {
    "certified-abs": {"l2": (1.0, 1.5, 1.58, 2.0), "l0": (12.0,), "linf": (0.1,), "l1": ()},
    "certified-binary-abs": {"linf": (0.3,), "l0": (12.0,)},
}
"""The sizes that the certified accuracy of each model is given at, by norm."""

DIGITS: dict[Norm, int] = {"l2": 3, "l0": 0}
"""After the point of a median radius, for the norms whose median is given."""

UNITS: dict[Norm, str] = {"l0": " pixels"}


def final_figures(path: Path, proven: dict[Norm, tuple[float, ...]]) -> list[tuple[str, str]]:
    """The figures of a model by what they are.

    Args:
        path: Of its radii.
        proven: What to give of it.

    Raises:
        AbsynthError: If the radii cannot be read.
    """
    records = read_certificate_file(path, "certify the test images again")
    by_norm = {norm: radii(records, norm) for norm in proven}
    clean = sum(record.prediction == record.label for record in records) / len(records)
    figures = [("images", f"{len(next(iter(by_norm.values()))):,}"), ("clean", f"{percent(clean, 2)} %")]
    for norm, sizes in proven.items():
        for size in sizes:
            share = percent(certified_accuracy(by_norm[norm], size), 2)
            figures.append((f"{NAMES[norm]}, certified at {size:g}{UNITS.get(norm, '')}", f"{share} %"))
        if norm in DIGITS:
            middle = float(by_norm[norm].quantile(0.5))
            figures.append((f"{NAMES[norm]}, median", number(middle, DIGITS[norm])))
    if by_norm.keys() >= UNION.keys():
        *most, last = (f"{NAMES[norm]} {size:g}" for norm, size in UNION.items())
        share = percent(union_accuracy(by_norm), 2)
        figures.append((f"{', '.join(most)} and {last} at once", f"{share} %"))
    return figures


def final_table(folder: Path) -> str | None:
    """The figures of the models whose radii are in a folder, or nothing where there are none."""
    paths = {name: folder / f"{name}-certificates.parquet" for name in PROVEN}
    rows = [
        [f"`{name}`" if place == 0 else "", *figure]
        for name, path in paths.items()
        if path.exists()
        for place, figure in enumerate(final_figures(path, PROVEN[name]))
    ]
    return markdown_table(["model", "figure", "proven"], rows) if rows else None
