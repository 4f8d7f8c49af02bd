"""Measures the hot paths beside their yardsticks in one run, and writes docs/speed.md (``make bench``).

With one thread the processor's time counts, which other programs on the machine hardly change; with more it
is wall-clock time, for an idle machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from figure import draw_growth
from growth import (
    BATCH,
    FEW,
    SMALLER,
    Growth,
    with_batch,
    with_classes,
    with_latents,
    with_prototypes,
    with_sides,
)
from limits import SIZES, Limits, measure_limits
from paths import Rows, decoder_rows, limit_rows
from torch import Tensor

import absynth
from absynth.data import load_dataset
from absynth.data.fetch import CACHE_VARIABLE
from absynth.inference import ABS, CodebookABS
from absynth.models.projection import DIMENSIONS
from absynth.report.markdown import markdown_table

DOCS = Path(__file__).parents[2]
FIRST_ANSWER = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[2]))
clock = time.process_time if sys.argv[2] == "1" else time.perf_counter
started = clock()
import absynth
model = absynth.load(sys.argv[1])
with torch.no_grad():
    model(torch.rand(1, 1, 28, 28))
print(clock() - started)
"""


def load_rows(threads: int) -> Rows:
    """Seconds to the first answer of every model, without and with a filled cache."""
    rows = []
    for name in absynth.model_names():
        command = [sys.executable, "-c", FIRST_ANSWER, name, str(threads)]
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {CACHE_VARIABLE: cache}
            first, second = (float(subprocess.check_output(command, env=environment)) for _ in range(2))
        rows.append([name, f"{first:.1f}", f"{second:.1f}"])
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of numbers."""
    return markdown_table(head, rows, first="---:")


def number(value: float | None) -> str:
    """Milliseconds with three digits that count.

    >>> number(0.01234), number(12.34), number(None)
    ('0.0123', '12.3', '-')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def growth_table(growth: Growth) -> str:
    """The numbers of one panel of the figure."""
    columns = growth.lines | growth.remarks
    rows = [
        [f"{size:,}", *(number(column[place]) for column in columns.values())]
        for place, size in enumerate(growth.values)
    ]
    return table([growth.size, *columns], rows)


def batch_table(growth: Growth) -> str:
    """The same with the ratio to the yardstick."""
    paper, ours = growth.lines["ABS, paper"], growth.lines["ABS"]
    ratios = [yardstick / own for yardstick, own in zip(paper, ours, strict=True) if yardstick and own]
    return growth_table(Growth(growth.size, growth.values, growth.lines, {"paper / ABS": ratios}))


def prototype_table(many: Growth, one: Growth) -> str:
    """The search of a codebook beside FAISS's, with the ratio to it."""
    rows = []
    for place, size in enumerate(many.values):
        for batch, growth in (("all", many), ("1", one)):
            ours, theirs = growth.lines["codebook"][place], growth.lines["FAISS"][place]
            ratio = theirs / ours if ours and theirs else None
            rows.append([f"{size:,}", batch, number(ours), number(theirs), number(ratio)])
    return table(["prototypes", "batch", "codebook", "FAISS", "FAISS / codebook"], rows)


def bandwidths(limits: Limits) -> str:
    """The table of what memory and caches deliver."""
    rows = [
        [f"{size / 2**20:g}", f"{limits.reading[size] / 1e9:.0f}", f"{limits.writing[size] / 1e9:.0f}"]
        for size in SIZES
    ]
    return table(["MiB", "read, GB/s", "written, GB/s"], rows)


def main() -> None:
    """Reads the options, measures, writes the page and its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=256, help="of the largest batch")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for speed.md and images/speed.svg")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = load_dataset("mnist", "test")[0]
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: options.images]]
    pictures: Path = options.out / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        page = measured_page(images, options.threads, pictures)
    (options.out / "speed.md").write_text(page, encoding="utf-8")


def measured_page(images: Tensor, threads: int, pictures: Path) -> str:
    """The page, all of it measured now.

    Args:
        images: The largest batch.
        threads: With how many to compute.
        pictures: Folder for the figure.
    """
    limits = measure_limits(threads)
    batches = with_batch(images, threads)
    model, codebook = absynth.load("abs"), absynth.load("codebook-abs")
    assert isinstance(model, ABS)
    assert isinstance(codebook, CodebookABS)
    prototypes, one = with_prototypes(codebook, images, threads)
    classes, sides, latents = (
        with_classes(model, images[:BATCH], threads),
        with_sides(threads),
        with_latents(threads),
    )
    draw_growth([batches, classes, prototypes, sides, latents], pictures)
    counted = ["path", "batch", "MFLOP", "MB", "ms", "arithmetic, ms", "traffic, ms", "limit", "of the limit"]
    counts, shares = limit_rows(model, codebook, images, threads, limits)
    clock = "the processor's time" if threads == 1 else "wall-clock time"
    return f"""# Speed

