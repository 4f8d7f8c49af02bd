"""madry: how a CNN was trained against Linf perturbations of 0.3 (Madry et al. 2018).

Every batch is turned against the network before it learns from it (:mod:`absynth.training.adversarial`). From
the end of the warm-up on, every epoch is followed by a measurement on images held out of the training images,
and training stops when the goal is met.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import nn

from absynth.models.cnn import StridedCNN
from absynth.models.pretrained import PretrainedModel, round_to_half
from absynth.training.adversarial import Adversary, measure_robustness
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import augment
from absynth.training.finishing import check_classes, save_trained
from absynth.training.loop import fit
from absynth.training.losses import cross_entropy
from absynth.training.recipe import REASONS_OF_NETWORKS, Options, Recipe, choose_training
from absynth.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=12, batch_size=128, learning_rate=2e-3, seed=0, least_steps=400)
"""For MNIST; with fewer images the least number of steps decides."""

TRAINER = Adversary(epsilon=0.3, steps=3, reach=2.5, warm_up=0.3)
"""What it trains against; in two minutes of training, three steps led further than five."""

EXAMINER = Adversary(epsilon=0.3, steps=40, reach=2.0)
"""What it is measured with after an epoch: steps of 0.015."""


@dataclass(frozen=True)
class Goal:
    """What ends adversarial training before its last epoch, measured on images that it does not train on.

    Attributes:
        clean: Fraction to be classified right as they are.
        attacked: Fraction to be classified right under every ascent of ``EXAMINER``.
        images: How many training images are held out, a tenth of them at most.
        restarts: Ascents against each of them.
    """

    clean: float = 0.986
    attacked: float = 0.905
    images: int = 1000
    restarts: int = 3


GOAL = Goal()


def train_madry(
    work: Assignment, settings: TrainingSettings = SETTINGS, *, goal: Goal = GOAL
) -> PretrainedModel:
    """A CNN trained against Linf perturbations of 0.3, until it is good enough.

    The radius and the learning rate follow their schedules over all of ``settings.epochs``, since the stop
    cannot be foreseen: fewer epochs bring both to their end sooner, and a run that missed its goal starts
    anew with more of them.

    Args:
        work: What it is trained on; augmentation comes before the attack.
        settings: Of the training; its epochs are the most that are run.
        goal: When to stop.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each.
    """
    domain = check_classes(work)
    images, labels = work.images[work.trained], work.labels[work.trained]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(settings.seed))
    held_out, trained = order.tensor_split([min(goal.images, max(1, len(images) // 10))])
    measure = partial(
        measure_robustness,
        images=images[held_out],
        labels=labels[held_out],
        adversary=EXAMINER,
        restarts=goal.restarts,
        seed=settings.seed,
        progress=work.progress,
    )

    def finished(network: nn.Module, share: float) -> bool:
        if share < TRAINER.warm_up:
            return False
        found = measure(network)
        return found.clean >= goal.clean and found.attacked >= goal.attacked

    height, width = images.shape[2:]
    model, history = fit(
        partial(StridedCNN, int(labels.max()) + 1, (height, width)),
        images[trained],
        labels[trained],
        cross_entropy,
        settings,
        checkpoint=work.checkpoints / "madry.pt",
        progress=work.progress,
        description="CNN under attack",
        perturbation=augment if work.augmented else None,
        adversary=TRAINER,
        finished=finished,
    )
    assert isinstance(model, StridedCNN)
    round_to_half(model)
    found = measure(model)
    metrics = {
        "final_loss": round(history[-1], 5),
        "epochs_run": len(history),
        "adversary": asdict(TRAINER),
        "goal": asdict(goal),
        "held_out": {
            "images": len(held_out),
            "accuracy": found.clean,
            "attacked_accuracy": found.attacked,
            "attack": {**asdict(EXAMINER), "restarts": goal.restarts},
        },
    }
    return save_trained(work, model, domain, settings, metrics)


def prepare(options: Options) -> Train:
    """Chooses the settings."""
    return partial(train_madry, settings=choose_training(SETTINGS, options))


RECIPE = Recipe(
    "madry",
    prepare,
    takes=("epochs", "batch_size", "learning_rate", "augment", "size", "validation"),
    reasons=REASONS_OF_NETWORKS,
)
