"""How pictures of the documentation are drawn and written, so that they come out the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from absynth.report.drawing import drawing_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def picture_style() -> Iterator[None]:
    """The report's style, with letters drawn as paths and identifiers that do not change."""
    import matplotlib as mpl

    with drawing_style(), mpl.rc_context({"svg.hashsalt": "absynth", "svg.fonttype": "path"}):
        yield


def save_picture(figure: Figure, folder: Path, name: str) -> None:
    """Writes a figure as SVG and as PNG, on white and without a date."""
    figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", facecolor="white", dpi=150, metadata={"Software": None})
