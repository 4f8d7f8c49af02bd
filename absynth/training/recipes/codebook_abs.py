"""codebook-abs: how it was made; codebook-binary-abs is the same behind a threshold.

1. It begins with the VAEs of a trained ABS.
2. Their decoders are trained on for the decisions of a codebook, in 12 rounds
   (:mod:`absynth.training.certified`).
3. The latents of the finished codebook are found in the training images
   (:mod:`absynth.training.latents`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from absynth.models.confidence import ALPHA
from absynth.models.pretrained import PretrainedModel, read_config, read_domain
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import bend
from absynth.training.certified import CertifiedSettings, choose_settings, finish
from absynth.training.encoders import read_vaes
from absynth.training.recipe import Options, Recipe
from absynth.zoo import model_folder

BASE = "abs"

SETTINGS = CertifiedSettings(
    rounds=12,
    images=14000,
    compared=4000,
    rivals=6,
    learning_rate=2e-4,
    target=1.5,
    target_weight=0.15,
    closeness=0.01,
    safety=0.5,
    safety_sharpness=6.0,
    copies=0,
)
"""For the decision, which a codebook gets wrong more often than the search of ABS does."""


def train_codebook_abs(
    work: Assignment,
    base: Path,
    settings: CertifiedSettings = SETTINGS,
    *,
    prototypes: int | None = None,
) -> PretrainedModel:
    """Codebook ABS from a trained ABS: its decoders, trained on, with latents found in the training images.

    Args:
        work: What it is trained on.
        base: Folder of a trained ABS.
        settings: Of the training; without rounds the decoders stay as they are.
        prototypes: Prototypes a class of the finished model; by default as many as suit the data.

    Raises:
        AbsynthError: If the base is no ABS, or a class of it has no images.
    """
    domain = read_domain(read_config(base))
    return finish(
        work,
        read_vaes(base),
        (settings,),
        domain=domain,
        prototypes=prototypes,
        perturbation=bend,
        alpha=ALPHA if domain.digits else None,
    )


def prepare(options: Options) -> Train:
    """Chooses the base and the settings."""
    settings = choose_settings(
        SETTINGS,
        seed=options.seed,
        rounds=options.rounds,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        target=options.target,
    )
    base = model_folder(options.base or BASE)
    return partial(train_codebook_abs, base=base, settings=settings, prototypes=options.prototypes)


RECIPE = Recipe(
    "codebook-abs",
    prepare,
    takes=("batch_size", "learning_rate", "rounds", "prototypes", "target", "base"),
    base=BASE,
)
