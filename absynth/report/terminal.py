"""Tables on standard output: whole, however narrow the window is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

UNBOUNDED = 100_000
"""Characters in a line of what is no window."""


def show_table(table: Table, alone: Mapping[int, str] | None = None) -> None:
    """Prints a table with all of its columns.

    A file or a pipe gets lines as long as the table, unless the environment sets COLUMNS. Where the width is
    given and too small, the columns go into several tables, one below the other.

    Args:
        table: What to print.
        alone: As for :func:`fitting_tables`.
    """
    console = Console()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(width=max(console.width, _measure(table).maximum))
    for part in fitting_tables(table, console.width, alone or {}):
        Console(width=max(console.width, _measure(part).minimum)).print(part)


def fitting_tables(table: Table, width: int, alone: Mapping[int, str]) -> list[Table]:
    """A table as several, so that none is wider than a window; each has the first column.

    The title is with the first of them, the caption with the last. A table that has the first column and one
    other may be wider all the same.

    Args:
        table: Any whose first column names the rows.
        width: Of the window, in characters.
        alone: The headers of columns, by their number, that need the one before to be understood: what they
            say where they come first in a table.
    """
    chosen = [0]
    parts: list[Table] = []
    for number in range(1, len(table.columns)):
        if len(chosen) > 1 and _measure(_part(table, [*chosen, number], width, alone)).minimum > width:
            parts.append(_part(table, chosen, width, alone))
            chosen = [0]
        chosen = [*chosen, number]
    parts.append(_part(table, chosen, width, alone))
    parts[0].title, parts[-1].caption = table.title, table.caption
    return parts


def _part(table: Table, columns: Sequence[int], width: int, alone: Mapping[int, str]) -> Table:
    """Some columns of a table, each as wide as the window allows and no narrower than its longest word."""
    part = Table(box=table.box, padding=table.padding)
    most = list[int]()
    for place, number in enumerate(columns):
        column = table.columns[number]
        header = alone.get(number, column.header) if place == 1 else column.header
        cells = [_measure(cell) for cell in (header, *column.cells)]
        most.append(max(cell.maximum for cell in cells))
        # a name is broken only where it leaves less than half of the window to the figures
        least = min(most[-1], width // 2) if column.no_wrap else max(cell.minimum for cell in cells)
        least = max(least, column.min_width or 0)
        part.add_column(header, justify=column.justify, overflow="fold", width=least)
    cells_of = [list(table.columns[number].cells) for number in columns]
    for row, content in zip(table.rows, zip(*cells_of, strict=True), strict=True):
        part.add_row(*content, style=row.style, end_section=row.end_section)
    # rich itself would take room from long words before it takes it from lines of several words
    room = width - _measure(part).minimum
    for column, whole in zip(part.columns, most, strict=True):
        assert column.width is not None
        more = max(0, min(room, whole - column.width))
        column.width, room = column.width + more, room - more
    return part


def _measure(renderable: RenderableType) -> Measurement:
    console = Console(width=UNBOUNDED)
    return Measurement.get(console, console.options, renderable)
