"""How the report draws: colours, type sizes, rows of images, and files at publication quality."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from absynth.errors import AbsynthError
from absynth.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Black in files; on the page it is replaced by the colour of the text, which is light on a dark page."""

MUTED = "#808080"
"""Grey that can be read on a light and on a dark page."""

WIDTH = 7.2
"""Inches across a page."""

# Okabe and Ito's palette, which the colour-blind can tell apart, with its yellow darkened for white paper;
# the shapes tell the models apart where a printer has no colours.
STYLES: dict[str, tuple[str, str]] = {
    "cnn": ("#D55E00", "o"),
    "binary-cnn": ("#E69F00", "s"),
    "nearest-neighbour": (MUTED, "X"),
    "madry": ("#CC79A7", "P"),
    "binary-abs": ("#56B4E9", "v"),
    "abs": ("#0072B2", "^"),
    "codebook-binary-abs": ("#B8A800", "d"),
    "codebook-abs": ("#009E73", "D"),
    "certified-binary-abs": ("#5D3A9B", "p"),
    "certified-abs": (INK, "*"),
}
_OTHERS = ("h", "<", ">", "8", "H")


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        name: Of its files, and of its place on the page.
        figure: The drawing.
        description: What it shows, for those who cannot see it.
    """

    name: str
    figure: Figure
    description: str


@dataclass(frozen=True)
class Section:
    """One numbered figure of the report.

    Attributes:
        key: Anchor on the page.
        title: Heading.
        caption: What is drawn, of how many images, chosen by which rule.
        panels: Its drawings, none if nothing could be drawn.
        remarks: What is missing and why.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    remarks: tuple[str, ...] = ()


def model_style(model: str, others: int = 0) -> tuple[str, str]:
    """The colour and the shape of a model.

    Args:
        model: Its name.
        others: How many models without a style of their own come before it.
    """
    if model in STYLES:
        return STYLES[model]
    colours = [colour for colour, _ in STYLES.values()]
    return colours[others % len(colours)], _OTHERS[others % len(_OTHERS)]


def model_styles(models: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The colour and the shape of each of several models.

    >>> model_styles(("abs", "mine"))["abs"]
    ('#0072B2', '^')
    """
    unknown = [model for model in models if model not in STYLES]
    return {model: model_style(model, unknown.index(model) if model in unknown else 0) for model in models}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Sets type sizes, lines and colours of everything drawn within.

    Raises:
        AbsynthError: If matplotlib is missing.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise AbsynthError("The report needs matplotlib; install absynth with the extra 'report'.") from None
    settings: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.4,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        # a model's name is a name even where it holds dollars
        "text.parse_math": False,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "savefig.dpi": 300,
    }
    with mpl.rc_context(settings):
        yield


@contextmanager
def picture_style() -> Iterator[None]:
    """The same for a picture of the documentation: letters are paths, and identifiers do not change.

    Raises:
        AbsynthError: If matplotlib is missing.
    """
    with drawing_style():
        import matplotlib as mpl

        with mpl.rc_context({"svg.hashsalt": "absynth", "svg.fonttype": "path"}):
            yield


def new_figure(width: float, height: float) -> Figure:
    """An empty drawing of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def image_sheet(columns: float, rows: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A sheet to lay images on, whose unit of length is the side of an image.

    Args:
        columns: Width in images.
        rows: Height in images, downwards.
        width: In inches.
    """
    figure = new_figure(width, width * rows / columns)
    axes = figure.subplots()
    axes.set_axis_off()
    return figure, axes


def finish_sheet(axes: Axes, columns: float, rows: float) -> None:
    """Sets the limits of a sheet, which every image drawn on it has changed."""
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")


def draw_image(axes: Axes, image: Tensor, left: float, top: float, *, frame: str | None = None) -> None:
    """Lays a grey image of values in [0, 1] on a sheet, framed if ``frame`` is a colour."""
    extent = (left + 0.03, left + 0.97, top + 0.97, top + 0.03)
    axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="none")
    _frame(axes, left, top, frame or MUTED, 2.0 if frame else 0.4)


def draw_perturbation(axes: Axes, perturbation: Tensor, left: float, top: float) -> None:
    """Lays a perturbation on a sheet: orange brightens, purple darkens, white is 0, scaled to its largest."""
    largest = max(float(perturbation.abs().max()), 1e-12)
    extent = (left + 0.03, left + 0.97, top + 0.97, top + 0.03)
    axes.imshow(
        perturbation.numpy(), cmap="PuOr_r", vmin=-largest, vmax=largest, extent=extent, interpolation="none"
    )
    _frame(axes, left, top, MUTED, 0.4)


def _frame(axes: Axes, left: float, top: float, colour: str, width: float) -> None:
    near, far = 0.03, 0.97
    axes.plot(
        [left + near, left + far, left + far, left + near, left + near],
        [top + near, top + near, top + far, top + far, top + near],
        color=colour,
        linewidth=width,
    )


def shorten(name: str, most: int = 10) -> str:
    """A name of a class that fits beneath an image.

    >>> shorten("Ankle boot"), shorten("wide ankle boot")
    ('Ankle boot', 'wide ankl…')
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def to_svg(panel: Panel) -> str:
    """A drawing as part of a page: in the colours of the page, its identifiers its own."""
    buffer = io.StringIO()
    panel.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{panel.name}-', text)
    text = re.sub(r"url\(#", f"url(#{panel.name}-", text)
    return re.sub(r'href="#', f'href="#{panel.name}-', text)


def save_panel(panel: Panel, folder: Path) -> None:
    """Writes a drawing as PDF and as PNG of 300 dots an inch."""
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {})):
        with atomic_path(folder / f"{panel.name}{suffix}") as temporary:
            panel.figure.savefig(temporary, facecolor="white", metadata=metadata)


def save_picture(figure: Figure, folder: Path, name: str, description: str | None = None) -> None:
    """Writes a picture as SVG and as PNG, on white and without a date: two runs write the same bytes.

    Args:
        figure: Drawn in :func:`picture_style`.
        folder: Where to.
        name: Of the files, without an ending.
        description: What the SVG says of itself, if anything.
    """
    about = {"Date": None} | ({} if description is None else {"Description": description})
    figure.savefig(folder / f"{name}.svg", facecolor="white", metadata=about)
    figure.savefig(folder / f"{name}.png", facecolor="white", dpi=150, metadata={"Software": None})
