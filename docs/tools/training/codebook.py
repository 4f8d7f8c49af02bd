"""A finished certified model: what the size of its codebook is worth, and what its decoders make."""

from __future__ import annotations

from pathlib import Path

import torch
from figure import Sheet, save_sheet
from jaxtyping import Float
from study import Record, Study, clock, once
from torch import Tensor

import absynth
from absynth.certify import certify
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.models.cnn import Binarized
from absynth.models.confidence import logits_to_probabilities
from absynth.models.front import Clamped, seen_by, unwrap
from absynth.progress import Progress
from absynth.shapes import Images
from absynth.training.certified.finish import certified_figures
from absynth.training.checkpoints import fingerprint
from absynth.training.finishing import read_validation
from absynth.zoo import model_folder

CODEBOOK_SIZES = (1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 50_000)
"""Prototypes a class."""

CERTIFIED_AT = (1.5, 1.58, 2.0)
"""The sizes in L2 that the certified accuracy is measured at."""

BATCH = 256
"""Images classified together."""


Finished = CodebookABS | Clamped | Binarized
"""A certified model."""


def load_held_out(model: str | Path, study: Study, *, binary: bool = False) -> Finished:
    """A finished certified model that was trained without the images that the study measures on.

    Args:
        model: Its folder, or a name that :func:`absynth.load` knows.
        study: What is measured on.
        binary: Whether it may stand behind a threshold.

    Raises:
        AbsynthError: If it is no such codebook, or was trained on these images.
    """
    known = read_validation(model_folder(model))
    if not bool(torch.isin(study.certified, known.split(study.labels)[1]).all()):
        raise AbsynthError(
            f"The model '{model}' was trained on images that are measured here; name one that was trained "
            f"with a share of {study.validation.share:.4f} held out (seed {study.validation.seed})."
        )
    loaded = absynth.load(model)
    if not isinstance(unwrap(loaded), CodebookABS) or not isinstance(loaded, Finished):
        raise AbsynthError(f"The model '{model}' has no codebook of decoded latents.")
    if isinstance(loaded, Binarized) and not binary:
        raise AbsynthError(f"The model '{model}' is for black and white images; name one for grey ones.")
    return loaded


def codebook_of(model: Finished) -> CodebookABS:
    """The codebook of a finished model, behind what stands in front of it."""
    inner = unwrap(model)
    assert isinstance(inner, CodebookABS)
    return inner


def identify(model: Finished) -> Record:
    """What tells a finished model from others."""
    codebook = codebook_of(model)
    return {
        "model": fingerprint(codebook.latents, *codebook.decoders.state_dict().values()),
        "tail": model.tail if isinstance(model, Clamped) else 0.0,
        "prior_weight": codebook.prior_weight,
        **({"binary": True} if isinstance(model, Binarized) else {}),
    }


def sheet_name(model: Finished) -> str:
    """What the samples of a finished model are kept and drawn under."""
    return "certified-binary-samples" if isinstance(model, Binarized) else "certified-samples"


