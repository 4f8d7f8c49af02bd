"""Certified accuracy, as tables and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from absynth.certify.certificate import is_closed
from absynth.certify.provers.paper import WARNING
from absynth.certify.summary import SIZES, UNION, certified_accuracy, union_accuracy
from absynth.errors import AbsynthError
from absynth.evaluate.audit import Audit
from absynth.evaluate.certification import CertificateRecord, radii
from absynth.evaluate.paper import is_paper_data
from absynth.evaluate.speed import Speed
from absynth.files import atomic_path, check_writable
from absynth.norms import Norm
from absynth.report.tables import NAMES

PLOT_FORMATS = (".png", ".svg", ".pdf")


def _norms(records: Sequence[CertificateRecord]) -> list[Norm]:
    return list(dict.fromkeys(record.norm for record in records))


def certificate_tables(records: Sequence[CertificateRecord], title: str, dataset: str) -> list[Table]:
    """One table a norm, and on MNIST, where sizes are commonly agreed on, one of their union.

    Args:
        records: Of one model.
        title: What to write above.
        dataset: Name or path of the data. On MNIST the share proven at each common size is given, on others
            the share proven at all and the quartiles.
    """
    common = is_paper_data(dataset)
    tables = []
    for norm in _norms(records):
        radius = radii(records, norm)
        first = next(record for record in records if record.norm == norm)
        caution = f". {WARNING}" if first.method == "paper" else ""
        table = Table(
            title=f"{title}: {NAMES[norm]} radii",
            caption=f"{len(radius)} images, method '{first.method}'{how_sure(first.confidence)}{caution}",
            box=SIMPLE_HEAD,
            padding=0,
        )
        cells = {"mean": f"{float(radius.mean()):.3f}", "median": f"{float(radius.quantile(0.5)):.3f}"}
        if not common:
            cells["quarter"] = f"{float(radius.quantile(0.25)):.3f}"
            cells["three quarters"] = f"{float(radius.quantile(0.75)):.3f}"
            cells["certified"] = f"{float((radius > 0).double().mean()):.1%}"
        own = [record for record in records if record.norm == norm]
        if all(record.gap is not None for record in own):
            cells["gaps closed"] = f"{closed_share(own):.1%}"
        if common:
            cells |= {f"at {size:g}": f"{certified_accuracy(radius, size):.1%}" for size in SIZES[norm]}
        for name in cells:
            # 80 columns are enough for all of them
            table.add_column(name, justify="right", min_width=6)
        table.add_row(*cells.values())
        tables.append(table)
    union = union_table(records, title) if common else None
    return tables if union is None else [*tables, union]


def how_sure(confidence: float | None) -> str:
    """What a caption adds on radii that hold with a probability; nothing where they are certain.

    >>> how_sure(0.999)
    ', each radius holds with a probability of 99.9 %'
    """
    return "" if confidence is None else f", each radius holds with a probability of {100 * confidence:.8g} %"


def closed_share(records: Sequence[CertificateRecord]) -> float:
    """The share of images whose gap between radius and adversarial counts as closed."""
    closed = [
        record.gap is not None and is_closed(record.gap, record.radius, record.norm) for record in records
    ]
    return sum(closed) / len(closed)


def union_table(records: Sequence[CertificateRecord], title: str) -> Table | None:
    """The share of images proven against all of ``UNION`` at once; None if a norm is missing."""
    if not set(UNION) <= set(_norms(records)):
        return None
    sizes = ", ".join(f"{NAMES[norm]} {size:g}" for norm, size in UNION.items())
    sure = how_sure(min((one.confidence for one in records if one.confidence is not None), default=None))
    table = Table(title=f"{title}: all of {sizes} at once", caption=sure.removeprefix(", ") or None)
    table.add_column("images", justify="right")
    table.add_column("certified", justify="right")
    radius = {norm: radii(records, norm) for norm in UNION}
    table.add_row(str(len(radius["l2"])), f"{union_accuracy(radius):.1%}")
    return table


def audit_table(audits: Sequence[Audit], title: str) -> Table:
    """What was tried against certificates and what got below one, a row each norm."""
    table = Table(title=f"{title}: certificates against attacks and points of their balls")
    for name in (
        "norm",
        "images",
        "attacks",
        "comparisons",
        "points",
        "largest radius / distance",
        "violations",
    ):
        table.add_column(name, justify="right")
    for entry in audits:
        table.add_row(
            NAMES[entry.norm],
            str(entry.images),
            str(len(entry.attacks)),
            str(entry.comparisons),
            str(entry.points),
            f"{entry.tightest:.4f}",
            str(len(entry.violations)) + (f" ({entry.allowed} may be by chance)" if entry.allowed else ""),
        )
    return table


def speed_table(speeds: Sequence[Speed], title: str) -> Table:
    """Images a second, a row each size of the codebook and a column each norm."""
    norms = list(dict.fromkeys(speed.norm for speed in speeds))
    table = Table(
        title=f"{title}: images certified a second (mean radius)",
        caption=f"{torch.get_num_threads()} threads, decisions included",
    )
    table.add_column("prototypes a class", justify="right")
    for norm in norms:
        table.add_column(NAMES[norm], justify="right")
    for size in dict.fromkeys(speed.prototypes for speed in speeds):
        cells = [f"{s.images_per_second:.1f} ({s.mean_radius:.3f})" for s in speeds if s.prototypes == size]
        table.add_row(f"{size}", *cells)
    return table


def check_plot(path: Path) -> None:
    """Sees that a plot can be made and written to ``path``.

    Raises:
        AbsynthError: If its ending names no known format, matplotlib is missing, or nothing can be written
            there.
    """
    if path.suffix not in PLOT_FORMATS:
        raise AbsynthError(f"'{path.name}' names no format of plots; end it in {', '.join(PLOT_FORMATS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise AbsynthError("Plots need matplotlib; install absynth with the extra 'plot'.") from None
    check_writable(path)


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
