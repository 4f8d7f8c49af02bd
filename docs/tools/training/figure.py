"""Draws what a certified model makes, and what the size of its codebook is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.files import atomic_path
from absynth.report.drawing import (
    STYLES,
    WIDTH,
    draw_image,
    finish_sheet,
    image_sheet,
    new_figure,
    picture_style,
    save_picture,
)
from absynth.shapes import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = ("held out", "best prototype", "sample", "sample", "noise", "pixels mixed")
LEFT, BELOW = 1.6, 0.45
"""Room for the rows' names, and beneath an image for its confidence, in images."""


class Sheet(NamedTuple):
    """One image a class of each kind.

    Attributes:
        digits: Held out.
        prototypes: The best ones of their own class for these.
        first: Decoded from draws of N(0, I).
        second: Others.
        noise: Of uniform pixels.
        permuted: The digits with their pixels in another order.
    """

    digits: Images
    prototypes: Images
    first: Images
    second: Images
    noise: Images
    permuted: Images


def save_sheet(sheet: Sheet, path: Path) -> None:
    """Writes a sheet as one grey picture, so that it can be drawn without the model."""
    from matplotlib import image

    rows = [torch.cat(list(images[:, 0]), dim=1) for images in sheet]
    with atomic_path(path) as temporary:
        image.imsave(temporary, torch.cat(rows).numpy(), cmap="gray", vmin=0, vmax=1)


def read_sheet(path: Path, classes: int) -> Sheet:
    """The sheet that :func:`save_sheet` wrote.

    Raises:
        AbsynthError: If it is missing or no such picture.
    """
    from matplotlib import image

    try:
        picture = torch.from_numpy(image.imread(path))[..., 0]
        height, width = len(picture) // len(ROWS), picture.shape[1] // classes
        tiles = picture.unflatten(0, (len(ROWS), height)).unflatten(2, (classes, width))
    except (OSError, SyntaxError, ValueError, RuntimeError, IndexError):
        raise AbsynthError(f"{path} is no sheet of samples; delete it and run the part 'samples'.") from None
    return Sheet(*tiles.permute(0, 2, 1, 3)[:, :, None])


def draw_samples(sheet: Sheet, noise: Sequence[float], permuted: Sequence[float], path: Path) -> None:
    """Writes a picture twice, with .svg and with .png.

    Args:
        sheet: What to draw.
        noise: Confidence on each image of noise.
        permuted: Confidence on each digit with its pixels in another order.
        path: Where to, without an ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = LEFT + len(sheet.digits)
    with picture_style():
        figure, axes = image_sheet(columns, len(ROWS) + 2 * BELOW, WIDTH)
        top = 0.0
        written: list[Sequence[float]] = [(), (), (), (), noise, permuted]
        for name, images, numbers in zip(ROWS, sheet, written, strict=True):
            axes.text(LEFT - 0.1, top + 0.5, name, ha="right", va="center", fontsize=7)
            for place, picture in enumerate(_pictures(images)):
                draw_image(axes, picture, LEFT + place, top)
            for place, number in enumerate(numbers):
                axes.text(LEFT + place + 0.5, top + 1.02, f"{number:.0%}", ha="center", va="top", fontsize=6)
            top += 1 + (BELOW if numbers else 0)
        finish_sheet(axes, columns, len(ROWS) + 2 * BELOW)
        save_picture(figure, path.parent, path.name)


def draw_sizes(records: Mapping[int, Mapping[str, Any]], folder: Path) -> None:
    """Writes certified-sizes.svg and certified-sizes.png.

    Args:
        records: Of codebooks, by their prototypes a class.
        folder: Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts, found = list(records), list(records.values())
    sizes = list(found[0]["certified"]["accuracy"])
    shares = {"clean": [100 * record["clean"] for record in found]}
    for size in sizes:
        shares[f"L2 {size}"] = [100 * record["certified"]["accuracy"][size] for record in found]
    times = {name: [record[f"{name}_milliseconds"] for record in found] for name in ("classify", "certify")}
    with picture_style():
        figure = new_figure(WIDTH, 2.6)
        for axes, lines, label in zip(
            figure.subplots(1, 3),
            (shares, times, {"prototypes": [record["bytes"] / 1e6 for record in found]}),
            ("clean and certified accuracy, %", "ms an image", "MB"),
            strict=True,
        ):
            _draw_lines(axes, counts, lines, label, logarithmic=lines is not shares)
        save_picture(figure, folder, "certified-sizes")


def _draw_lines(
    axes: Axes, counts: Sequence[int], lines: Mapping[str, Sequence[float]], label: str, logarithmic: bool
) -> None:
    for (name, values), (colour, mark) in zip(lines.items(), STYLES.values(), strict=False):
        axes.plot(counts, values, color=colour, marker=mark, markersize=4, label=name)
    axes.set(xscale="log", xlabel="prototypes a class", ylabel=label)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 100)
    axes.set_xticks([1_000, 10_000], ["1,000", "10,000"])
    axes.minorticks_off()
    axes.grid(alpha=0.2, linewidth=0.5)
    axes.legend(frameon=False, fontsize=6, loc="upper left" if logarithmic else "lower right")


def _pictures(images: Images) -> list[Tensor]:
    return list(images[:, 0])
