"""certified-abs: how it was made.

1. One fully connected VAE a class, for 240 epochs of bent images (``EXPLAINING``, ``HIDDEN``).
2. The decoders are trained for the radii of a codebook, in two stages (``STAGES``): 120 rounds at a falling
   learning rate for the largest radii in L2; then 40 rounds, of which most are averaged, with more weight on
   the decision and some on radii in L0. :mod:`absynth.training.certified` says what a round is.
3. A codebook of 30,000 latents a class is found in the training images and five bent copies of each, and the
   model is put behind a clamp.

A twelfth of the training images is held out: the choices above were made on them, and what is stored beside
the weights was measured on them.
"""

from __future__ import annotations

from absynth.models.front import TAIL
from absynth.training.assignment import Train
from absynth.training.certified import CertifiedSettings
from absynth.training.certified.from_nothing import OPTIONS, plan_from_nothing
from absynth.training.recipe import Options, Recipe
from absynth.training.settings import TrainingSettings

HELD_OUT = 1 / 12
"""Share of the training images that choices between certified models are made on: 5,000 of MNIST."""

EXPLAINING = TrainingSettings(epochs=240, batch_size=64, learning_rate=2e-3, seed=0, least_steps=400)
"""How the VAEs are trained, before their decoders are for radii."""

HIDDEN = (384, 384)
"""Widths of the layers of the VAEs; with ``PROTOTYPES`` it takes 14 MB on disk."""

STAGES = (
    CertifiedSettings(),
    CertifiedSettings(
        rounds=40,
        images=5000,
        learning_rate=4e-4,
        averaged=0.8,
        target_weight=0.15,
        safety_weight=6.0,
        pixels_weight=0.035,
        tail=TAIL,
        prior_weight=0.7,
    ),
)
"""For the largest radii in L2, with some for L0 and for the decision."""

PROTOTYPES = 30_000
"""Of a class, unless something else is asked for."""


def prepare(options: Options) -> Train:
    """Chooses the settings."""
    return plan_from_nothing(
        options, explaining=EXPLAINING, hidden=HIDDEN, stages=STAGES, prototypes=PROTOTYPES
    )


RECIPE = Recipe("certified-abs", prepare, takes=OPTIONS, held_out=HELD_OUT)
