"""cnn and binary-cnn: how the paper's plain networks were trained, by cross-entropy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from absynth.models.cnn import CNN, Binarized
from absynth.models.pretrained import PretrainedModel
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import augment
from absynth.training.finishing import check_classes, save_trained
from absynth.training.loop import fit
from absynth.training.losses import cross_entropy
from absynth.training.recipe import REASONS_OF_NETWORKS, Options, Recipe, choose_training
from absynth.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=8, batch_size=128, learning_rate=1e-3, seed=0, least_steps=400)
"""For MNIST; with fewer images the least number of steps decides."""


def train_cnn(
    work: Assignment, settings: TrainingSettings = SETTINGS, *, binary: bool = False
) -> PretrainedModel:
    """The plain CNN, by itself or behind the threshold.

    Args:
        work: What it is trained on; augmentation comes before the threshold.
        settings: Of the training.
        binary: Put the threshold at ½ in front of it.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each.
    """
    domain = check_classes(work)
    images, labels = work.images[work.trained], work.labels[work.trained]
    height, width = images.shape[2:]
    make = partial(CNN, int(labels.max()) + 1, (height, width))
    model, history = fit(
        (lambda: Binarized(make())) if binary else make,
        images,
        labels,
        cross_entropy,
        settings,
        checkpoint=work.checkpoints / ("binary-cnn.pt" if binary else "cnn.pt"),
        progress=work.progress,
        description="Binary CNN" if binary else "CNN",
        perturbation=augment if work.augmented else None,
    )
    assert isinstance(model, CNN | Binarized)
    return save_trained(work, model, domain, settings, {"final_loss": round(history[-1], 5)})


def prepare(options: Options, *, binary: bool) -> Train:
    """Chooses the settings."""
    return partial(train_cnn, settings=choose_training(SETTINGS, options), binary=binary)


OPTIONS = ("epochs", "batch_size", "learning_rate", "augment", "size", "validation")
RECIPE = Recipe("cnn", partial(prepare, binary=False), takes=OPTIONS, reasons=REASONS_OF_NETWORKS)
BINARY_RECIPE = replace(RECIPE, name="binary-cnn", prepare=partial(prepare, binary=True))
