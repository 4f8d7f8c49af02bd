"""What stands in the cells of the tables."""

from __future__ import annotations


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
