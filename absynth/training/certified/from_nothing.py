"""Codebook ABS for certificates, from nothing: what the recipes of the certified models have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from absynth.models.pretrained import PretrainedModel
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import bend, distort
from absynth.training.certified.finish import finish
from absynth.training.certified.settings import CertifiedSettings, choose_stages
from absynth.training.finishing import check_classes
from absynth.training.recipe import Options
from absynth.training.settings import TrainingSettings
from absynth.training.vaes import train_vaes

OPTIONS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "rounds",
    "prototypes",
    "target",
    "size",
    "validation",
    "engine",
)


def train_from_nothing(
    work: Assignment,
    *,
    explaining: TrainingSettings,
    hidden: Sequence[int],
    stages: Sequence[CertifiedSettings],
    prototypes: int | None = None,
) -> PretrainedModel:
    """Trains fully connected VAEs on bent images, and then their decoders for radii.

    Args:
        work: What is trained on.
        explaining: Of the VAEs; their seed is that of the last stage.
        hidden: Widths of their layers.
        stages: Of the training for certificates, one after the other; the last says what the model stands
            behind. The VAEs see grey images in any case: of these the encoders tell more.
        prototypes: Prototypes a class of the finished model; by default as many as suit the data.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each.
    """
    domain = check_classes(work)
    explaining = replace(explaining, seed=stages[-1].seed)
    vaes, histories = train_vaes(
        work.images[work.trained],
        work.labels[work.trained],
        explaining,
        classes=int(work.labels.max()) + 1,
        folder=work.checkpoints,
        progress=work.progress,
        perturbation=bend,
        hidden=hidden,
        fit_vaes=work.fit_vaes,
    )
    losses = [round(history[-1], 3) for history in histories]
    return finish(
        work,
        vaes,
        stages,
        domain=domain,
        prototypes=prototypes,
        perturbation=distort,
        explained={**vars(explaining), "hidden": list(hidden), "final_loss": losses},
    )


def plan_from_nothing(
    options: Options,
    *,
    explaining: TrainingSettings,
    hidden: Sequence[int],
    stages: Sequence[CertifiedSettings],
    prototypes: int,
) -> Train:
    """What trains with a recipe's settings, but for those that are asked for.

    Args:
        options: What is asked for: epochs of the VAEs, everything else of the stages.
        explaining: Of the VAEs.
        hidden: Widths of their layers.
        stages: Of the training for certificates.
        prototypes: Prototypes a class.

    Raises:
        AbsynthError: If a setting makes no sense.
    """
    if options.epochs is not None:
        explaining = replace(explaining, epochs=options.epochs, least_steps=0)
    chosen = choose_stages(
        stages,
        options.rounds,
        seed=options.seed,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        target=options.target,
    )
    return partial(
        train_from_nothing,
        explaining=explaining,
        hidden=hidden,
        stages=chosen,
        prototypes=options.prototypes or prototypes,
    )
