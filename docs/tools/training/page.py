"""Writes the tables and the figure of docs/training-for-certificates.md from the records of the studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from binary import BINARY_IDEAS, BINARY_SIZES
from cells import number, percent
from codebook import CODEBOOK_SIZES
from figure import draw_samples, draw_sizes, read_sheet
from final import final_table
from ideas import IDEAS
from nearest import NEAREST
from study import PIXELS, SIZES, Record, read_record
from vaes import VAE_SIZES

from absynth.errors import AbsynthError
from absynth.files import write_text
from absynth.report.markdown import markdown_table
from absynth.report.tables import NAMES

MEASURES = ("clean", "mean", "median", *(f"{size:g}" for size in SIZES))
CALLED = {"untrained": "random training images", "trained": "trained"}
"""The baselines, by the names of their records."""


def measures(record: Record) -> list[str]:
    """Clean accuracy, mean and median radius, and the certified accuracy by size, as cells."""
    certified = record["certified"]
    accuracies = [percent(share) for share in certified["accuracy"].values()]
    return [
        percent(record["clean"], 2),
        number(certified["mean"], 3),
        number(certified["median"], 3),
        *accuracies,
    ]


def minutes(record: Record) -> str:
    """The time of the training."""
    return number(None if record["seconds"] is None else record["seconds"] / 60, 1)


def compare(record: Record, other: Record) -> str:
    """By how much the mean radius exceeds another's of the same images, with the standard error of that."""
    if record is other or len(record["radii"]) != len(other["radii"]):
        return "-"
    differences = torch.tensor(record["radii"]).double() - torch.tensor(other["radii"]).double()
    error = float(differences.std() / len(differences) ** 0.5)
    return f"{float(differences.mean()):+.3f} ± {error:.3f}"


