"""The yardstick of quality: ABS with the inference of the paper, as a model that a benchmark can name."""

from __future__ import annotations

from dataclasses import replace

from absynth.inference import ABS
from absynth.zoo import load


def paper_abs() -> ABS:
    """The shipped ABS with 8,000 latents and 50 Adam steps a class.

    Batch norm is folded into the convolutions, which takes half of the time off and changes roundings alone.
    """
    model = load("abs", settings="paper")
    assert isinstance(model, ABS)
    folded = ABS(model.codebook, replace(model.settings, fold_batch_norm=True), model.class_factors)
    folded.prepare()
    return folded.eval().requires_grad_(False)
