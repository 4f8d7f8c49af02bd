from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import absynth
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.inference.decision import probabilities
from absynth.models.cnn import CNN
from absynth.models.front import Clamped, clamp
from absynth.models.vae import Decoder


@pytest.fixture
def model(make_decoder: Callable[[int], Decoder]) -> CodebookABS:
    codebook = CodebookABS([make_decoder(seed) for seed in range(3)], draw_latents(20))
    codebook.prepare()
    return codebook


@pytest.fixture
def images() -> Tensor:
    images = torch.rand(6, 1, 28, 28)
    return torch.where(images < 0.4, torch.zeros(()), images).round(decimals=1)


def test_the_model_sees_clamped_images(model: CodebookABS, images: Tensor) -> None:
    clamped = Clamped(model, 0.2)
    assert torch.equal(clamped(images), model(images.clamp(0.2, 0.8)))
    assert torch.equal(clamped(images), clamped((images + 0.05 * (images == 0)).clamp(0, 1)))
    assert not torch.equal(clamped(images), model(images))


def test_its_prototypes_are_those_behind_it(model: CodebookABS, images: Tensor) -> None:
    clamped = Clamped(model, 0.2)
    stored, seen = clamped.prototypes(), clamped.see(images).flatten(1)
    scores = ((seen[:, None, None] - stored.images).square().sum(-1) + stored.offsets).amin(-1)
    torch.testing.assert_close(clamped(images), -440 / 784 * scores)
    with pytest.raises(AbsynthError, match="CNN has no prototypes"):
        Clamped(CNN()).prototypes()


def test_a_gradient_passes_where_the_true_one_is_zero(images: Tensor) -> None:
    variable = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(clamp(variable, 0.1).sum(), variable)
    assert bool((images == 0).any())
    assert torch.equal(slope, torch.ones_like(images))


def test_it_is_saved_and_loaded(model: CodebookABS, images: Tensor, tmp_path: Path) -> None:
    clamped = Clamped(model, 0.15)
    clamped.save_pretrained(tmp_path / "clamped")
    loaded = absynth.load(tmp_path / "clamped")
    assert isinstance(loaded, Clamped)
    assert (loaded.tail, loaded.low, loaded.high) == (clamped.tail, clamped.low, clamped.high)
    assert torch.equal(loaded(images), clamped(images))
    torch.testing.assert_close(probabilities(loaded, images), probabilities(model, clamped.see(images)))


def test_its_limits_are_numbers_of_float32(model: CodebookABS) -> None:
    clamped = Clamped(model, 0.1)
    ends = torch.tensor([clamped.low, clamped.high])
    assert ends.tolist() == [clamped.low, clamped.high]
    assert torch.equal(clamp(torch.tensor([0.0, 1.0]), 0.1), ends)


@pytest.mark.parametrize("tail", [-0.1, 0.5, float("nan")])
def test_a_tail_out_of_range_is_refused(model: CodebookABS, tail: float) -> None:
    with pytest.raises(AbsynthError, match=r"tail .* less than 0\.5"):
        Clamped(model, tail)
