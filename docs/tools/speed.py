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
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import absynth
from absynth.data import load_dataset
from absynth.data.fetch import CACHE_VARIABLE
from absynth.inference.codebook import CodebookABS, draw_latents
from absynth.models.vae import Decoder

PAGE = Path(__file__).parents[1] / "speed.md"
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


def seconds(work: Callable[[], object], threads: int, repeats: int = 3) -> float:
    """The shortest of several runs, after one that does not count."""
    clock = time.process_time if threads == 1 else time.perf_counter
    if repeats > 1:
        work()
    times = []
    for _ in range(repeats):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def decoder_flops(decoder: Decoder) -> int:
    """Two for each multiplication of the transposed convolutions, for one image."""
    height = width = 1
    total = 0
    for layer in decoder.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            total += 2 * height * width * layer.weight.numel()
            height = (height - 1) * layer.stride[0] + layer.weight.shape[2]
            width = (width - 1) * layer.stride[1] + layer.weight.shape[3]
    return total


def search_rows(images: Tensor, batch: int, threads: int) -> list[list[str]]:
    """ABS with the paper's settings and with its own."""
    rows = []
    paper = absynth.load("abs", settings="paper")
    fast = absynth.load("abs")
    for size in (batch, 1):
        some = images[:size]
        yardstick = seconds(lambda some=some: paper(some), threads, repeats=1) / size
        ours = seconds(lambda some=some: fast(some), threads) / size
        row = [f"{size}", f"{1e3 * yardstick:.1f}", f"{1e3 * ours:.2f}", f"{yardstick / ours:.1f}"]
        rows.append(row)
    return rows


def codebook_rows(model: CodebookABS, images: Tensor, threads: int) -> list[list[str]]:
    """The search of a codebook beside FAISS's exact one, and how it grows with the prototypes."""
    try:
        import faiss
    except ImportError:
        faiss = None
    rows = []
    for count in (1_000, 2_000, 4_000, 8_000):
        smaller = CodebookABS(list(model.decoders), model.latents[:, :count])
        smaller.prepare()
        for size in (len(images), 1):
            some = images[:size]
            ours = seconds(lambda some=some, smaller=smaller: smaller.nearest(some), threads) / size
            theirs = "not installed"
            if faiss is not None:
                faiss.omp_set_num_threads(threads)
                index = faiss.IndexFlatL2(784)
                index.add(smaller.prototype_images.flatten(0, 1).numpy())
                queries = some.flatten(1).numpy()
                search = partial(index.search, queries, 1)
                theirs = f"{1e3 * seconds(search, threads) / size:.2f}"
            rows.append([f"{10 * count:,}", f"{size}", f"{1e3 * ours:.2f}", theirs])
    return rows


def decoder_rows(threads: int, peak: float) -> list[list[str]]:
    """A pass of decoders of several sizes of image and latent, and the share of the peak that it reaches."""
    rows = []
    for side, latents in ((28, 8), (40, 8), (64, 8), (28, 2), (28, 32)):
        decoder = Decoder(latents, image_size=(side, side)).eval().folded()
        flops = decoder_flops(decoder)
        for size in (1, 64, 500):
            values = draw_latents(size, latents)[0]
            with torch.no_grad():
                spent = seconds(lambda decoder=decoder, values=values: decoder(values), threads) / size
            share = f"{100 * flops / spent / peak:.0f} %"
            rows.append(
                [f"{side}", f"{latents}", f"{size}", f"{flops / 1e6:.2f}", f"{1e6 * spent:.0f}", share]
            )
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Reads the options, measures, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=256, help="of the larger batch")
    options = parser.parse_args()
    threads: int = options.threads
    torch.set_num_threads(threads)
    images = load_dataset("mnist", "test")[0]
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: options.images]]
    square = torch.rand(1024, 1024)
    peak = 2 * 1024**3 / seconds(lambda: square @ square, threads, 10)
    buffer = torch.rand(2**26)
    bandwidth = 2 * 4 * 2**26 / seconds(buffer.clone, threads)
    with torch.no_grad():
        searches = search_rows(images, options.images, threads)
        model = absynth.load("codebook-abs")
        assert isinstance(model, CodebookABS)
        codebooks = codebook_rows(model, images, threads)
    loads = []
    for name in absynth.model_names():
        command = [sys.executable, "-c", FIRST_ANSWER, name, str(threads)]
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {CACHE_VARIABLE: cache}
            first, second = (float(subprocess.check_output(command, env=environment)) for _ in range(2))
        loads.append([name, f"{first:.1f}", f"{second:.1f}"])
    clock = "the processor's time" if threads == 1 else "wall-clock time"
    PAGE.write_text(
        f"""# Speed

Written by `make bench`; do not edit. Measured in one run with torch {torch.__version__}, {threads} thread(s),
{clock}, {options.images} test images of MNIST drawn with seed 0, the shortest of three runs (the paper's
settings: one). This machine's limits, by the same clock: {peak / 1e9:.0f} GFLOP/s (product of two matrices
of side 1024), {bandwidth / 1e9:.0f} GB/s (copy of 256 MiB, read and written).

## Continuous ABS

Milliseconds an image, with `settings="paper"` (8,000 latents, 50 Adam steps, ten classes) and by default.

{table(["batch", "paper", "default", "times faster"], searches)}

## Codebook ABS

Milliseconds an image. To compare an image with every pixel of a prototype takes 1,568 FLOPs; in a large
codebook the search bounds the scores by 96 coordinates of each prototype and computes the losses of those
that may win, with the same answer. FAISS: `IndexFlatL2`, exact.

{table(["prototypes", "batch", "absynth", "FAISS"], codebooks)}

## Decoder

One pass without batch norm: microseconds an image, and the share of the peak above.

{table(["side", "latents", "batch", "MFLOP", "µs", "of the peak"], decoder_rows(threads, peak))}

## Load and first answer

Seconds to import the package, load a model and classify one image, in a process of its own: with an empty
cache, and once its decoded codebook comes from there.

{table(["model", "empty cache", "filled cache"], loads)}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
