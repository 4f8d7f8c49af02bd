"""interval-cnn: how a CNN was trained for Linf certificates by interval bounds (Gowal et al. 2018).

The network learns from the worst logits that interval bounds allow within an Linf ball, which grows to a
radius larger than the one to be proven (:mod:`absynth.training.intervals`). Three things make a short
training do: a soft threshold in front, behind which pixels at 0 and at 1 cannot change within that radius;
weights that keep the intervals' length at the start; and a batch norm after every layer (the latter two by
Shi et al. 2021, arXiv 2104.00805). What is saved is a plain chain of layers, with the batch norm folded into
the weights.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import nn

from absynth.data.domain import Size
from absynth.models.cnn import IntervalCNN
from absynth.models.pretrained import PretrainedModel, round_to_half
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import augment
from absynth.training.batch_norm import fold_batch_norm, with_batch_norm
from absynth.training.finishing import check_classes, save_trained
from absynth.training.intervals import IntervalLoss, certain, initialise_for_intervals
from absynth.training.loop import fit
from absynth.training.recipe import REASONS_OF_NETWORKS, Options, Recipe, choose_training
from absynth.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=20, batch_size=128, learning_rate=2e-3, seed=0, least_steps=2000)
"""For MNIST; with fewer images the least number of steps decides."""

LOSS = IntervalLoss(epsilon=0.35, warm_up=0.4)
"""For proofs at 0.3: training for more leaves a margin for images that it has not seen."""

MEASURED = (0.1, 0.2, 0.3, 0.4)
"""Linf radii at which the finished network is measured."""


def untrained(classes: int, size: Size) -> nn.Sequential:
    """The network as it is trained: its threshold stays as it is, the layers behind get batch norm."""
    network = IntervalCNN(classes, size)
    layers = list(network.layers)
    front, behind = layers[: network.front], layers[network.front :]
    initialise_for_intervals(behind)
    return nn.Sequential(*[layer.requires_grad_(False) for layer in front], *with_batch_norm(behind))


def train_interval_cnn(
    work: Assignment, settings: TrainingSettings = SETTINGS, *, loss: IntervalLoss = LOSS
) -> PretrainedModel:
    """A CNN trained by interval bounds.

    Args:
        work: What it is trained on; augmentation comes before the bounds, and turns more pixels grey, of
            which less can be proven than of black and white ones.
        settings: Of the training.
        loss: Which radius it is trained for, and how soon.

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
        checkpoint=work.checkpoints / "interval-cnn.pt",
        progress=work.progress,
        description="CNN by interval bounds",
        perturbation=augment if work.augmented else None,
    )
    assert isinstance(trained, nn.Sequential)
    model = IntervalCNN(classes, (height, width))
    model.layers = fold_batch_norm(trained)
    round_to_half(model.eval())
    metrics = {"final_loss": round(history[-1], 5), "loss": asdict(loss), **measure(model, work)}
    return save_trained(work, model, domain, settings, metrics)


def measure(model: IntervalCNN, work: Assignment) -> dict[str, Any]:
    """The entry of the record for the fractions of the images held out that interval bounds prove right."""
    images, labels = work.images[work.held_out], work.labels[work.held_out]
    if len(images) == 0:
        return {}
    found = {
        f"{epsilon:g}": certain(model.layers, images, labels, epsilon).double().mean().item()
        for epsilon in MEASURED
    }
    return {"held_out": {"images": len(images), "certain_by_intervals": found}}


def prepare(options: Options) -> Train:
    """Chooses the settings."""
    loss = LOSS if options.epsilon is None else replace(LOSS, epsilon=options.epsilon)
    return partial(train_interval_cnn, settings=choose_training(SETTINGS, options), loss=loss)


RECIPE = Recipe(
    "interval-cnn",
    prepare,
    takes=("epochs", "batch_size", "learning_rate", "augment", "size", "validation", "epsilon"),
    reasons=REASONS_OF_NETWORKS,
    held_out=1 / 60,
)
