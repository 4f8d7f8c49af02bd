"""Studies of the training for certificates, on training images alone, for docs/training-for-certificates.md.

    python docs/tools/training/training.py ideas binary vaes nearest
    python docs/tools/training/training.py sizes samples --model FOLDER
    python docs/tools/training/training.py page

The first trains and measures what has no record yet, the second looks at a finished model, and the last
writes tables and pictures from the records.

A twelfth of MNIST's training images is held out and measured on; the test images are never read. With one
thread the processor's time counts, which other programs on the machine hardly change; with more it is
wall-clock time, for an idle machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from binary import BINARY_IDEAS, Grey, measure_binary
from codebook import load_held_out, measure_samples, measure_sizes, sheet_name
from ideas import IDEAS, measure_idea
from nearest import NEAREST, measure_nearest
from page import write_page
from study import Study
from vaes import VAE_SIZES, measure_size, with_short_training

from absynth.data import load_dataset
from absynth.errors import AbsynthError
from absynth.progress import progress_display
from absynth.training.recipes.certified_abs import EXPLAINING
from absynth.training.recipes.certified_binary_abs import EXPLAINING as EXPLAINING_BINARY

DOCS = Path(__file__).parents[2]
NAMES: dict[str, Sequence[str]] = {
    "ideas": tuple(IDEAS),
    "binary": tuple(BINARY_IDEAS),
    "vaes": tuple(VAE_SIZES),
    "nearest": tuple(NEAREST),
    "sizes": (),
    "samples": (),
    "page": (),
}
"""What each part tries, by name."""


def chosen_names(parts: Sequence[str], only: str | None) -> set[str]:
    """The names of what is to be tried.

    Args:
        parts: That are run.
        only: Names with commas between them; by default all are tried.

    Raises:
        AbsynthError: If no part that is run knows a name.
    """
    known = {name for part in parts for name in NAMES[part]}
    if only is None:
        return known
    wanted = {name.strip() for name in only.split(",")}
    if unknown := sorted(wanted - known):
        raise AbsynthError(f"There is no '{unknown[0]}' here; choose from {', '.join(sorted(known))}.")
    return wanted


def run_part(part: str, names: set[str], study: Study, records: Path, model: str | None) -> None:
    """Tries what a part has no record of yet.

    Args:
        part: Its name.
        names: What may be tried.
        study: The images, and how much of everything.
        records: Folder of the part's records.
        model: For the parts that look at a finished one.

    Raises:
        AbsynthError: If a model is needed and not given.
    """
    if part in ("sizes", "samples"):
        if model is None:
            raise AbsynthError(f"The part '{part}' looks at a finished model; name one with --model.")
        with progress_display() as progress:
            finished = load_held_out(model, study, binary=part == "samples")
            if part == "sizes":
                # more latents than are stored come from encoders like the model's own
                whole = replace(study, work=study.work / "whole", explaining=EXPLAINING)
                measure_sizes(finished, whole, records, progress)
            else:
                measure_samples(finished, study, records / sheet_name(finished), progress)
        return
    shorter = with_short_training(study)
    # from the VAEs of the recipe itself, which are trained longer than those of the other ideas
    grey = Grey(replace(study, work=study.work / "binary", explaining=EXPLAINING_BINARY))
    for name in NAMES[part]:
        if name not in names:
            continue
        print(f"{part}: {name}", file=sys.stderr)
        with progress_display() as progress:
            if part == "ideas":
                measure_idea(name, study, records, progress)
            elif part == "binary":
                measure_binary(name, grey, records, progress)
            elif part == "vaes":
                measure_size(name, VAE_SIZES[name], shorter, records, progress)
            else:
                measure_nearest(name, NEAREST[name], study, records, progress)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options, trains and measures what was asked for, writes the page.

    Args:
        arguments: By default those of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=tuple(NAMES), metavar="PART", help=", ".join(NAMES))
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/training"), help="folder for what is trained"
    )
    parser.add_argument(
        "--records", type=Path, default=DOCS / "results" / "training", help="folder for records"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="names of ideas, VAEs or baselines, with commas between them")
    parser.add_argument(
        "--model",
        help="for sizes and samples: a finished certified model that was trained with the same twelfth held "
        "out, as 'absynth train certified-abs' does by default with seed 0; another one is refused, as it "
        "was trained on images that are measured here",
    )
    parser.add_argument("--page", type=Path, default=DOCS / "training-for-certificates.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        names = chosen_names(options.parts, options.only)
        if options.parts != ["page"]:
            study = Study(*load_dataset("mnist", "train"), options.work)
        for part in options.parts:
            if part == "page":
                write_page(options.page, options.records, DOCS / "images")
            else:
                run_part(part, names, study, options.records / part, options.model)
    except AbsynthError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
