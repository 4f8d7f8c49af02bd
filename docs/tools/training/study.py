"""What the studies of the training for certificates share: images, where all start, measures and records.

Only training images are used: a twelfth of them is held out, and everything is measured on those.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.certify import certify
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.files import write_text
from absynth.models.prototypes import PrototypeClassifier
from absynth.models.vae import VAE, Decoder, Posterior
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.augmentation import bend
from absynth.training.certified.finish import certified_figures
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.finishing import accuracy
from absynth.training.latents import codebook_latents, encode
from absynth.training.recipes.certified_abs import EXPLAINING, HELD_OUT, HIDDEN
from absynth.training.settings import TrainingSettings
from absynth.training.vaes import train_vaes

SMALL = CertifiedSettings(rounds=20, images=4000, compared=4000)
"""What every idea is tried with: a few minutes on one core."""

EXPLAINED = replace(EXPLAINING, epochs=90)
"""How the VAEs are trained that ideas begin with: shorter than those of the shipped models."""

PROTOTYPES = 8_000
"""Of a class, in the codebooks that are measured."""

MEASURED = 1000
"""Images held out that are certified."""

SIZES = (1.0, 1.5, 1.58, 2.0, 2.5)
"""The sizes in L2 that the certified accuracy is measured at."""

PIXELS = (8.0, 12.0, 16.0)
"""The sizes in L0, where it is measured."""

SECOND_SEED = 100
"""Of the second VAE of each class; the seeds of the first are 0 to 9."""

Record = dict[str, Any]


def clock() -> float:
    """Seconds: of the processor with one thread, which other programs hardly change, else by the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Table(PrototypeClassifier):
    """A classifier by a table of prototypes, whatever they were made from.

    Args:
        prototypes: Of every class.
        offsets: What is added to the squared distance to each.
    """

    def __init__(
        self,
        prototypes: Float[Tensor, "class prototype pixel"],
        offsets: Float[Tensor, "class prototype"],
    ) -> None:
        super().__init__()
        self.register_buffer("prototype_images", prototypes.detach().contiguous())
        self.register_buffer("prototype_offsets", offsets.detach().contiguous())
        self.index()
        self.eval()


@dataclass(frozen=True)
class Start:
    """Where every idea begins.

    Attributes:
        vaes: One a class, in evaluation mode; they stay as they are.
        posterior: What their encoders say of the images that are trained on, and then of copies of them.
    """

    vaes: list[VAE]
    posterior: Posterior

    def decoders(self) -> list[Decoder]:
        """Copies of the decoders, to be trained."""
        return copy_decoders(self.vaes)


