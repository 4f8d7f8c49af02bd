"""What the tests of the demo share: an examiner of small models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import absynth
from absynth.demo.examiner import Examiner
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.vae import Decoder


@pytest.fixture(scope="session")
def examiner(make_decoder: Callable[[int], Decoder]) -> Examiner:
    """Untrained decoders of few prototypes behind the real CNN and the real test images."""
    codebook = CodebookABS([make_decoder(seed) for seed in range(10)], draw_latents(5))
    codebook.prepare()
    model = ABS(codebook, SearchSettings(steps=3)).eval()
    return Examiner(model, codebook, absynth.load("cnn"), *absynth.load_dataset("mnist", "test"))
