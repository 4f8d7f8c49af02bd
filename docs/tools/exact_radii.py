"""How tight pairwise radii are: exact ones of training images, for the table in docs/certificates.md.

    python docs/tools/exact_radii.py measure certified-abs certified-binary-abs --count 1000
    python docs/tools/exact_radii.py table

The images are drawn (seed 0) from those that the recipes of the models hold out of the training images; the
weights of certified-binary-abs that ship have seen them. Images that the model misreads count as radius 0
in certified accuracies, and are left out of everything else.

The first keeps what it measured after every image, ends after --minutes, and goes on when it is called again.
A time is what one processor core worked for the exact radius of an image that is certified alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import absynth
from absynth.certify import Certifier
from absynth.certify.certificate import is_closed
from absynth.certify.front import split_front
from absynth.certify.provers.prototypes import Pairs, exact_norms
from absynth.data import load_dataset
from absynth.data.split import Validation
from absynth.files import write_text
from absynth.norms import NORMS, Norm

RECORD = Path(__file__).parents[1] / "results" / "exact-radii.json"
HELD_OUT = 1 / 12
SIZES: dict[Norm, float] = {"l2": 1.5, "l1": 8.0, "linf": 0.1, "l0": 12.0}
"""At which certified accuracy is told; ``linf`` behind a threshold at 0.3."""

Record = dict[str, dict[str, dict[str, dict[str, float] | None]]]
"""By model, norm and row of the training images; None where the model misreads the image."""


def read() -> Record:
    """What was measured so far."""
    found: Record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return found


def chosen(count: int) -> list[int]:
    """Rows of images that the recipes hold out."""
    _, labels = load_dataset("mnist", "train")
    _, rows = Validation(HELD_OUT).split(labels)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return [int(rows[place]) for place in order[:count]]


def measure(names: list[str], norms: list[Norm], count: int, seconds: float, until: float) -> None:
    """Adds to the record what it lacks, as long as there is time.

    Args:
        names: Models.
        norms: Norms; those in which a model has no exact radii are left out.
        count: Of images.
        seconds: Limit of the exact search, an image and norm.
        until: When to stop, in seconds of the clock that only goes forward.
    """
    images, labels = load_dataset("mnist", "train")
    record = read()
    for name in names:
        model = absynth.load(name)
        certifier = Certifier(model, Pairs(seconds))
        possible = [norm for norm in norms if norm in exact_norms(split_front(model)[1])]
        for row in chosen(count):
            for norm in possible:
                known = record.setdefault(name, {}).setdefault(norm, {})
                if str(row) in known:
                    continue
                if time.monotonic() > until:
                    return
                known[str(row)] = one(certifier, images[row, None], labels[row, None], norm)
                write_text(RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
        del certifier, model


def one(certifier: Certifier, image: Any, label: Any, norm: Norm) -> dict[str, float] | None:
    """Both radii of an image, and the distance of the nearest adversarial."""
    bound = certifier.certify(image, label, norm)
    if int(bound.prediction) != int(label):
        return None
    start = time.process_time()
    found = certifier.certify(image, label, norm, exact=True)
    spent = time.process_time() - start
    assert found.gap is not None
    away = float(found.radius + found.gap)
    return {
        "pairwise": float(bound.radius),
        "radius": float(found.radius),
        "distance": away,
        "seconds": round(spent, 3),
    }


def table() -> str:
    """The record as a table of Markdown."""
    lines = [
        "| model, norm | images | closed | pairwise / exact: median, least | certified accuracy | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, by_norm in sorted(read().items()):
        for norm in (norm for norm in NORMS if norm in by_norm):
            every = list(by_norm[norm].values())
            right = [entry for entry in every if entry is not None]
            gaps = [(entry["distance"] - entry["radius"], entry["radius"]) for entry in right]
            closed = mean(is_closed(gap, radius, norm) for gap, radius in gaps)
            tight = [entry["pairwise"] / entry["radius"] for entry in right if entry["radius"] > 0]
            size = 0.3 if norm == "linf" and "binary" in name else SIZES[norm]

            def accurate(kind: str, size: float = size, every: Any = every) -> str:
                return f"{mean(entry is not None and entry[kind] >= size for entry in every):.1%}"

            seconds = sorted(entry["seconds"] for entry in right)
            lines.append(
                f"| `{name}`, {norm} | {len(every)} | {closed:.1%} | {median(tight):.4f}, {min(tight):.3f} "
                f"| {size:g}: {accurate('pairwise')} pairwise, {accurate('radius')} exact "
                f"| median {median(seconds):.2f}, most {seconds[-1]:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    measuring = parts.add_parser("measure")
    measuring.add_argument("models", nargs="+")
    measuring.add_argument("--norms", default=",".join(NORMS))
    measuring.add_argument("--count", type=int, default=1000)
    measuring.add_argument("--seconds", type=float, default=30.0)
    measuring.add_argument("--minutes", type=float, default=90.0)
    parts.add_parser("table")
    arguments = parser.parse_args()
    if arguments.part == "measure":
        norms: list[Any] = arguments.norms.split(",")
        until = time.monotonic() + 60 * arguments.minutes
        measure(arguments.models, norms, arguments.count, arguments.seconds, until)
    print(table(), end="")


if __name__ == "__main__":
    main()