@dataclass(frozen=True)
class Study:
    """The images, and how much of everything.

    Attributes:
        images: All training images.
        labels: Their classes.
        work: Folder for what is trained.
        settings: Of the training for certificates.
        explaining: Of the VAEs.
        hidden: Widths of their layers.
        prototypes: Of a class, in the codebooks that are measured.
        measured: Images held out that are certified.
        validation: Which images are held out.
    """

    images: Images
    labels: Labels
    work: Path
    settings: CertifiedSettings = SMALL
    explaining: TrainingSettings = EXPLAINED
    hidden: tuple[int, ...] = HIDDEN
    prototypes: int = PROTOTYPES
    measured: int = MEASURED
    validation: Validation = field(default_factory=lambda: Validation(HELD_OUT))

    @cached_property
    def classes(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1

    @cached_property
    def trained(self) -> tuple[Images, Labels]:
        """The images that are trained on, and their classes."""
        rows, _ = self.validation.split(self.labels)
        return self.images[rows], self.labels[rows]

    @cached_property
    def held_out(self) -> Int64[Tensor, "some"]:
        """The rows of the images held out."""
        return self.validation.split(self.labels)[1]

    @cached_property
    def certified(self) -> Int64[Tensor, "some"]:
        """The rows of those that are certified, drawn with seed 0."""
        generator = torch.Generator().manual_seed(0)
        return self.held_out[torch.randperm(len(self.held_out), generator=generator)[: self.measured]]

    def start(self, progress: Progress, seed: int = 0) -> Start:
        """The VAEs of a seed, trained unless that was done before, and what they say of the images."""
        if seed not in self._starts:
            vaes, _ = train_vaes(
                *self.trained,
                replace(self.explaining, seed=self.explaining.seed + seed),
                classes=self.classes,
                folder=self.work / ("vaes-2" if seed else "vaes") / "checkpoints",
                progress=progress,
                perturbation=bend,
                hidden=self.hidden,
            )
            self._starts[seed] = self.begin(vaes, self.settings)
        return self._starts[seed]

    def begin(self, vaes: list[VAE], settings: CertifiedSettings) -> Start:
        """Where to begin with these VAEs, and with as many bent copies of the images as the settings say."""
        for vae in vaes:
            vae.eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(settings.seed)
        return Start(vaes, encode(vaes, *self.trained, settings.copies, generator))

    def latents(
        self, posterior: Posterior, count: int | None = None
    ) -> Float[Tensor, "class prototype latent"]:
        """The latents of a codebook, drawn with seed 0.

        Args:
            posterior: Of the images that are trained on, and perhaps of copies.
            count: How many a class; by default as many as the study's.
        """
        generator = torch.Generator().manual_seed(self.settings.seed)
        _, labels = self.trained
        wanted = self.prototypes if count is None else count
        drawn = [
            codebook_latents(posterior, labels == label, wanted, generator) for label in range(self.classes)
        ]
        return torch.stack(drawn)

    def measure(self, model: nn.Module, progress: Progress) -> Record:
        """Clean accuracy on all images held out, and what is proven of some in L2, with every radius."""
        rows = self.certified
        certificate = certify(model, self.images[rows], self.labels[rows], "l2", progress=progress)
        radii = [round(radius, 4) for radius in certificate.radius.tolist()]
        return {
            **self.measure_clean(model, progress),
            "certified": {"images": len(rows), **certified_figures(certificate, SIZES)},
            "radii": radii,
        }

    def measure_clean(self, model: nn.Module, progress: Progress) -> Record:
        """Clean accuracy on all images held out."""
        everyone = self.held_out
        clean = accuracy(model, self.images[everyone], self.labels[everyone], progress=progress)
        return {"clean": clean, "held_out": len(everyone)}

    def measure_norm(
        self, model: nn.Module, norm: Norm, sizes: Sequence[float], progress: Progress
    ) -> Record:
        """What is proven of the same images in another norm."""
        rows = self.certified
        certificate = certify(model, self.images[rows], self.labels[rows], norm, progress=progress)
        return certified_figures(certificate, sizes)

    def describe(self, **others: Any) -> Record:
        """What a record is valid for, as JSON values: how it is measured, and what else there is to say."""
        described = {
            "measured": self.measured,
            "validation": asdict(self.validation),
            "images": len(self.images),
            **others,
        }
        return dict(json.loads(json.dumps(described)))

    @cached_property
    def _starts(self) -> dict[int, Start]:
        return {}


def copy_decoders(vaes: list[VAE]) -> list[Decoder]:
    """Copies of the decoders of VAEs without batch norm, ready to be trained."""
    return [deepcopy(vae.eval().decoder.folded()).requires_grad_(True) for vae in vaes]


def count_weights(vaes: list[VAE]) -> int:
    """How many numbers a decoder has."""
    return sum(weight.numel() for weight in copy_decoders(vaes)[0].parameters())


def once(path: Path, settings: Record, make: Callable[[], Record]) -> Record:
    """The record in a file if it was made with these settings; otherwise a new one, which is kept there.

    Args:
        path: Of the record, whose name is the file's.
        settings: What it is valid for.
        make: Makes the rest of it.

    Raises:
        AbsynthError: If the file is no record.
    """
    if path.exists():
        known = read_record(path)
        if known["settings"] == settings:
            return known
    record = {"name": path.stem, "settings": settings, **make()}
    record |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return record


def read_record(path: Path) -> Record:
    """A record that :func:`once` kept.

    Raises:
        AbsynthError: If it is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": record["settings"], **record}
    except (ValueError, KeyError, TypeError):
        raise AbsynthError(f"{path} is no record of a study; delete it to make it anew.") from None
