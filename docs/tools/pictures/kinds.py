"""Draws pictures of digits as people have them: twenty kinds, from two pens, each with its answer.

The digits are MNIST's training digits and scikit-learn's UCI digits (8x8 pixels of 17 levels, scaled up
smoothly), which other people wrote with another pen. Every picture has its own size, width of the stroke,
grey of paper and ink, noise, rotation up to 15° and JPEG quality; what a kind is about is set by the kind.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from absynth.data.pens import skeleton, trace

SEVERAL, BLANK = "several", "blank"
"""What is right to say where a picture shows more than one digit, and where it shows none."""

FINE = 320
"""The longer side at which a digit is drawn before it is scaled to its picture."""

PENS = ("mnist", "uci")

INDICES = {
    "report": {"mnist": range(30_000, 60_000), "uci": range(300, 797)},
    "choice": {"mnist": range(30_000), "uci": range(797, 1797)},
}
"""Which digits are drawn: those of the report are never those that settings were chosen on."""

SHEET_FACTORS = {"small": (1.3, 1.8), "usual": (1.5, 2.6), "large": (3.0, 7.0)}
"""The side of a sheet in heights of its digit."""


@dataclass(frozen=True)
class Sample:
    """One picture with its answer.

    Attributes:
        kind: What it is an example of.
        pen: ``mnist`` or ``uci``.
        answer: The digit as text, or ``several``, or ``blank``.
        content: The file's bytes.
        suffix: Of its name.
    """

    kind: str
    pen: str
    answer: str
    content: bytes
    suffix: str


@cache
def digits(pen: str) -> tuple[ndarray, ndarray]:
    """All digits of a pen in [0, 1], light on dark, with their labels."""
    if pen == "mnist":
        from absynth.data import load_dataset

        images, labels = load_dataset("mnist", "train")
        return images[:, 0].numpy(), labels.numpy()
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target


def enlarge(image: ndarray, side: int) -> ndarray:
    """A small image scaled up smoothly."""
    padded = np.pad(image, 1)
    large = Image.fromarray(padded.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large).clip(0, 1)


@cache
def lines(pen: str, index: int) -> tuple[ndarray, tuple[int, int]]:
    """The middle lines of a digit's strokes as segments (x, y, x, y), and its height and width."""
    strokes = trace(digits(pen)[0][index])
    thin = skeleton(np.pad(strokes, 2))
    rows, columns = np.nonzero(thin)
    points = set(zip(rows.tolist(), columns.tolist(), strict=True))
    segments = [
        (column, row, column + right, row + down)
        for row, column in points
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
        if (row + down, column + right) in points
    ]
    corner = np.array([columns.min(), rows.min()] * 2)
    return np.array(segments).reshape(-1, 4) - corner, (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


def write(pen: str, index: int, height: int, width: float | None, angle: float) -> ndarray:
    """A digit's ink in [0, 1], cropped, light on dark.

    Args:
        pen: Whose digit.
        index: Which one.
        height: Its longer side in pixels, about.
        width: Of the pen in pixels; by default the digit has its own strokes.
        angle: That it is turned by, in degrees.
    """
    if width is None:
        image = Image.fromarray(enlarge(digits(pen)[0][index], FINE).astype(np.float32))
        ink = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, expand=True))
        rows, columns = np.nonzero(ink > 0.3)
        ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        factor = height / max(ink.shape)
        size = [max(1, round(extent * factor)) for extent in ink.shape[::-1]]
        return np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS)).clip(0, 1)
    segments, extents = lines(pen, index)
    turned = np.deg2rad(angle)
    turn = np.array([[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]])
    points = segments.reshape(-1, 2) @ turn.T * ((height - width) / max(extents))
    points += width / 2 + 1 - points.min(axis=0)
    size = np.ceil(points.max(axis=0) + width / 2 + 1).astype(int)
    times = 1 if width < 4 else 3
    page = Image.new("L", tuple(int(extent) * times for extent in size), 0)
    draw = ImageDraw.Draw(page)
    for begin, end in points.reshape(-1, 2, 2) * times:
        draw.line([*begin, *end], fill=255, width=max(1, round(width * times)))
        if width * times > 3:
            for x, y in (begin, end):
                reach = width * times / 2
                draw.ellipse([x - reach, y - reach, x + reach, y + reach], fill=255)
    return np.asarray(page.resize(tuple(int(extent) for extent in size), Image.Resampling.BOX)) / 255


