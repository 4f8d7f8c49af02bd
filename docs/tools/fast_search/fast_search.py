"""The fast search of ABS beside the paper's, the yardstick, on test images: docs/fast-search.md.

    python docs/tools/fast_search/fast_search.py losses
    absynth bench --config docs/results/runs/fast-search.toml --out STORE
    python docs/tools/fast_search/fast_search.py attacks --store STORE
    python docs/tools/fast_search/fast_search.py page

The first compares classes and losses of 10,000 images, the third lets the yardstick judge the adversarials,
and the last writes the page from the records.

Each can be stopped and goes on where it was; what is not finished lies in --work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yardstick import paper_abs

import absynth
from absynth.attacks.batch import per_image
from absynth.attacks.line_search import bisect
from absynth.attacks.target import Target
from absynth.data import load_dataset
from absynth.evaluate.tasks import weights_hash
from absynth.files import atomic_path, write_text
from absynth.inference import ABS
from absynth.progress import progress_display
from absynth.report.results import Finding, Results, distances, read_results
from absynth.training.checkpoints import fingerprint

DOCS = Path(__file__).parents[2]
RECORD = DOCS / "results" / "fast-search.json"
PAGE = DOCS / "fast-search.md"
FAST_NAME = "abs"
"""The fast search in the results of absynth bench."""
PIECE = 250
"""Images between two stops."""
AROUND = (0.9, 1.1)
"""Where on its line from the clean image an adversarial of one search is looked for by the other."""
FARTHEST = 2.0
"""Where it is looked for if it is none there."""
BISECTIONS = 5
"""Which leave 0.6 % of the distance open."""


def piece_by_piece(
    work: Path, name: str, count: int, compute: Callable[[slice], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What is computed for all images; finished pieces are read again.

    Args:
        work: Folder of the pieces.
        name: Of their files; it tells apart whatever they depend on.
        count: How many images there are.
        compute: Tensors of some of the images.
    """
    parts = []
    with progress_display() as progress:
        task = progress.add_task(name, total=count, note="images")
        for start in range(0, count, PIECE):
            rows = slice(start, min(start + PIECE, count))
            file = work / f"{name}-{rows.start}-{rows.stop}.pt"
            if not file.exists():
                with torch.no_grad():
                    found = compute(rows)
                with atomic_path(file) as temporary:
                    torch.save(found, temporary)
            parts.append(torch.load(file, weights_only=True))
            progress.advance(task, rows.stop - rows.start)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def first_two(model: ABS, images: Tensor, rows: slice) -> dict[str, Tensor]:
    """The best and the second-best class of some of the images, with their losses."""
    found = model.infer(images[rows])
    order = found.logits.topk(2).indices
    return {"order": order, "losses": found.losses.gather(1, order)}


def compare_losses(work: Path, count: int) -> dict[str, Any]:
    """Accuracies, agreement and mean losses of both searches on the first test images."""
    images, labels = load_dataset("mnist", "test")
    images, labels = images[:count], labels[:count]
    searches = {"fast": absynth.load("abs"), "paper": paper_abs()}
    found = {}
    for name, model in searches.items():
        assert isinstance(model, ABS)
        pieces = f"losses-{name}-{weights_hash(model)[:12]}"
        found[name] = piece_by_piece(work, pieces, len(images), partial(first_two, model, images))
    record: dict[str, Any] = {"images": len(images)}
    for name, one in found.items():
        means = one["losses"].double().mean(0)
        record[name] = {
            "clean": float((one["order"][:, 0] == labels).double().mean()),
            "predicted loss": float(means[0]),
            "runner-up loss": float(means[1]),
        }
    same = found["fast"]["order"][:, 0] == found["paper"]["order"][:, 0]
    record["same class"] = float(same.double().mean())
    return record