Written by `make bench`; do not edit. Measured in one run with torch {torch.__version__}, {threads}
thread(s), {clock}, the shortest of three runs after one that does not count (the paper's settings: one run).
Ratios are to a yardstick of the same run, never to a stored time.

## How cost grows

![Milliseconds an image on logarithmic axes against the batch, the classes, the prototypes, the side of the
image and the latent coordinates](images/speed.svg)

*Milliseconds an image, from the tables below, on {len(images)} test images of MNIST drawn with seed 0 and
{threads} thread(s). Batch: the shipped models, on the first {FEW} images at least, batch by batch.
Prototypes: shipped decoders, all {len(images)} images at once. Classes: the shipped decoders
repeated or left out, {SMALLER:,} prototypes a class, {len(images[:BATCH])} of the images at once.
Side and latent: two untrained decoders (seed 0), {SMALLER:,} prototypes each, {BATCH} images of uniform
noise at once, and a search that never stops early: 12 steps for both classes.*

### Batch

With `settings="paper"` (8,000 latents, 50 Adam steps, ten classes), the yardstick, and by default. How
little the classes, losses and adversarials of the two differ is on [a page of its own](fast-search.md).

{batch_table(batches)}

### Classes

Each further class costs the search of its prototypes. Its decoder is run only for the classes that may be the
best or the runner-up; with more than ten classes, there are twins that explain an image equally well, and as
many more to refine.

{growth_table(classes)}

### Prototypes

To compare an image with every pixel of a prototype takes 1,568 FLOPs; in a large codebook the search bounds
the scores by {DIMENSIONS} coordinates of each prototype and computes the losses of those that may win, with
the same answer. With 1,000 prototypes a class, the first size here, it computes all scores. FAISS:
`IndexFlatL2`, exact, the yardstick.

{prototype_table(prototypes, one)}

### Side of the image and latent

{growth_table(sides)}

{growth_table(latents)}

One decoder pass without batch norm: the FLOPs that the transposed convolutions need, microseconds an image,
and the share that they reach of the peak below.

{table(["side", "latents", "batch", "MFLOP", "µs", "of the peak"], decoder_rows(threads, limits.peak))}

## Beside this machine's limits

Measured by the same clock: {limits.peak / 1e9:.0f} GFLOP/s (product of two matrices of side 1024), and a
memory whose speed depends on how much is read (summed) or written (zeroed) at a time:

{bandwidths(limits)}

For each hot path, an image's FLOPs (those executed in matrix products and convolutions) and bytes (each
operator reads its inputs and writes its outputs) are counted while it runs. The arithmetic takes the FLOPs
divided by the peak. The traffic takes the bytes divided by the speed above for a tensor of that size. The
larger of the two is the limit.

{table(counted, counts)}

Where the time goes: calls of operators an image, memory that the system had to hand out first, the time
outside of all operators (the interpreter and torch's dispatch), and the operators that take the most, all by
torch's profiler.

{table(["path", "batch", "calls", "new MB", "outside", "most of the time"], shares)}

Why not more:

- **Codebook, many images**: the product that bounds the scores (`mm`) does nearly all of the arithmetic. The
  rest are passes over the bounds (`argmin`, comparison, `nonzero`) and over the pixels of the prototypes that
  may win (`index`, `sub`, `pow`, `sum`): few FLOPs a byte, each an operator that writes its result.
- **Codebook, one image**: most of the time is one product (`mm`), which reads the coordinates of all
  prototypes for a single image, though not quite as fast as a sum reads them; a batch shares this reading.
  The other operators are too small to fill their time.
- **Decoder, one image**: no layer is large enough. Most of the time is the cost of calling operators.
- **Decoder, many images**: beside the convolutions stand the ELU and the sigmoid (an exponential a value, no
  FLOPs in this count), and the sums of the last layer's columns where they overlap. Sixteen channels are few
  for a convolution.
- **Decoder, side 64**: the same, on outputs that fit into no cache of a core.
- **ABS**: many small calls. Each step of the search calls the decoder, its transpose and the update on the
  images of one class that are still searching, and those become few; hence the time outside of operators,
  above all for one image. Larger batches fill the calls.

## Load and first answer

Seconds to import the package, load a model and classify one image, in a process of its own: with an empty
cache, and once its decoded codebook comes from there.

{table(["model", "empty cache", "filled cache"], load_rows(threads))}
"""


if __name__ == "__main__":
    main()
