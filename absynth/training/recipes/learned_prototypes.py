"""learned-prototypes: how the nearest prototypes were trained that codebooks of decoders are compared with.

They start from training images and are free in every pixel (:mod:`absynth.training.prototypes`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from absynth.certify import certify
from absynth.models.pretrained import PretrainedModel, round_to_half
from absynth.models.prototypes import NearestNeighbour
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import augment
from absynth.training.finishing import check_classes, save_trained
from absynth.training.loop import fit
from absynth.training.prototypes import BisectorLoss, FreePrototypes
from absynth.training.recipe import REASONS_OF_NETWORKS, Options, Recipe, choose_training
from absynth.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=20, batch_size=128, learning_rate=2e-3, seed=0, least_steps=1000)
"""For MNIST; with fewer images the least number of steps decides."""

LOSS = BisectorLoss()

PROTOTYPES = 400
"""Of a class."""

RADII = (1.0, 1.5, 1.58, 2.0)
"""L2 radii at which it is measured."""


def train_prototypes(
    work: Assignment,
    settings: TrainingSettings = SETTINGS,
    *,
    loss: BisectorLoss = LOSS,
    count: int = PROTOTYPES,
) -> PretrainedModel:
    """Nearest prototypes, trained.

    Args:
        work: What they are trained on.
        settings: Of the training.
        loss: The target.
        count: Prototypes a class.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each.
    """
    domain = check_classes(work)
    images, labels = work.images[work.trained], work.labels[work.trained]
    trained, history = fit(
        partial(FreePrototypes, images, labels, count),
        images,
        labels,
        loss,
        settings,
        checkpoint=work.checkpoints / "learned-prototypes.pt",
        progress=work.progress,
        description="prototypes",
        perturbation=augment if work.augmented else None,
    )
    assert isinstance(trained, FreePrototypes)
    trained.clip()
    classes, count, _ = trained.images.shape
    rows = trained.images.detach().view(-1, *images.shape[1:])
    model = NearestNeighbour(rows, torch.arange(classes, device=rows.device).repeat_interleave(count))
    round_to_half(model.eval())
    model.prepare()
    metrics = {"final_loss": round(history[-1], 5), "loss": asdict(loss), **measure(model, work)}
    return save_trained(work, model, domain, settings, metrics)


def measure(model: NearestNeighbour, work: Assignment) -> dict[str, Any]:
    """The entry of the record for what is proven of the images held out."""
    images, labels = work.images[work.held_out], work.labels[work.held_out]
    if len(images) == 0:
        return {}
    radius = certify(model, images, labels, "l2", progress=work.progress).radius
    certified = {f"{size:g}": (radius >= size).double().mean().item() for size in RADII}
    return {"held_out": {"images": len(images), "certified": certified}}


def prepare(options: Options) -> Train:
    """Chooses the settings."""
    return partial(
        train_prototypes,
        settings=choose_training(SETTINGS, options),
        loss=LOSS if options.target is None else replace(LOSS, target=options.target),
        count=PROTOTYPES if options.prototypes is None else options.prototypes,
    )


RECIPE = Recipe(
    "learned-prototypes",
    prepare,
    takes=("epochs", "batch_size", "learning_rate", "augment", "size", "validation", "prototypes", "target"),
    reasons=REASONS_OF_NETWORKS,
    held_out=1 / 60,
)