def measure_sizes(model: Finished, study: Study, records: Path, progress: Progress) -> list[Record]:
    """The records of a codebook's first latents, more and more of them.

    The latents of the training images come first, in a random order, and then those of bent copies. More than
    are stored are found anew by the encoders of the VAEs that the model's decoders come from, which are the
    study's own.

    Args:
        model: Finished; it loses its table of prototypes.
        study: The images, and how many are measured.
        records: Folder of the records.
        progress: Where to show the measurements.
    """
    codebook = codebook_of(model)
    identity = identify(model)
    stored = codebook.latents.shape[1]
    rows = study.certified
    images, labels = study.images[rows], study.labels[rows]
    # The table of all would take memory beside those that are measured.
    codebook.prototype_images = codebook.prototype_images[:, :0].clone()
    codebook.projection = None

    def measure(count: int) -> Record:
        latents = codebook.latents[:, :count]
        if count > stored:
            latents = study.latents(study.start(progress).posterior, count)
        started = clock()
        table = CodebookABS(
            list(codebook.decoders),  # type: ignore[arg-type]
            latents,
            codebook.biases,
            codebook.alpha,
            codebook.prior_weight,
        )
        table.prepare()
        smaller = model.in_front_of(table) if isinstance(model, Clamped) else table
        decoded = clock()
        with torch.no_grad():
            smaller(images[:BATCH])
            warm = clock()
            for some in images.split(BATCH):
                smaller(some)
        classified = clock()
        certificate = certify(smaller, images, labels, "l2", progress=progress)
        certified = clock()
        return {
            "clean": float((certificate.prediction == labels).double().mean()),
            "certified": {"images": len(rows), **certified_figures(certificate, CERTIFIED_AT)},
            "decode_seconds": round(decoded - started, 3),
            "classify_milliseconds": round(1000 * (classified - warm) / len(rows), 4),
            "certify_milliseconds": round(1000 * (certified - classified) / len(rows), 4),
            "bytes": table.prototype_images.nbytes + table.prototype_offsets.nbytes,
        }

    made = []
    for count in CODEBOOK_SIZES:
        described = study.describe(**identity, count=count)
        path = records / f"{count}.json"
        made.append(once(path, described, lambda count=count: measure(count)))  # type: ignore[misc]
    return made


@torch.no_grad()
def confidences(model: Finished, images: Images) -> Float[Tensor, "batch"]:
    """The probability of the likeliest class."""
    pieces = [logits_to_probabilities(model(some)).amax(1) for some in images.split(BATCH)]
    return torch.cat(pieces)


def permute(images: Images, generator: torch.Generator) -> Images:
    """The images with their pixels in an order of its own each.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the orders.
    """
    flat = images.flatten(1)
    order = torch.rand(flat.shape, generator=generator).argsort(1)
    return flat.gather(1, order).view_as(images)


def measure_samples(model: Finished, study: Study, records: Path, progress: Progress) -> Record:
    """The record of a model's confidence on digits and on what is none; beside it, a sheet of what it makes.

    Args:
        model: Finished.
        study: The images, and how many are measured.
        records: Folder of the record and the sheet.
        progress: Where to show that something is done.
    """
    rows = study.certified
    images, labels = study.images[rows], study.labels[rows]
    codebook = codebook_of(model)

    def make() -> Record:
        task = progress.add_task("confidence", total=3, note="")
        generator = torch.Generator().manual_seed(0)
        unlike = {
            "digits": images,
            "noise": torch.rand(images.shape, generator=generator),
            "permuted": permute(images, generator),
        }
        found = {}
        for name, some in unlike.items():
            found[name] = confidences(model, some)
            progress.advance(task)
        first = torch.stack([(labels == label).nonzero()[0, 0] for label in range(study.classes)])
        sheet = Sheet(
            images[first],
            own_prototypes(codebook, seen_by(model, images[first])),
            draw_samples(codebook, generator),
            draw_samples(codebook, generator),
            unlike["noise"][first],
            unlike["permuted"][first],
        )
        save_sheet(sheet, records / "sheet.png")
        return {
            "images": len(rows),
            "confidence": {name: float(some.mean()) for name, some in found.items()},
            "largest_confidence": {name: float(some.max()) for name, some in found.items()},
            "shown": {name: found[name][first].tolist() for name in ("noise", "permuted")},
        }

    path = records / "samples.json"
    described = study.describe(**identify(model), alpha=codebook.alpha)
    if not (records / "sheet.png").exists():
        path.unlink(missing_ok=True)
    return once(path, described, make)


@torch.no_grad()
def own_prototypes(model: CodebookABS, images: Images) -> Images:
    """The best prototype of its own class for each image, where the images are one of each class in turn."""
    labels = torch.arange(len(images))
    chosen = model.nearest(images)[labels, labels]
    return model.prototype_images[labels, chosen].view_as(images)


def draw_samples(model: CodebookABS, generator: torch.Generator) -> Images:
    """An image of each class, decoded from a draw of N(0, I)."""
    latents = torch.randn(len(model.decoders), 1, model.latents.shape[2], generator=generator)
    return torch.cat([model.decode(label, own) for label, own in enumerate(latents)])
