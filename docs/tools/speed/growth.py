"""How the time of an image grows with the batch, the classes, the prototypes, the image and the latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from limits import seconds
from torch import Tensor, nn

import absynth
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.vae import Decoder

BATCHES = (1, 4, 16, 64, 256)
CLASSES = (2, 5, 10, 20, 40)
PROTOTYPES = (1_000, 2_000, 4_000, 8_000)
SIDES = (28, 40, 52, 64)
LATENTS = (2, 4, 8, 16, 32)
BATCH = 64
"""Images where neither the batch nor the number of prototypes grows."""

SMALLER = 2_000
"""Prototypes a class where classes, images or latents grow."""

FEW = 16
"""Images that small batches are measured on, one batch after the other."""

FULL_SEARCH = SearchSettings(method="quasi-newton", steps=12, fold_batch_norm=True)
"""The default's search without its stops: as many steps for every image and class, trained or not."""


@dataclass(frozen=True)
class Growth:
    """Milliseconds an image of several computations, by one size.

    Attributes:
        size: What grows.
        values: The sizes.
        lines: By the name of the computation, one number a size, or none where it was not measured.
        remarks: Further columns of the table.
    """

    size: str
    values: Sequence[int]
    lines: dict[str, list[float | None]]
    remarks: dict[str, list[float]]


def with_batch(images: Tensor, threads: int) -> Growth:
    """Whole classifiers, by the number of images at once; the paper's settings are the yardstick.

    Args:
        images: As many as the largest batch.
        threads: For :func:`seconds`.
    """
    models: dict[str, tuple[nn.Module, int]] = {
        "ABS, paper": (absynth.load("abs", settings="paper"), 1),
        "ABS": (absynth.load("abs"), 3),
        "codebook": (absynth.load("codebook-abs"), 3),
    }
    sizes = [size for size in BATCHES if size <= len(images)]
    lines: dict[str, list[float | None]] = {}
    for name, (model, repeats) in models.items():
        lines[name] = []
        for size in sizes:
            # As many images for every size, since some take the search longer than others.
            some = images[: max(size, FEW)]
            work = partial(_in_turn, model, some.split(size))
            lines[name].append(1e3 * seconds(work, threads, repeats) / len(some))
    return Growth("batch", sizes, lines, {})


def _in_turn(model: nn.Module, batches: Sequence[Tensor]) -> None:
    for batch in batches:
        model(batch)


def with_prototypes(model: CodebookABS, images: Tensor, threads: int) -> list[Growth]:
    """The search of a codebook beside FAISS's exact one, for all images at once and for one.

    Args:
        model: Its decoders and latents are used.
        images: To look for.
        threads: For :func:`seconds`.
    """
    sizes = [count for count in PROTOTYPES if count <= model.latents.shape[1]]
    found = [
        Growth(
            "prototypes", [count * len(model.decoders) for count in sizes], {"codebook": [], "FAISS": []}, {}
        )
        for _ in range(2)
    ]
    for count in sizes:
        smaller = CodebookABS(_decoders(model), model.latents[:, :count])
        smaller.prepare()
        theirs = _faiss(smaller, threads)
        for growth, some in zip(found, (images, images[:1]), strict=True):
            for name, search in (("codebook", smaller.nearest), ("FAISS", theirs)):
                spent = None if search is None else seconds(partial(search, some), threads) / len(some)
                growth.lines[name].append(None if spent is None else 1e3 * spent)
    return found


def _decoders(model: CodebookABS) -> list[Decoder]:
    return [decoder for decoder in model.decoders if isinstance(decoder, Decoder)]


def _faiss(model: CodebookABS, threads: int) -> Callable[[Tensor], Any] | None:
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(model.prototype_images.shape[-1])
    index.add(model.prototype_images.flatten(0, 1).numpy())
    return lambda images: index.search(images.flatten(1).numpy(), 1)


def with_classes(model: ABS, images: Tensor, threads: int) -> Growth:
    """A trained model whose classes are repeated or left out.

    Args:
        model: The ABS, its default settings.
        images: To classify.
        threads: For :func:`seconds`.
    """
    growth = Growth("classes", CLASSES, {"ABS": [], "codebook": []}, {"classes refined": []})
    decoders = _decoders(model.codebook)
    for count in CLASSES:
        chosen = [decoders[label % len(decoders)] for label in range(count)]
        other = ABS(CodebookABS(chosen, model.codebook.latents[:, :SMALLER]), model.settings)
        _measure(growth, other, images, threads)
        growth.remarks["classes refined"].append(float(other.infer(images).refined.sum(1).float().mean()))
    return growth


def with_sides(threads: int) -> Growth:
    """Untrained decoders of larger and larger images."""
    return _untrained("side", SIDES, ((8, side) for side in SIDES), threads)


def with_latents(threads: int) -> Growth:
    """Untrained decoders of larger and larger latents."""
    return _untrained("latents", LATENTS, ((latents, 28) for latents in LATENTS), threads)


def _untrained(size: str, values: Sequence[int], shapes: Iterator[tuple[int, int]], threads: int) -> Growth:
    growth = Growth(size, values, {"ABS": [], "codebook": [], "decoder": []}, {})
    for latents, side in shapes:
        decoders = [Decoder(latents, image_size=(side, side)).eval().folded() for _ in range(2)]
        model = ABS(CodebookABS(decoders, draw_latents(SMALLER, latents)), FULL_SEARCH)
        images = torch.rand(BATCH, 1, side, side)
        _measure(growth, model, images, threads)
        decode = partial(decoders[0], draw_latents(BATCH, latents)[0])
        growth.lines["decoder"].append(1e3 * seconds(decode, threads) / BATCH)
    return growth


def _measure(growth: Growth, model: ABS, images: Tensor, threads: int) -> None:
    model.eval().requires_grad_(False).prepare()
    for name, classifier in (("ABS", model), ("codebook", model.codebook)):
        growth.lines[name].append(1e3 * seconds(partial(classifier, images), threads) / len(images))