@dataclass
class Sheet:
    """A sheet of paper while it is drawn on.

    Attributes:
        ink: From 0 on paper to 1 in a full stroke.
        box: Top, left, bottom and right of the digit.
        generator: Of every draw.
    """

    ink: ndarray
    box: tuple[int, int, int, int]
    generator: Generator

    def line(self, points: list[tuple[float, float]], width: float, strength: float = 1.0) -> None:
        """Draws a line through points (x, y)."""
        page = Image.new("L", self.ink.shape[::-1], 0)
        ImageDraw.Draw(page).line(points, fill=255, width=max(1, round(width)))
        self.ink = np.maximum(self.ink, np.asarray(page) / 255 * strength)


def sheet(ink: ndarray, factor: float, generator: Generator) -> Sheet:
    """An empty sheet with a digit somewhere near its middle; ``factor``: its side in heights of the digit."""
    height, width = ink.shape
    side = int(max(height, width) * factor)
    page = np.zeros((side, int(side * generator.uniform(0.8, 1.25))), dtype=np.float64)
    room = (page.shape[0] - height, page.shape[1] - width)
    if min(room) < 2:
        page = np.zeros((max(side, height + 4), max(page.shape[1], width + 4)))
        room = (page.shape[0] - height, page.shape[1] - width)
    top, left = (int(extent * generator.uniform(0.35, 0.65)) for extent in room)
    page[top : top + height, left : left + width] = ink
    return Sheet(page, (top, left, top + height, left + width), generator)


def frame(page: Sheet, sides: str, gap: tuple[float, float]) -> None:
    """Draws sides of a form's cell around the digit: of t, b, l, r."""
    top, left, bottom, right = page.box
    height, width = page.ink.shape
    size = bottom - top
    distance = size * page.generator.uniform(*gap)
    thick = max(1, size * page.generator.uniform(0.02, 0.06))
    strength = page.generator.uniform(0.6, 1)
    y0, y1 = max(top - distance, thick), min(bottom + distance, height - 1 - thick)
    x0, x1 = max(left - distance, thick), min(right + distance, width - 1 - thick)
    ends = {
        "t": [(x0, y0), (x1, y0)],
        "b": [(x0, y1), (x1, y1)],
        "l": [(x0, y0), (x0, y1)],
        "r": [(x1, y0), (x1, y1)],
    }
    for side in sides:
        page.line(ends[side], thick, strength)


def box(page: Sheet) -> None:
    """A form's cell, whole."""
    frame(page, "tblr", (0.12, 0.3))


def corner(page: Sheet) -> None:
    """Two sides of a cell that meet, along the picture's edges."""
    _along_edges(page, page.generator.choice(["tl", "tr", "bl", "br"]))


def two_sides(page: Sheet) -> None:
    """Two sides of a cell that face each other, along the picture's edges."""
    _along_edges(page, page.generator.choice(["tb", "lr"]))


def _along_edges(page: Sheet, sides: str) -> None:
    height, width = page.ink.shape
    size = page.box[2] - page.box[0]
    thick = max(1, size * page.generator.uniform(0.02, 0.06))
    strength, inset = page.generator.uniform(0.6, 1), thick / 2 + size * page.generator.uniform(0, 0.05)
    far = {"b": height - 1 - inset, "r": width - 1 - inset}
    for side in sides:
        place = far.get(side, inset)
        ends = [(0, place), (width, place)] if side in "tb" else [(place, 0), (place, height)]
        page.line(ends, thick, strength)


def grid(page: Sheet) -> None:
    """A cell of a sudoku, cut out with the lines around it and a little of its neighbours."""
    top, left, bottom, right = page.box
    height, width = page.ink.shape
    size = bottom - top
    for place in (top - size * 0.22, bottom + size * 0.22):
        page.line([(0, place), (width, place)], max(1, size * page.generator.uniform(0.02, 0.05)))
    for place in (left - size * 0.25, right + size * 0.25):
        page.line([(place, 0), (place, height)], max(1, size * page.generator.uniform(0.02, 0.05)))


def ruled(page: Sheet) -> None:
    """Ruled paper, its lines a little tilted."""
    _rule(page, across=True, down=False)


def squared(page: Sheet) -> None:
    """Squared paper."""
    _rule(page, across=True, down=True)


