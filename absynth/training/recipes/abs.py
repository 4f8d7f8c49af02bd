"""abs: how the shipped ABS was trained.

1. One VAE a class, on the images of its class alone, for 120 epochs, half of every batch bent a little
   (``--augment``). What a VAE explains badly counts more (``emphasis``).
2. Two further rounds, in which the images count more that the model could lose to another class
   (:mod:`absynth.training.rounds`).
3. The decoders are the model; the encoders are stored beside them (:mod:`absynth.training.encoders`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS
from absynth.inference.codebook import codebook_size, draw_latents
from absynth.inference.latent import fast_settings
from absynth.models.pretrained import PretrainedModel
from absynth.models.vae import VAE
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import distort
from absynth.training.encoders import read_vaes, write_encoders
from absynth.training.finishing import check_classes, save_trained
from absynth.training.recipe import Options, Recipe, choose_training
from absynth.training.rounds import Round, kept_margins
from absynth.training.settings import TrainingSettings
from absynth.training.vaes import train_vaes
from absynth.zoo import model_folder

ROUNDS = (
    Round(epochs=0.21, rate=0.5, focus=8.0, margin=3.0),
    Round(epochs=0.33, rate=0.75, focus=10.0, margin=4.0),
)

SETTINGS = TrainingSettings(
    epochs=120,
    batch_size=64,
    learning_rate=2e-3,
    seed=0,
    emphasis=2.0,
    rounds=len(ROUNDS),
    least_steps=400,
)
"""For MNIST; with fewer images the least number of steps decides."""


def train_abs(
    work: Assignment, settings: TrainingSettings = SETTINGS, *, start: Path | None = None
) -> PretrainedModel:
    """ABS: one VAE a class, of which the decoder classifies.

    Args:
        work: What it is trained on.
        settings: Of every VAE, and how many further rounds there are.
        start: Folder of an ABS trained before, to go on from.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each, or no ABS to go on from.
    """
    domain = check_classes(work)
    images, labels = work.images[work.trained], work.labels[work.trained]
    first = replace(settings, rounds=0)
    train_all = partial(
        train_vaes,
        images,
        labels,
        classes=int(labels.max()) + 1,
        progress=work.progress,
        perturbation=distort if work.augmented else None,
        fit_vaes=work.fit_vaes,
    )
    known = None if start is None else read_vaes(start)
    vaes, histories = train_all(first, folder=work.checkpoints, start=known)

    margins = images.new_full((len(images),), torch.inf)
    for number, further in enumerate(ROUNDS[: settings.rounds], 1):
        folder = work.checkpoints / f"round-{number}"
        make_model = partial(build_abs, vaes, settings.seed)
        measured = kept_margins(folder, make_model, images, labels, work.progress)
        # An image that was at stake once keeps its weight, or a round would undo what the last one reached.
        margins = torch.minimum(margins, measured)
        shorter = replace(
            first,
            epochs=max(1, round(further.epochs * settings.epochs)),
            learning_rate=further.rate * settings.learning_rate,
            least_steps=round(further.epochs * settings.least_steps),
        )
        vaes, histories = train_all(
            shorter, folder=folder, start=vaes, importance=further.importance(margins)
        )

    write_encoders(work.out, vaes)
    losses = [round(history[-1], 3) for history in histories]
    return save_trained(work, build_abs(vaes, settings.seed), domain, settings, {"final_loss": losses})


def build_abs(vaes: Sequence[VAE], seed: int) -> ABS:
    """The ABS of VAEs, with a codebook that suits the data and latents drawn with a seed."""
    height, width = vaes[0].decoder.image_size
    latents = draw_latents(codebook_size(len(vaes), height * width), seed=seed)
    settings = fast_settings(height * width)
    return ABS(CodebookABS([vae.decoder for vae in vaes], latents), settings)


def prepare(options: Options) -> Train:
    """Chooses the settings, and the folder to go on from."""
    if options.rounds is not None and not 0 <= options.rounds <= len(ROUNDS):
        raise AbsynthError(f"There is no round {options.rounds} of training; ask for 0 to {len(ROUNDS)}.")
    start = None if options.start is None else model_folder(options.start)
    return partial(train_abs, settings=choose_training(SETTINGS, options), start=start)


RECIPE = Recipe(
    "abs",
    prepare,
    takes=(
        "epochs",
        "batch_size",
        "learning_rate",
        "augment",
        "emphasis",
        "rounds",
        "start",
        "size",
        "validation",
        "engine",
    ),
)