def read_records(folder: Path, names: Iterable[str]) -> dict[str, Record]:
    """The records that there are in a folder, in the order of the names."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: read_record(path) for name, path in paths.items() if path.exists()}


def ideas_table(folder: Path) -> str | None:
    """The ideas against the recipe, or nothing where there are no records."""
    records = read_records(folder, IDEAS)
    first = records.get("recipe")
    rows = [
        [
            IDEAS[name].difference,
            *measures(record),
            "-" if first is None else compare(record, first),
            number(record["loss"], 3),
            minutes(record),
        ]
        for name, record in records.items()
    ]
    return (
        markdown_table(["what differs", *MEASURES, "mean, less the recipe's", "loss", "minutes"], rows)
        if rows
        else None
    )


def pixels_table(folder: Path) -> str | None:
    """The ideas that were measured in L0 too, or nothing where there are no records."""
    rows = [
        [
            IDEAS[name].difference,
            percent(record["clean"], 2),
            number(record["pixels"]["mean"], 2),
            number(record["pixels"]["median"], 0),
            *(percent(share) for share in record["pixels"]["accuracy"].values()),
        ]
        for name, record in read_records(folder, IDEAS).items()
        if "pixels" in record
    ]
    head = ["what differs", "clean", "mean", "median", *(f"{size:g}" for size in PIXELS)]
    return markdown_table(head, rows) if rows else None


def binary_table(folder: Path) -> str | None:
    """The ideas for binary input, or nothing where there are no records."""
    rows = [
        [
            BINARY_IDEAS[name].difference,
            percent(record["clean"], 2),
            *(
                percent(share)
                for norm in BINARY_SIZES
                for share in record["certified"][norm]["accuracy"].values()
            ),
            number(record["certified"]["l0"]["mean"], 2),
            number(record["certified"]["l0"]["median"], 0),
            minutes(record),
        ]
        for name, record in read_records(folder, BINARY_IDEAS).items()
    ]
    sizes = (f"{NAMES[norm]} {size:g}" for norm, sizes in BINARY_SIZES.items() for size in sizes)
    return (
        markdown_table(["what differs", "clean", *sizes, "L0 mean", "L0 median", "minutes"], rows)
        if rows
        else None
    )


def vaes_table(folder: Path) -> str | None:
    """The sizes of VAEs, or nothing where there are no records."""
    rows = [
        [
            ", ".join(map(str, VAE_SIZES[name].hidden)),
            str(VAE_SIZES[name].latents),
            f"{record['weights']:,}",
            number(record["explaining_loss"]),
            *measures(record),
            number(record["loss"], 3),
            minutes(record),
        ]
        for name, record in read_records(folder, VAE_SIZES).items()
    ]
    head = ["layers", "latents", "weights a decoder", "loss of the VAEs", *MEASURES, "loss", "minutes"]
    return markdown_table(head, rows) if rows else None


def nearest_table(folder: Path) -> str | None:
    """Nearest prototypes, or nothing where there are no records."""
    rows = [
        [CALLED[name], *measures(record), number(record["loss"], 3), minutes(record)]
        for name, record in read_records(folder, NEAREST).items()
    ]
    return markdown_table(["prototypes", *MEASURES, "loss", "minutes"], rows) if rows else None


def sizes_table(folder: Path) -> str | None:
    """The sizes of a codebook, or nothing where there are no records."""
    records = read_records(folder, map(str, CODEBOOK_SIZES))
    rows = [
        [
            f"{int(count):,}",
            percent(record["clean"]),
            *(percent(share) for share in record["certified"]["accuracy"].values()),
            number(record["decode_seconds"], 1),
            number(record["classify_milliseconds"], 3),
            number(record["certify_milliseconds"], 1),
            f"{record['bytes'] / 1e6:,.0f}",
        ]
        for count, record in records.items()
    ]
    if not rows:
        return None
    sizes = next(iter(records.values()))["certified"]["accuracy"]
    head = ["prototypes a class", "clean", *sizes, "decode, s", "classify, ms", "certify, ms", "table, MB"]
    return markdown_table(head, rows)


TABLES: dict[str, tuple[str, Callable[[Path], str | None]]] = {
    "ideas": ("ideas", ideas_table),
    "pixels": ("ideas", pixels_table),
    "binary": ("binary", binary_table),
    "vaes": ("vaes", vaes_table),
    "nearest": ("nearest", nearest_table),
    "sizes": ("sizes", sizes_table),
    "final": ("..", final_table),
}
"""By the name of its markers: the folder of records, and what makes a table from it."""


def fill(page: str, name: str, text: str) -> str:
    r"""The page with what is between two markers replaced.

    Args:
        page: Markdown.
        name: Of the markers, ``<!-- name -->`` and ``<!-- /name -->``.
        text: To stand between them.

    Raises:
        AbsynthError: If a marker is missing or there more than once, or they are the wrong way round.

    >>> fill("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new")
    'a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb'
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise AbsynthError(f"The page needs the markers {first} and {last}, once each and in this order.")
    before, rest = page.split(first)
    return f"{before}{first}\n\n{text}\n\n{last}{rest.split(last)[1]}"


def write_page(page: Path, records: Path, pictures: Path) -> None:
    """Replaces the tables of a page, and draws its figures; what has no records stays as it is.

    Args:
        page: With markers for every table, filled or not.
        records: With a folder for each part.
        pictures: Folder for the figures.

    Raises:
        AbsynthError: If the page or one of its markers is missing.
    """
    if not page.exists():
        raise AbsynthError(f"There is no page {page}; write it first, with markers for the tables.")
    text = page.read_text(encoding="utf-8")
    for name, (folder, make) in TABLES.items():
        made = make(records / folder)
        filled = fill(text, name, made or "")
        text = text if made is None else filled
    write_text(page, text)
    if sizes := read_records(records / "sizes", map(str, CODEBOOK_SIZES)):
        draw_sizes({int(count): record for count, record in sizes.items()}, pictures)
    for known in sorted((records / "samples").glob("*/samples.json")):
        shown = read_record(known)["shown"]
        sheet = read_sheet(known.with_name("sheet.png"), len(shown["noise"]))
        draw_samples(sheet, shown["noise"], shown["permuted"], pictures / known.parent.name)
