"""Certified accuracy, as tables and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from absynth.certify.paper import WARNING
from absynth.certify.summary import SIZES, certified_accuracy
from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord, radii
from absynth.files import atomic_path
from absynth.norms import Norm
from absynth.report.tables import NAMES

PLOT_FORMATS = (".png", ".svg", ".pdf")


def _norms(records: Sequence[CertificateRecord]) -> list[Norm]:
    return list(dict.fromkeys(record.norm for record in records))


def certificate_tables(records: Sequence[CertificateRecord], title: str) -> list[Table]:
    """One table a norm: mean and median radius, and the fraction of images proven at each size."""
    tables = []
    for norm in _norms(records):
        radius = radii(records, norm)
        method = next(record.method for record in records if record.norm == norm)
        caution = f". {WARNING}" if method == "paper" else ""
        table = Table(
            title=f"{title}: {NAMES[norm]} radii", caption=f"{len(radius)} images, method '{method}'{caution}"
        )
        cells = {"mean": f"{float(radius.mean()):.3f}", "median": f"{float(radius.quantile(0.5)):.3f}"}
        cells |= {f"at {size:g}": f"{certified_accuracy(radius, size):.1%}" for size in SIZES[norm]}
        for name in cells:
            table.add_column(name, justify="right")
        table.add_row(*cells.values())
        tables.append(table)
    return tables


def check_plot(path: Path) -> None:
    """Sees that a plot can be made and written to ``path``.

    Raises:
        AbsynthError: If its ending names no known format or matplotlib is missing.
    """
    if path.suffix not in PLOT_FORMATS:
        raise AbsynthError(f"'{path.name}' names no format of plots; end it in {', '.join(PLOT_FORMATS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise AbsynthError("Plots need matplotlib; install absynth with the extra 'plot'.") from None


def plot_certificates(records: Sequence[CertificateRecord], path: Path) -> None:
    """Certified accuracy as a function of the size of the change, one panel a norm.

    Args:
        records: Of one model.
        path: A .png, .svg or .pdf file.
    """
    from matplotlib.figure import Figure

    check_plot(path)
    norms = _norms(records)
    figure = Figure(figsize=(4 * len(norms), 3), layout="constrained")
    axes = figure.subplots(1, len(norms), squeeze=False)[0]
    for panel, norm in zip(axes, norms, strict=True):
        ordered = radii(records, norm).sort().values
        remaining = 100 * (1 - (ordered.new_ones(len(ordered)).cumsum(0) - 1) / len(ordered))
        panel.step([0.0, *ordered.tolist()], [100.0, *remaining.tolist()], where="pre", color="#0072B2")
        unit = "pixels changed" if norm == "l0" else f"{NAMES[norm]} size of the change"
        panel.set(xlabel=unit, ylabel="certified accuracy, %", ylim=(0, 101), xlim=(0, None))
        panel.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200)
