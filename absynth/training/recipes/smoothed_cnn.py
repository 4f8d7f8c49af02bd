"""smoothed-cnn: how the base network of a smoothed classifier was trained (Jeong and Shin 2020).

Every image is seen with two draws of Gaussian noise, of the standard deviation that the classifier is to be
smoothed with, and the network is asked for the same answer to both (:mod:`absynth.training.smoothing`). A
batch norm after every layer makes a short training do; it is folded into the weights that are saved.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import nn

from absynth.certify import certify
from absynth.certify.provers.smoothing import Smoothing
from absynth.data.domain import Size
from absynth.models.cnn import SmoothedCNN
from absynth.models.pretrained import PretrainedModel, round_to_half
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import augment
from absynth.training.batch_norm import fold_batch_norm, with_batch_norm
from absynth.training.finishing import check_classes, save_trained
from absynth.training.loop import fit
from absynth.training.recipe import REASONS_OF_NETWORKS, Options, Recipe, choose_training
from absynth.training.settings import TrainingSettings
from absynth.training.smoothing import ConsistencyLoss

SETTINGS = TrainingSettings(epochs=30, batch_size=128, learning_rate=2e-3, seed=0, least_steps=1000)
"""For MNIST; with fewer images the least number of steps decides."""

LOSS = ConsistencyLoss(sigma=0.5, copies=2, weight=10.0, entropy=0.5)

RADII = (1.0, 1.5, 1.58, 2.0)
"""L2 radii at which the smoothed classifier is measured."""

MEASURED = 200
"""Images held out that it is measured on at most."""

SMOOTHING = Smoothing(samples=10_000, alpha=0.001)
"""What it is measured with: its own noise."""


def untrained(classes: int, size: Size) -> nn.Sequential:
    """The network as it is trained, with batch norm."""
    return with_batch_norm(SmoothedCNN(classes, size).layers)


def train_smoothed_cnn(
    work: Assignment, settings: TrainingSettings = SETTINGS, *, loss: ConsistencyLoss = LOSS
) -> PretrainedModel:
    """The base network of a smoothed classifier.

    Args:
        work: What it is trained on; augmentation comes before the noise.
        settings: Of the training.
        loss: Which noise it is trained for, and what else it is asked for.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each.
    """
    domain = check_classes(work)
    images, labels = work.images[work.trained], work.labels[work.trained]
    height, width = images.shape[2:]
    classes = int(work.labels.max()) + 1
    trained, history = fit(
        partial(untrained, classes, (height, width)),
        images,
        labels,
        loss,
        settings,
        checkpoint=work.checkpoints / "smoothed-cnn.pt",
        progress=work.progress,
        description="CNN on noise",
        perturbation=augment if work.augmented else None,
    )
    assert isinstance(trained, nn.Sequential)
    model = SmoothedCNN(classes, (height, width), loss.sigma)
    model.layers = fold_batch_norm(trained)
    round_to_half(model.eval())
    metrics = {"final_loss": round(history[-1], 5), "loss": asdict(loss), **measure(model, work)}
    return save_trained(work, model, domain, settings, metrics)


def measure(model: SmoothedCNN, work: Assignment) -> dict[str, Any]:
    """The entry of the record for what smoothing certifies of images held out."""
    rows = work.held_out[:: max(1, len(work.held_out) // MEASURED)][:MEASURED]
    if len(rows) == 0:
        return {}
    images, labels = work.images[rows], work.labels[rows]
    found = certify(model, images, labels, "l2", progress=work.progress, method=SMOOTHING)
    certified = {f"{radius:g}": (found.radius >= radius).double().mean().item() for radius in RADII}
    right = (found.prediction == labels).double().mean().item()
    return {
        "held_out": {"images": len(rows), "method": found.method, "accuracy": right, "certified": certified}
    }


def prepare(options: Options) -> Train:
    """Chooses the settings."""
    loss = LOSS if options.sigma is None else replace(LOSS, sigma=options.sigma)
    return partial(train_smoothed_cnn, settings=choose_training(SETTINGS, options), loss=loss)


RECIPE = Recipe(
    "smoothed-cnn",
    prepare,
    takes=("epochs", "batch_size", "learning_rate", "augment", "size", "validation", "sigma"),
    reasons=REASONS_OF_NETWORKS,
    held_out=1 / 60,
)