def judged_scale(model: torch.nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    """Where on the line from each image through an adversarial the model errs, 1 being the adversarial.

    An upper bound on the smallest such place; infinite if the model does not err where it is looked for.
    """
    target, scale = Target(model, labels), torch.full((len(clean),), torch.inf)
    for low, high in (AROUND, (AROUND[1], FARTHEST)):
        rows = scale.isinf().nonzero()[:, 0]

        def on_line(position: Tensor, rows: Tensor) -> Tensor:
            return (clean[rows] + per_image(position) * (found[rows] - clean[rows])).clamp(0, 1)

        errs = target.select(rows).is_adversarial(on_line(torch.full((len(rows),), high), rows))
        rows = rows[errs]
        if len(rows):
            start = torch.full((len(rows),), low)
            path = partial(on_line, rows=rows)
            scale[rows] = bisect(target.select(rows), path, start, torch.full_like(start, high), BISECTIONS)
    return scale


def judge(
    work: Path, model: torch.nn.Module, results: Results, attack: str, own: Sequence[Finding]
) -> Tensor:
    """The distances at which the yardstick errs on the lines through adversarials of the fast search.

    Args:
        work: Folder of finished pieces.
        model: The yardstick.
        results: Where the adversarials are.
        attack: Name of the attack, for the files of the pieces.
        own: What the attack found against the fast search.
    """
    images, labels = load_dataset("mnist", "test")
    index = torch.tensor([finding.record.index for finding in own])
    clean, truth = images[index], labels[index]
    found = torch.stack([results.adversarial(finding) for finding in own])[:, None]
    lengths = distances(own)
    pieces = f"judged-{attack}-{weights_hash(model)[:12]}-{fingerprint(clean, found)[:12]}"

    def compute(rows: slice) -> dict[str, Tensor]:
        return {"scale": judged_scale(model, clean[rows], found[rows], truth[rows])}

    scale = piece_by_piece(work, pieces, len(own), compute)["scale"].double()
    return torch.where(lengths.isfinite() & (lengths > 0), lengths * scale, lengths)


def compare_attacks(work: Path, store: Path) -> dict[str, Any]:
    """Medians of each attack on the fast search, judged by either, and on the yardstick itself."""
    results, model = read_results(store), paper_abs()
    fast, paper = FAST_NAME, next(name for name in results.models if name != FAST_NAME)
    record: dict[str, Any] = {}
    for attack in results.attacks("l2"):
        own = results.smallest(fast, "l2", attack)
        beside = results.smallest(paper, "l2", attack)
        shared = {finding.record.index for finding in own} & {finding.record.index for finding in beside}
        own, beside = (
            tuple(finding for finding in some if finding.record.index in shared) for some in (own, beside)
        )
        record[attack] = {
            "images": len(own),
            "seed": own[0].record.seed,
            "settings": own[0].record.settings,
            "fast": float(distances(own).quantile(0.5)),
            "judged": float(judge(work, model, results, attack, own).quantile(0.5)),
            "paper": float(distances(beside).quantile(0.5)),
        }
    return record


PAGE_TEXT = """# The fast search of ABS beside the paper's

Generated by `python docs/tools/fast_search/fast_search.py page` from `docs/results/fast-search.json`; its
docstring has the commands that measured it. How much faster the search is stands in [Speed](speed.md). This
page says what that does to answers and to attacks.

`absynth.load("abs", settings="paper")`, the yardstick, takes the best of 8,000 latents a class and 50 Adam
steps from there, for all ten classes. By default ABS takes a quasi-Newton search, ends it where it has
converged, and refines only the classes that may be the best or the runner-up.

## Classes and losses

MNIST's first {images:,} test images. The loss is a sum over pixels, of the class that a search finds best and
of the one it finds second best, in the mean.

| search | clean accuracy | loss of the predicted class | of the runner-up |
| --- | ---: | ---: | ---: |
{losses}

Both find the same class for {same:.2%} of the images.

## Attacks

Median L2 distances of the same attacks on both, over the same test images (in brackets: how many; drawn with
seed {seed}). A misclassified image counts as distance 0. All are upper bounds on robustness.
"Judged": the attack was run against the fast search, and what counts is where the yardstick errs on the line
from the image through the adversarial.

| attack | on the fast search | judged by the yardstick | on the yardstick | judged / yardstick |
| --- | ---: | ---: | ---: | ---: |
{attacks}

The attacks are those of the suite "broad" with the settings that it had when they ran: {settings}.
"""


def write_page(record: dict[str, Any], page: Path) -> None:
    """The page from the records.

    Args:
        record: Of losses and attacks.
        page: Where to write it.
    """
    losses, attacks = record["losses"], record["attacks"]
    rows = [
        f"| {title} | {one['clean']:.2%} | {one['predicted loss']:.3f} | {one['runner-up loss']:.3f} |"
        for title, one in (
            ("fast, the default", losses["fast"]),
            ("the paper's, the yardstick", losses["paper"]),
        )
    ]
    lines = [
        f"| {name} ({one['images']}) | {one['fast']:.3f} | {one['judged']:.3f} | {one['paper']:.3f} "
        f"| {one['judged'] / one['paper']:.3f} |"
        for name, one in attacks.items()
    ]
    settings = "; ".join(f"{name} `{one['settings']}`" for name, one in attacks.items())
    text = PAGE_TEXT.format(
        images=losses["images"],
        losses="\n".join(rows),
        same=losses["same class"],
        seed=next(iter(attacks.values()))["seed"],
        attacks="\n".join(lines),
        settings=settings,
    )
    write_text(page, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and does one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("losses", "attacks", "page"))
    parser.add_argument("--store", type=Path, help="results of absynth bench")
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/fast-search"), help="folder of finished pieces"
    )
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=int, default=10_000, help="of the losses")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    record = json.loads(options.record.read_text()) if options.record.exists() else {}
    if options.part == "losses":
        record["losses"] = compare_losses(options.work, options.images)
    elif options.part == "attacks":
        if options.store is None:
            parser.error(
                "the part 'attacks' needs the results of absynth bench; name their folder with --store"
            )
        record["attacks"] = compare_attacks(options.work, options.store)
    else:
        write_page(record, options.page)
        return
    write_text(options.record, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