def _rule(page: Sheet, *, across: bool, down: bool) -> None:
    height, width = page.ink.shape
    size = page.box[2] - page.box[0]
    generator = page.generator
    step = size * generator.uniform(0.3, 0.8)
    tilt = np.tan(np.deg2rad(generator.uniform(-2, 2)))
    thick, strength = max(1, size * generator.uniform(0.008, 0.025)), generator.uniform(0.25, 0.6)
    begin = generator.uniform(0, step)
    if across:
        for place in np.arange(begin, height, step):
            page.line([(0, place), (width, place + tilt * width)], thick, strength)
    if down:
        for place in np.arange(begin, width, step):
            page.line([(place, 0), (place - tilt * height, height)], thick, strength)


def neighbours(page: Sheet) -> None:
    """Ends of neighbouring digits' strokes at the left and right edges."""
    width = page.ink.shape[1]
    top, _, bottom, _ = page.box
    thick = (bottom - top) * page.generator.uniform(0.05, 0.1)
    for edge in (0, width - 1):
        ys = page.generator.uniform(top, bottom, 2)
        inward = edge + (1 if edge == 0 else -1) * width * page.generator.uniform(0.02, 0.07)
        page.line([(edge, ys[0]), (inward, ys.mean()), (edge, ys[1])], thick)


def specks(page: Sheet) -> None:
    """Dirt."""
    height, width = page.ink.shape
    size = page.box[2] - page.box[0]
    for _ in range(int(page.generator.integers(5, 30))):
        reach = size * page.generator.uniform(0.004, 0.02)
        y, x = page.generator.uniform(0, height), page.generator.uniform(0, width)
        disc = Image.new("L", (width, height), 0)
        ImageDraw.Draw(disc).ellipse([x - reach, y - reach, x + reach, y + reach], fill=255)
        page.ink = np.maximum(page.ink, np.asarray(disc) / 255)


def broken(page: Sheet) -> None:
    """Two gaps in the strokes, as a bad pen or a bad print leaves them."""
    size = page.box[2] - page.box[0]
    rows, columns = np.nonzero(page.ink > 0.5)
    for _ in range(2):
        one = int(page.generator.integers(len(rows)))
        direction = page.generator.uniform(0, np.pi)
        distance = np.abs(
            (np.arange(page.ink.shape[0])[:, None] - rows[one]) * np.cos(direction)
            + (np.arange(page.ink.shape[1])[None] - columns[one]) * np.sin(direction)
        )
        near = np.hypot(
            np.arange(page.ink.shape[0])[:, None] - rows[one],
            np.arange(page.ink.shape[1])[None] - columns[one],
        )
        page.ink = np.where((distance < 0.02 * size) & (near < 0.2 * size), 0, page.ink)


@dataclass(frozen=True)
class Kind:
    """What a kind of pictures sets; the rest is drawn for every picture.

    Attributes:
        text: What it is, for the table.
        clutter: What is drawn beside the digit.
        pen: The width of the stroke, as shares of the digit's height from and to; by default as drawn.
        pixels: The same in pixels.
        sheet: Of ``SHEET_FACTORS``.
        heights: The digit's height in pixels, from and to.
        contrast: How much of the paper's light the ink takes, from and to.
        light: Whether the light is uneven.
        inverted: Whether the ink is lighter than the paper.
        noise: Deviation of the noise, from and to.
        several: Whether there are two digits.
        blank: Whether there is none.
    """

    text: str
    clutter: Callable[[Sheet], None] | None = None
    pen: tuple[float, float] | None = None
    pixels: tuple[int, int] | None = None
    sheet: str = "usual"
    heights: tuple[int, int] = (60, 240)
    contrast: tuple[float, float] = (0.4, 0.95)
    light: bool = False
    inverted: bool = False
    noise: tuple[float, float] = (0, 0.03)
    several: bool = False
    blank: bool = False


KINDS = {
    "plain": Kind("on plain paper"),
    "thin": Kind("a pen of 1 to 3 pixels, 400 to 700 pixels high", pixels=(1, 3), heights=(400, 700)),
    "thick": Kind("a marker", pen=(0.13, 0.2)),
    "box": Kind("in a form's box", box),
    "corner": Kind("in the corner of a cell", corner),
    "sides": Kind("between two sides of a cell", two_sides),
    "grid": Kind("in the grid of a sudoku", grid),
    "ruled": Kind("on ruled paper", ruled),
    "squared": Kind("on squared paper", squared),
    "neighbours": Kind("with ends of neighbours' strokes", neighbours),
    "specks": Kind("with dirt", specks),
    "broken": Kind("with broken strokes", broken),
    "shadow": Kind("in a shadow, unevenly lit", light=True),
    "light": Kind("light on dark", inverted=True),
    "faint": Kind("faint", contrast=(0.06, 0.2), noise=(0, 0.008)),
    "noisy": Kind("noisy", noise=(0.04, 0.09)),
    "lost": Kind("small on a large sheet", sheet="large", heights=(80, 150)),
    "tiny": Kind("16 to 32 pixels high", heights=(16, 32), noise=(0, 0.01)),
    "tight": Kind("cut out closely", sheet="small"),
    "several": Kind("two digits", several=True),
    "blank": Kind("no ink", blank=True),
}


