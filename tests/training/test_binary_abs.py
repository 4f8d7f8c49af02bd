"""The class factors of Binary ABS."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from absynth.errors import AbsynthError
from absynth.inference import ABS, FAST, CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized
from absynth.models.vae import Decoder
from absynth.progress import progress_display
from absynth.training.assignment import Assignment
from absynth.training.recipes.binary_abs import fit_class_factors, train_binary_abs
from absynth.zoo import load


def test_factors_undo_a_known_distortion() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (3000,), generator=generator)
    losses = 20 + 3 * torch.randn(3000, 3, generator=generator)
    losses[torch.arange(3000), labels] -= 8
    distortion = torch.tensor([1.0, 1.2, 0.9])
    factors = torch.tensor(fit_class_factors(losses * distortion, labels))
    assert float(factors.mean()) == pytest.approx(1, abs=1e-3)
    undone = factors * distortion
    assert float(undone.amax() / undone.amin()) < 1.05
    before = ((losses * distortion).argmin(1) == labels).float().mean()
    after = ((losses * distortion * factors).argmin(1) == labels).float().mean()
    assert after > before


def test_factors_are_the_likeliest() -> None:
    labels = torch.randint(3, (300,))
    losses = 30 + 5 * torch.randn(300, 3)
    losses[torch.arange(300), labels] -= 6
    scaled, rows = (losses / losses.mean()).double().numpy(), np.arange(300)

    def objective(logarithms: np.ndarray) -> float:
        logits = -scaled * np.exp(logarithms)
        likelihoods = logsumexp(logits, axis=1) - logits[rows, labels.numpy()]
        return float(likelihoods.mean() + 1e-4 * (logarithms**2).sum())

    oracle = np.exp(minimize(objective, np.zeros(3), tol=1e-12).x)
    np.testing.assert_allclose(fit_class_factors(losses, labels), oracle / oracle.mean(), atol=1e-3)


def test_binary_abs_is_saved_with_its_factors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = ABS(CodebookABS([Decoder(), Decoder()], draw_latents(20)), FAST)
    base.prepare()
    images, labels = torch.rand(12, 1, 28, 28), torch.arange(12) % 2
    with progress_display(False) as progress:
        work = Assignment(images, labels, tmp_path, "absynth train binary-abs", progress)
        model = train_binary_abs(work, base)
        with pytest.raises(AbsynthError, match="trained ABS"):
            train_binary_abs(work, CNN())
    assert isinstance(model, Binarized)
    assert isinstance(model.model, ABS)
    assert sum(model.model.class_factors) == pytest.approx(2, abs=1e-3)
    torch.testing.assert_close(load(tmp_path)(images), model(images), rtol=1e-4, atol=1e-4)
    training = json.loads((tmp_path / "config.json").read_text())["training"]
    assert training == {"command": "absynth train binary-abs", "seed": 0, "images": 12}
