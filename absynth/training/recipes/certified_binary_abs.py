"""certified-binary-abs: how it was made.

1. One fully connected VAE a class, for 480 epochs of bent grey images (``EXPLAINING``, ``HIDDEN``).
2. The decoders are trained for the radii of a codebook, in two stages (``STAGES``): 120 rounds of grey images
   at a falling learning rate, for the largest radii in L2; then 60 rounds of images behind the threshold, of
   which most are averaged, for radii in L0 and Linf. :mod:`absynth.training.certified` says what a round is.
3. A codebook of 37,000 latents a class is found in the training images and five bent copies of each, and the
   model is put behind the threshold.

A twelfth of the training images is held out: the choices above were made without it. The shipped weights
were then trained on all images (``--validation 0``).
"""

from __future__ import annotations

from absynth.training.assignment import Train
from absynth.training.certified import CertifiedSettings
from absynth.training.certified.from_nothing import OPTIONS, plan_from_nothing
from absynth.training.recipe import Options, Recipe
from absynth.training.settings import TrainingSettings

HELD_OUT = 1 / 12
"""Share of the training images that choices between certified models are made on: 5,000 of MNIST."""

EXPLAINING = TrainingSettings(epochs=480, batch_size=64, learning_rate=2e-3, seed=0, least_steps=400)
"""How the VAEs are trained, before their decoders are for radii."""

HIDDEN = (384, 384)
"""Widths of the layers of the VAEs; with ``PROTOTYPES`` it takes 15 MB on disk."""

STAGES = (
    CertifiedSettings(),
    CertifiedSettings(
        rounds=60,
        images=5000,
        learning_rate=4e-4,
        averaged=0.8,
        target_weight=0.15,
        safety_weight=5.0,
        pixels=14.0,
        pixels_sharpness=0.7,
        pixels_weight=0.25,
        pixels_hopeless=6.0,
        reach=0.3,
        reach_weight=0.12,
        binary=True,
        prior_weight=0.85,
    ),
)
"""For the largest radii in L0 and Linf behind a threshold; the first rounds are of grey images."""

PROTOTYPES = 37_000
"""Of a class, unless something else is asked for."""


def prepare(options: Options) -> Train:
    """Chooses the settings."""
    return plan_from_nothing(
        options, explaining=EXPLAINING, hidden=HIDDEN, stages=STAGES, prototypes=PROTOTYPES
    )


RECIPE = Recipe("certified-binary-abs", prepare, takes=OPTIONS, held_out=HELD_OUT)
