"""VAEs of other sizes as the start of the training for certificates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rounds import Decoded
from study import Record, Study, Table, clock, count_weights, once
from torch import nn
from variants import rounds

from absynth.models.vae import VAE
from absynth.progress import Progress
from absynth.training.augmentation import bend
from absynth.training.loop import fit
from absynth.training.losses import variational
from absynth.training.recipes.certified_abs import HIDDEN

EPOCHS, ROUNDS = 15, 12
"""Of these VAEs, and of the training for certificates that follows."""


@dataclass(frozen=True)
class Size:
    """Of a VAE.

    Attributes:
        latents: Number of latent coordinates.
        hidden: Widths of its layers.
    """

    latents: int
    hidden: tuple[int, ...]


VAE_SIZES = {
    "128": Size(8, (128, 128)),
    "256": Size(8, (256, 256)),
    "384": Size(8, HIDDEN),
    "512": Size(8, (512, 512)),
    "latents-4": Size(4, HIDDEN),
    "latents-6": Size(6, HIDDEN),
    "latents-12": Size(12, HIDDEN),
}
"""By name, in the order of the table."""


def train_size(name: str, size: Size, study: Study, progress: Progress) -> tuple[list[VAE], float]:
    """VAEs of a size, trained as the study says or read from their checkpoints, and their mean loss.

    Args:
        name: Of their folder.
        size: Theirs.
        study: Images and settings.
        progress: Where to show the training.
    """
    images, labels = study.trained
    height, width = images.shape[2:]
    vaes: list[VAE] = []
    losses = []

    def make_vae() -> nn.Module:
        return VAE(size.latents, (height, width), size.hidden)

    for label in range(study.classes):
        members = images[labels == label]
        vae, history = fit(
            make_vae,
            members,
            members.new_ones(len(members)),
            partial(variational, emphasis=0.0),
            replace(study.explaining, seed=study.explaining.seed + label),
            checkpoint=study.work / "vae-sizes" / name / f"vae-{label}.pt",
            progress=progress,
            description=f"VAE of class {label}",
            perturbation=bend,
        )
        assert isinstance(vae, VAE)
        vaes.append(vae)
        losses.append(history[-1])
    return vaes, sum(losses) / len(losses)


def measure_size(name: str, size: Size, study: Study, records: Path, progress: Progress) -> Record:
    """The record of a size, which is tried now unless it was before.

    Args:
        name: Of the record.
        size: Of the VAEs.
        study: The images, and how much of everything.
        records: Folder of the records.
        progress: Where to show the training and the measurements.
    """

    def make() -> Record:
        vaes, explained = train_size(name, size, study, progress)
        start = study.begin(vaes, study.settings)
        book = Decoded(start.decoders(), study.classes)
        started = clock()
        history = rounds(study, study.settings, progress, book, [start])
        seconds = round(clock() - started, 1)
        figures = study.measure(Table(*book.table(study.latents(start.posterior))), progress)
        return {
            "weights": count_weights(vaes),
            "explaining_loss": explained,
            "seconds": seconds,
            "loss": history[-1] if history else None,
            **figures,
        }

    described = study.describe(
        certified=asdict(study.settings),
        explaining=asdict(study.explaining),
        size=asdict(size),
        prototypes=study.prototypes,
    )
    return once(records / f"{name}.json", described, make)


def with_short_training(study: Study) -> Study:
    """The study with the fewer epochs and rounds that every size gets."""
    return replace(
        study,
        explaining=replace(study.explaining, epochs=EPOCHS),
        settings=replace(study.settings, rounds=ROUNDS),
    )
