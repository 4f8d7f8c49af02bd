"""Tables in Markdown, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first column of words and the others of numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.98765), percent(0.98765, 2)
    ('98.8', '98.77')
    """
    return f"{100 * share:.{digits}f}"


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none.

    >>> number(1.234), number(None)
    ('1.23', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"
