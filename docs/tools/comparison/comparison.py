"""The page docs/comparison.md: what is proven of ours and of others' classifiers, on the same test images.

    python docs/tools/comparison/comparison.py measure [ROW ...]    certifies 1,000 test images
    python docs/tools/comparison/comparison.py attack [MODEL ...]   attacks the first 100 of them
    python docs/tools/comparison/comparison.py cost                 times each row, nothing else running
    python docs/tools/comparison/comparison.py page                 writes the page from what is kept

The first two go on where they were stopped. What was measured is kept in docs/results/comparison.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from page import write_page
from rows import ROWS, Row

from absynth.attacks import suite_attacks
from absynth.certify import Certifier, Method, make_method
from absynth.data import load_dataset
from absynth.evaluate.certification import run_certification
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.smallest import smallest_distances
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset, choose_images
from absynth.files import write_text
from absynth.norms import NORMS
from absynth.progress import progress_display
from absynth.zoo import load

DOCS = Path(__file__).parents[2]
KEPT = DOCS / "results" / "comparison"
STORE = DOCS.parent / ".cache" / "comparison"
IMAGES = 1000
ATTACKED = 100
SEED = 0
TIMED = 10
"""Images that the cost is measured on."""


def method_of(row: Row) -> Method | None:
    """What certifies a row."""
    return None if row.method is None else make_method(row.method, row.settings)


def measure(names: Sequence[str]) -> None:
    """Certifies the images of each row that is not kept yet."""
    images, labels = load_dataset("mnist", "test")
    for row in ROWS:
        path = KEPT / f"{row.name}.parquet"
        if (names and row.name not in names) or path.exists():
            continue
        print(row.command, flush=True)
        start = time.monotonic()
        with progress_display(False) as progress:
            run_certification(
                load(row.model),
                images,
                labels,
                indices=choose_images(len(images), IMAGES, SEED),
                norms=row.norms,
                exact=False,
                out=path,
                progress=progress,
                method=method_of(row),
            )
        print(f"  {time.monotonic() - start:.0f} s", flush=True)


def attack(names: Sequence[str]) -> None:
    """Attacks the first of the images with the suite quick, model by model."""
    models = tuple(names) or tuple(dict.fromkeys(row.model for row in ROWS if not row.made_from))
    path = KEPT / "attacked.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    preset = Preset(
        models=models,
        suite="quick",
        attacks={norm: tuple(one.name for one in suite_attacks("quick", norm)) for norm in NORMS},
        images=ATTACKED,
        clean_images=ATTACKED,
        seed=SEED,
    )
    with progress_display(False) as progress:
        result = run_benchmark(preset, ResultStore(STORE), progress)
    for model in models:
        found[model] = {norm: smallest_distances(result.records, model, norm).tolist() for norm in NORMS}
    write_text(path, json.dumps(found, indent=1) + "\n")


def cost() -> None:
    """Measures the seconds that an image takes, in each row."""
    torch.set_num_threads(1)
    images, labels = load_dataset("mnist", "test")
    rows = list(choose_images(len(images), TIMED, SEED))
    seconds = {}
    for row in ROWS:
        certifier = Certifier(load(row.model), method_of(row))
        seconds[row.name] = {}
        for norm in row.norms:
            start = time.monotonic()
            certifier.certify(images[rows], labels[rows], norm)
            seconds[row.name][norm] = round((time.monotonic() - start) / TIMED, 4)
        print(row.name, seconds[row.name], flush=True)
    write_text(KEPT / "seconds.json", json.dumps(seconds, indent=1) + "\n")


def main() -> None:
    """Does what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["measure", "attack", "cost", "page"])
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.part == "measure":
        measure(arguments.names)
    elif arguments.part == "attack":
        attack(arguments.names)
    elif arguments.part == "cost":
        cost()
    else:
        write_page(DOCS / "comparison.md", KEPT)


if __name__ == "__main__":
    main()