def draw(kind: str, pen: str, generator: Generator, part: str = "report") -> Sample:
    """One picture.

    Args:
        kind: Of ``KINDS``.
        pen: Of ``PENS``.
        generator: Of every draw.
        part: ``report``, or ``choice`` for the digits that settings are chosen on.
    """
    how = KINDS[kind]
    height = int(generator.integers(how.heights[0], how.heights[1] + 1))
    inks, answer = [], ""
    for _ in range(2 if how.several else 1):
        index = int(generator.choice(INDICES[part][pen]))
        answer += str(digits(pen)[1][index])
        width: float | None = None
        if how.pixels:
            width = float(generator.integers(how.pixels[0], how.pixels[1] + 1))
        elif how.pen or (pen == "mnist" and generator.random() < 0.5):
            width = height * generator.uniform(*(how.pen or (0.05, 0.11)))
        inks.append(write(pen, index, height, width, generator.uniform(-15, 15)))
    ink = inks[0]
    if how.several:
        answer = SEVERAL
        tall = max(one.shape[0] for one in inks)
        gap = int(height * generator.uniform(0.12, 0.5))
        inks = [np.pad(one, ((0, tall - one.shape[0]), (0, 0))) for one in inks]
        ink = np.hstack([inks[0], np.zeros((tall, gap)), inks[1]])
    if how.blank:
        answer, ink = BLANK, np.zeros_like(ink)
    page = sheet(ink, generator.uniform(*SHEET_FACTORS[how.sheet]), generator)
    if how.clutter:
        how.clutter(page)
    picture = expose(page.ink, how, generator)
    quality = int(generator.choice([40, 60, 75, 90, 95]))
    if kind == "tiny" or generator.random() < 0.25:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        return Sample(kind, pen, answer, file.getvalue(), ".png")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return Sample(kind, pen, answer, file.getvalue(), ".jpg")


def expose(ink: ndarray, how: Kind, generator: Generator) -> ndarray:
    """The photograph of a sheet: 8 bits a pixel."""
    strength = generator.uniform(*how.contrast)
    rows, columns = np.mgrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
    if how.inverted:
        ground = generator.uniform(0.02, 0.3)
        picture = ground + (generator.uniform(0.65, 1) - ground) * ink
    else:
        paper = np.full(ink.shape, generator.uniform(0.7, 1))
        if how.light:
            direction = generator.uniform(0, 2 * np.pi)
            along = rows * np.sin(direction) + columns * np.cos(direction)
            paper *= 0.75 + 0.2 * along
            if generator.random() < 0.5:
                edge = 1 / (1 + np.exp(-(along - generator.uniform(-0.5, 0.5)) * generator.uniform(10, 60)))
                paper *= 0.65 + 0.35 * edge
        picture = paper * (1 - strength * ink)
    blur = generator.uniform(0, 0.01) * min(ink.shape) / 4
    if not how.pixels:
        picture = ndimage.gaussian_filter(picture, blur)
    picture = picture + generator.normal(0, generator.uniform(*how.noise), ink.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def draw_all(each: int, seed: int, part: str = "report") -> list[Sample]:
    """As many pictures of every kind and pen."""
    return [
        draw(kind, pen, np.random.default_rng([seed, place, number, which]), part)
        for place, kind in enumerate(KINDS)
        for which, pen in enumerate(PENS)
        for number in range(each)
    ]


def plain(indices: range) -> list[Sample]:
    """UCI digits as they are: scaled up smoothly to 160 pixels, black on white, with a margin."""
    images, labels = digits("uci")
    samples = []
    for index in indices:
        ink = Image.fromarray(images[index]).resize((160, 160), Image.Resampling.BICUBIC)
        page = 1 - np.pad(np.asarray(ink).clip(0, 1), 24)
        file = io.BytesIO()
        Image.fromarray((page * 255).round().astype(np.uint8)).save(file, "PNG")
        samples.append(Sample("as they are", "uci", str(labels[index]), file.getvalue(), ".png"))
    return samples
