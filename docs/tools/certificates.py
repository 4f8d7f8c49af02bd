"""Draws the pictures of the documentation from the formulas they explain.

    python docs/tools/certificates.py [--out docs/images]

Needs matplotlib (the ``plot`` extra). Only the labels are placed by eye: the bisector, the radii and the
points where they touch are computed, with the library's own half-space distance, for a codebook of two
prototypes with two pixels each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from numpy.typing import NDArray

from absynth.certify.halfspace import crossing
from absynth.report.drawing import save_picture

Point = NDArray[np.float64]

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
DARK_GREEN, GREY, BLACK = "#00573F", "#666666", "#1A1A1A"
LOW, HIGH = -0.04, 1.04
BOTTOM, TOP = -0.29, 1.06


@dataclass(frozen=True)
class Pair:
    """An image between one own and one rival prototype.

    Attributes:
        image: The image x, two pixels in [0, 1].
        own: The prototype p of the image's class, with its offset.
        rival: The prototype q of another class, with its offset.
    """

    image: Point
    own: tuple[Point, float]
    rival: tuple[Point, float]

    @property
    def gradient(self) -> Point:
        """How fast a perturbation uses up the margin: g = 2(q − p)."""
        return 2 * (self.rival[0] - self.own[0])

    @property
    def margin(self) -> float:
        """How much better the own prototype explains the image: m = s_q(x) − s_p(x)."""
        (own, own_offset), (rival, rival_offset) = self.own, self.rival
        return float(
            np.square(self.image - rival).sum()
            + rival_offset
            - np.square(self.image - own).sum()
            - own_offset
        )

    def smallest_perturbation(self) -> Point:
        """The shortest δ with ⟨g, δ⟩ = m, whether or not x + δ is an image."""
        return self.gradient * (self.margin / float(self.gradient @ self.gradient))

    def smallest_in_box(self) -> Point:
        """The shortest δ with ⟨g, δ⟩ ≥ m for which x + δ is an image, as the certificates compute it."""
        gradient, margin, image = (
            torch.as_tensor(value, dtype=torch.float64) for value in (self.gradient, self.margin, self.image)
        )
        return np.asarray(crossing(gradient, margin, image, "l2").step)

    def tie(self, first: float) -> float:
        """The second pixel at which a point with this first pixel lies on the bisector."""
        reach = self.margin + self.gradient @ self.image
        return float((reach - self.gradient[0] * first) / self.gradient[1])


EXAMPLE = Pair(
    image=np.array([0.33, 0.05]),
    own=(np.array([0.48, 0.545]), 0.06),
    rival=(np.array([0.90, 0.20]), 0.26),
)


def certificate(axes: Axes) -> None:
    """Two prototypes, their bisector, and the certified ball with and without the edge of the box."""
    pair = EXAMPLE
    plain, boxed = pair.smallest_perturbation(), pair.smallest_in_box()
    radius = float(np.linalg.norm(boxed))
    x, y = map(float, pair.image)
    ends = np.array([[first, pair.tie(first)] for first in (LOW, HIGH)])
    box = Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=BLACK, linewidth=1.6, zorder=6)
    axes.add_patch(box)

    for side, colour in ((9, BLUE), (-9, ORANGE)):
        region = Polygon(
            [*ends, (HIGH, side), (LOW, side)], closed=True, facecolor=colour, alpha=0.10, linewidth=0
        )
        axes.add_patch(region)
        region.set_clip_path(box)
    axes.plot(*ends.T, color=BLACK, linewidth=1.6, zorder=5)
    axes.plot(*np.transpose([pair.own[0], pair.rival[0]]), color=GREY, linewidth=1, linestyle=":", zorder=4)

    ball = Circle((x, y), radius, facecolor=GREEN, alpha=0.30, linewidth=0, zorder=2)
    axes.add_patch(ball)
    ball.set_clip_path(box)
    outline: dict[str, Any] = {"facecolor": "none", "edgecolor": GREEN, "zorder": 3}
    axes.add_patch(Circle((x, y), radius, linewidth=1.8, **outline))
    without_box = float(np.linalg.norm(plain))
    axes.add_patch(Circle((x, y), without_box, linewidth=1.4, linestyle=(0, (4, 3)), **outline))

    arrow: dict[str, Any] = {"arrowstyle": "-|>", "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    for step, colour, style in ((boxed, BLACK, "-"), (plain, GREY, (0, (4, 2)))):
        axes.annotate(
            "",
            (x + step[0], y + step[1]),
            (x, y),
            arrowprops=arrow | {"color": colour, "linestyle": style},
            zorder=7,
        )
    marker: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "zorder": 8}
    axes.plot(*pair.own[0], marker="s", markersize=10, color=BLUE, **marker)
    axes.plot(*pair.rival[0], marker="D", markersize=10, color=ORANGE, **marker)
    axes.plot(*pair.image, marker="o", markersize=9, color=BLACK, **marker)
    axes.plot(*(pair.image + boxed), marker="*", markersize=17, color=BLACK, **marker)
    axes.plot(*(pair.image + plain), marker="X", markersize=9, color=GREY, **marker)

    write(axes, pair, radius, without_box)
    axes.set_xlim(LOW, HIGH)
    axes.set_ylim(BOTTOM, TOP)
    axes.set_aspect("equal")
    axes.axis("off")


def write(axes: Axes, pair: Pair, radius: float, without_box: float) -> None:
    """Labels what :func:`certificate` drew, with the numbers it computed."""

    def label(position: tuple[float, float], text: str, colour: str = BLACK, **options: Any) -> None:
        axes.text(*position, text, color=colour, fontsize=12, zorder=9, **options)

    label((0.48, 0.59), "own prototype $p$", BLUE, ha="center")
    label((0.90, 0.135), "rival\nprototype $q$", ORANGE, ha="center", va="center")
    label((0.305, 0.05), "image $x$", ha="right", va="center")
    label((0.03, 0.94), "here $p$ explains better", BLUE)
    label((0.97, 0.03), "here $q$ does", ORANGE, ha="right")
    slope = float(np.degrees(np.arctan(-pair.gradient[0] / pair.gradient[1])))
    label(
        (0.73, pair.tie(0.73) + 0.015),
        "bisector\n$m = \\langle g, \\delta\\rangle$",
        ha="center",
        va="bottom",
        rotation=slope,
        rotation_mode="anchor",
    )
    label((0, 1.02), "the box of all images")
    label((0.33, 0.19), f"certified ball\n$r = {radius:.3f}$", DARK_GREEN, ha="center")
    label((0.66, -0.05), "closest adversarial", va="center")
    label((0.60, -0.12), f"nearer ({without_box:.3f}), but no image", GREY, va="center")


FIGURES: dict[str, Callable[[Axes], None]] = {"certificate": certificate}


def main() -> None:
    """Writes every figure as SVG and PNG."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "images", help="folder to write to"
    )
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # A fixed salt keeps the SVG reproducible.
    mpl.rcParams.update({"svg.hashsalt": "absynth", "svg.fonttype": "path", "mathtext.fontset": "dejavusans"})
    for name, draw in FIGURES.items():
        figure = Figure(figsize=(6.4, 7.6), layout="constrained")
        draw(figure.add_subplot())
        save_picture(figure, out, name)
        print(out / f"{name}.svg", out / f"{name}.png")


if __name__ == "__main__":
    main()
