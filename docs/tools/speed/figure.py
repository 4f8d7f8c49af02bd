"""Draws how the time of an image grows, one panel for each size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from growth import Growth

from absynth.report.drawing import MUTED, STYLES, WIDTH, new_figure, picture_style, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {
    "ABS, paper": (*STYLES["cnn"], ":"),
    "ABS": (*STYLES["abs"], "-"),
    "codebook": (*STYLES["codebook-abs"], "--"),
    "decoder": (*STYLES["madry"], "-."),
    "FAISS": (MUTED, "X", ":"),
}
"""Colour, mark and line of each computation."""

AXES = {
    "batch": "images at once",
    "classes": "classes",
    "prototypes": "prototypes in all",
    "side": "side of the image, pixels",
    "latents": "latent coordinates",
}
NAMES = {"decoder": "one decoder pass", "ABS, paper": "ABS, paper's settings"}


def draw_growth(growths: Sequence[Growth], folder: Path) -> None:
    """Writes speed.svg and speed.png.

    Args:
        growths: At most five, as the sixth place has the legend.
        folder: Where to.
    """
    from matplotlib.lines import Line2D

    with picture_style():
        figure = new_figure(WIDTH, 4.6)
        *panels, last = figure.subplots(2, 3).flat
        for growth, axes in zip(growths, panels, strict=True):
            _draw(axes, growth)
        last.set_axis_off()
        entries = [
            Line2D(
                [], [], color=colour, marker=mark, linestyle=line, markersize=4, label=NAMES.get(name, name)
            )
            for name, (colour, mark, line) in LOOKS.items()
        ]
        last.legend(handles=entries, loc="center", frameon=False)
        save_picture(figure, folder, "speed")


def _draw(axes: Axes, growth: Growth) -> None:
    from matplotlib.ticker import LogLocator

    for name, times in growth.lines.items():
        colour, mark, line = LOOKS[name]
        points = [
            (size, spent) for size, spent in zip(growth.values, times, strict=True) if spent is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=mark, linestyle=line, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel=AXES[growth.size], ylabel="ms an image")
    axes.set_xticks(growth.values, [f"{size:,}" for size in growth.values])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.2, linewidth=0.5)
