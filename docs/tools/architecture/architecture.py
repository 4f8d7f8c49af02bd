"""The picture and the table of docs/explanation/architecture.md, from what the modules import.

    python docs/tools/architecture/architecture.py           draws the picture and writes the table
    python docs/tools/architecture/architecture.py --check   says whether both are up to date

The floors are the layers of the contract in pyproject.toml that import-linter enforces; what a room is for is
the first sentence of its docstring; what it imports is read from the source.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomllib
from imports import Import, find_circle, module_files, read_imports

from absynth.errors import AbsynthError
from absynth.files import write_text
from absynth.report.drawing import MUTED, new_figure, picture_style, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
PICTURES = ROOT / "docs" / "images"
NAME = "architecture"
CONTRACT = "Data flows one way"
MARKS = "<!-- rooms -->", "<!-- /rooms -->"
COLOURS = ("#0072B2", "#009E73", "#B8A800", "#D55E00", "#CC79A7")
"""Of the floors, from above; each stands for about as many."""

LINES = "#D8D8D8"
"""Colour of the lines that the eye follows."""

HOUSE, NAMES, LETTERS = 4.9, 1.1, 72
"""Inches across the house, and across its column of names; letters on a line of a purpose."""

LINE, GAP, ROOF, EDGE = 0.115, 0.055, 0.85, 0.06
"""Inches: from line to line, between floors, height of the roof, white around."""

CELL, AISLE = 0.145, 0.06
"""Inches: side of a cell of the matrix; between it and the house."""


@dataclass(frozen=True)
class House:
    """The rooms of the package, which are the packages and modules at its top.

    Attributes:
        floors: The rooms of every layer, from above.
        purposes: What each is for.
        imports: The rooms that each imports anything from.
    """

    floors: Sequence[Sequence[str]]
    purposes: Mapping[str, str]
    imports: Mapping[str, Sequence[str]]


def read_house(root: Path = ROOT) -> House:
    """The house as it is.

    Args:
        root: Of the repository.

    Raises:
        AbsynthError: If a room has no floor, or imports form a circle or go up.
    """
    package = root / "absynth"
    contract = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = contract["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["name"] == CONTRACT)
    floors = [[name.strip().removeprefix("absynth.") for name in re.split("[|:]", row)] for row in layers]
    files = {name: path for name, path in module_files(package).items() if name.count(".") == 1}
    purposes = {name.removeprefix("absynth."): _purpose(path) for name, path in files.items()}
    placed = [room for floor in floors for room in floor]
    if sorted(placed) != sorted(purposes):
        wrong = sorted(set(placed) ^ set(purposes))
        raise AbsynthError(f"'{wrong[0]}' must be a room with a layer in pyproject.toml; give it one.")
    imports = [one for one in read_imports(package) if not one.types_only]
    if circle := find_circle(imports):
        raise AbsynthError(f"Imports form a circle: {' ← '.join(circle)}; turn one of them round.")
    rooms = {room: sorted(_rooms_below(room, imports), key=placed.index) for room in placed}
    height = {room: number for number, floor in enumerate(floors) for room in floor}
    for room, others in rooms.items():
        for other in others:
            if height[other] <= height[room]:
                raise AbsynthError(f"{room} imports {other}, which is not below it; turn one of them round.")
    return House(floors, purposes, rooms)


def _rooms_below(room: str, imports: Iterable[Import]) -> set[str]:
    """The other rooms that any module of one imports."""
    found = set()
    for one in imports:
        importer, imported = (f"{name}.".split(".")[1] for name in (one.importer, one.imported))
        if importer == room and imported not in (room, ""):
            found.add(imported)
    return found


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).rstrip(".")


def rooms_table(house: House) -> str:
    """What each room is for and what it imports, as a table in Markdown."""
    lines = ["| room | what it is for | imports |", "| --- | --- | --- |"]
    for floor in house.floors:
        for room in floor:
            imported = ", ".join(f"`{other}`" for other in house.imports[room])
            lines.append(f"| `{room}` | {house.purposes[room]} | {imported} |")
    return "\n".join(lines)


def page_with(table: str, page: str) -> str:
    """The page with the table between its marks.

    Raises:
        AbsynthError: If it lacks them.
    """
    first, last = MARKS
    before, opened, rest = page.partition(first)
    _, closed, after = rest.partition(last)
    if not opened or not closed:
        raise AbsynthError(f"The page needs the marks {first} and {last}, in this order.")
    return f"{before}{first}\n\n{table}\n\n{last}{after}"


def description(house: House) -> str:
    """What the picture shows, in the form that it carries it in."""
    return json.dumps(asdict(house), sort_keys=True)


def is_drawn(house: House, picture: Path) -> bool:
    """Whether a picture shows this house.

    Args:
        house: As it is.
        picture: An SVG that :func:`draw_house` wrote.
    """
    from xml.etree import ElementTree

    tag = "{http://purl.org/dc/elements/1.1/}description"
    said = [element.text for element in ElementTree.parse(picture).iter(tag)]
    return said == [description(house)]


@dataclass(frozen=True)
class Row:
    """Where a room is drawn.

    Attributes:
        room: Its name.
        said: Its purpose, in lines.
        top: Inches from the top of the house.
        height: In inches.
        colour: Of its floor.
    """

    room: str
    said: Sequence[str]
    top: float
    height: float
    colour: str

    @property
    def middle(self) -> float:
        """Half way down."""
        return self.top + self.height / 2


def place_rows(house: House) -> list[list[Row]]:
    """The rows of every floor, from above."""
    placed, top = [], 0.0
    for number, floor in enumerate(house.floors):
        colour, rows = COLOURS[number * len(COLOURS) // len(house.floors)], []
        for room in floor:
            said = _balanced(house.purposes[room].replace("``", ""))
            rows.append(Row(room, said, top, 0.13 + LINE * len(said), colour))
            top += rows[-1].height
        placed.append(rows)
        top += GAP
    return placed


def _balanced(text: str) -> list[str]:
    """A text in as few lines as possible, and these as short as possible."""
    count = len(textwrap.wrap(text, LETTERS))
    return next(lines for width in range(1, LETTERS + 1) if len(lines := textwrap.wrap(text, width)) == count)


def draw_house(house: House, folder: Path) -> None:
    """Writes architecture.svg and architecture.png.

    Args:
        house: To draw.
        folder: Where to.
    """
    floors = place_rows(house)
    rows = [row for floor in floors for row in floor]
    width, height = HOUSE + AISLE + CELL * len(rows), rows[-1].top + rows[-1].height
    with picture_style():
        figure = new_figure(width + 2 * EDGE, height + ROOF + 2 * EDGE)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(-EDGE, width + EDGE), ylim=(height + EDGE, -ROOF - EDGE))
        _draw_roof(axes)
        for floor in floors:
            _draw_floor(axes, floor)
        _draw_matrix(axes, house, rows)
        save_picture(figure, folder, NAME, description(house))


def _draw_roof(axes: Axes) -> None:
    from matplotlib.patches import Polygon

    corners = [(0.0, -GAP), (HOUSE / 2, -ROOF), (HOUSE, -GAP)]
    axes.add_patch(
        Polygon(corners, closed=True, facecolor="#F4F4F4", edgecolor=MUTED, linewidth=0.8, joinstyle="round")
    )
    axes.text(HOUSE / 2, -0.5 * ROOF, "absynth", fontsize=13, fontweight="bold", ha="center", va="center")
    words = "a room imports only from floors below its own"
    axes.text(HOUSE / 2, -0.24 * ROOF, words, fontsize=7, ha="center", va="center")


def _draw_floor(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner, colour = 0.05, rows[0].colour
    height = rows[-1].top + rows[-1].height - rows[0].top
    axes.add_patch(
        FancyBboxPatch(
            (corner, rows[0].top + corner),
            HOUSE - 2 * corner,
            height - 2 * corner,
            boxstyle=f"round,pad={corner}",
            facecolor=f"{colour}1C",
            edgecolor=colour,
            linewidth=0.8,
        )
    )
    for row in rows:
        axes.text(
            0.1, row.middle, row.room, fontsize=8, fontweight="bold", va="center_baseline", color=row.colour
        )
        first = row.middle - LINE * (len(row.said) - 1) / 2
        for number, line in enumerate(row.said):
            axes.text(NAMES, first + LINE * number, line, fontsize=6.8, va="center_baseline")


def _draw_matrix(axes: Axes, house: House, rows: Sequence[Row]) -> None:
    """A row and a column a room: full where the one imports the other, an outline where both are one."""
    from matplotlib.patches import Rectangle

    left, side = HOUSE + AISLE, 0.72 * CELL
    places = {row.room: left + (number + 0.5) * CELL for number, row in enumerate(rows)}
    for row in rows:
        place = places[row.room]
        ends = [HOUSE + 0.02, left + len(rows) * CELL]
        axes.plot(ends, [row.middle] * 2, color=LINES, linewidth=0.4, zorder=0)
        axes.plot([place] * 2, [-GAP, row.middle], color=LINES, linewidth=0.4, zorder=0)
        turned: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom"}
        axes.text(place, -GAP, row.room, fontsize=6.8, color=row.colour, **turned)
        for other in (*house.imports[row.room], row.room):
            colour = next(one.colour for one in rows if one.room == other)
            corner = places[other] - side / 2, row.middle - side / 2
            face = "white" if other == row.room else colour
            axes.add_patch(Rectangle(corner, side, side, facecolor=face, edgecolor=colour, linewidth=0.8))


def main() -> None:
    """Draws and writes, or checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; status 2 if something is old")
    check = parser.parse_args().check
    try:
        house, page = read_house(), PAGE.read_text(encoding="utf-8")
        text = page_with(rooms_table(house), page)
        if check:
            if text != page or not is_drawn(house, PICTURES / f"{NAME}.svg"):
                raise AbsynthError("The picture of the architecture is old; run this without --check.")
            return
        draw_house(house, PICTURES)
        write_text(PAGE, text)
    except AbsynthError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
