"""Attacks beside exact radii, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from absynth.evaluate.standings import LOOKS, Standing
from absynth.evaluate.summaries import ALL
from absynth.report.tables import NAMES, format_seconds


def standing_tables(standings: Sequence[Standing]) -> list[Table]:
    """One table a model and norm.

    Args:
        standings: Of :func:`absynth.evaluate.standings.standings`.
    """
    tables = []
    for (model, norm), group in groupby(standings, lambda one: (one.model, one.norm)):
        rows = list(group)
        table = Table(
            title=f"{model}: attacks in {NAMES[norm]} beside the exact smallest adversarial",
            caption="of images with an exact radius; distances are upper bounds",
        )
        table.add_column("attack")
        for name in ("images", "fooled", "median", "within 1 %", "within 10 %", "queries", "time"):
            table.add_column(name, justify="right")
        looked = any(row.course for row in rows)
        for passes in LOOKS if looked else ():
            table.add_column(f"after {passes:,}", justify="right")
        for row in rows:
            if row.attack == ALL:
                table.add_section()
            table.add_row(*standing_cells(row))
        tables.append(table)
    return tables


def standing_cells(row: Standing) -> tuple[str, ...]:
    """A row as text: median of distance over exact radius, shares, what an image took, and the course.

    Args:
        row: Of an attack.
    """
    return (
        row.attack,
        str(row.images),
        f"{row.success:.0%}",
        format_ratio(row.ratio),
        f"{row.within_one:.0%}",
        f"{row.within_ten:.0%}",
        f"{row.queries:.0f}",
        "" if row.seconds is None else format_seconds(row.seconds),
        *map(format_ratio, row.course),
    )


def format_ratio(ratio: float) -> str:
    """A median of distance over exact radius.

    >>> format_ratio(1.25), format_ratio(float("inf"))
    ('1.250', '∞')
    """
    return "∞" if ratio == float("inf") else f"{ratio:.3f}"
