"""Codebooks of the latents that explain training images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.inference import CodebookABS, codebook
from absynth.models.cnn import CNN
from absynth.models.vae import VAE, Posterior
from absynth.progress import Progress
from absynth.training.assignment import Assignment
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.latents import codebook_latents, posterior_latents
from absynth.training.recipes.abs import train_abs
from absynth.training.recipes.codebook_abs import train_codebook_abs
from absynth.training.settings import TrainingSettings
from absynth.zoo import load


def latents_of(vae: VAE, images: Tensor, count: int, seed: int = 0) -> Tensor:
    return posterior_latents(vae, images, count, torch.Generator().manual_seed(seed))


def test_the_posterior_means_come_first_each_once(make_images: Callable[..., Tensor]) -> None:
    vae, images = VAE().eval(), make_images(6)
    mean = vae.encoder(images).mean.detach()
    latents = latents_of(vae, images, 10)
    nearest = torch.cdist(latents[:6], mean).min(dim=1)
    assert nearest.values.max() < 1e-5
    assert sorted(nearest.indices.tolist()) == list(range(6))
    assert nearest.indices.tolist() != list(range(6))
    assert torch.cdist(latents[6:], mean).min() > 1e-2
    assert torch.cdist(latents_of(vae, images, 4), mean).min(dim=1).values.max() < 1e-5
    assert torch.equal(latents, latents_of(vae, images, 10))
    assert not torch.equal(latents, latents_of(vae, images, 10, seed=1))


def test_the_rest_are_draws_from_the_posteriors(make_images: Callable[..., Tensor]) -> None:
    vae, images = VAE().eval(), make_images(1)
    mean, log_variance = (value.detach()[0] for value in vae.encoder(images))
    draws = latents_of(vae, images, 20_001)[1:]
    deviation = (0.5 * log_variance).exp()
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.05 * deviation.max().item())
    torch.testing.assert_close(draws.std(0), deviation, rtol=0.03, atol=0)


def test_the_means_of_copies_come_after_those_of_the_images() -> None:
    posterior = Posterior(torch.arange(30.0)[:, None], torch.full((30, 1), -torch.inf))
    members = torch.arange(10) % 2 == 1
    latents = codebook_latents(posterior, members, 17, torch.Generator().manual_seed(0)).flatten().tolist()
    for number in range(3):
        part = latents[5 * number : 5 * number + 5]
        assert sorted(part) == [10 * number + row for row in (1, 3, 5, 7, 9)]
    assert set(latents[15:]) <= set(latents[:15])


def test_codebook_abs_is_built_from_a_trained_abs(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 40)
    labels = torch.arange(30) % 2
    images = (0.1 + 0.8 * labels[:, None, None, None]).expand(-1, 1, 28, 28) + 0.1 * torch.rand(30, 1, 28, 28)
    settings = TrainingSettings(epochs=10, batch_size=5, learning_rate=1e-2, seed=0)
    base = train_abs(Assignment(images, labels, tmp_path / "abs", "", progress), settings)
    settings = CertifiedSettings(rounds=0, seed=4)
    work = Assignment(images, labels, tmp_path / "out", "absynth train codebook-abs", progress)
    model = train_codebook_abs(work, tmp_path / "abs", settings)
    loaded = load(tmp_path / "out")
    assert isinstance(loaded, CodebookABS)
    assert loaded.latents.shape == (2, 40, 8)
    torch.testing.assert_close(loaded(images), model(images), rtol=1e-5, atol=1e-4)
    own = loaded.losses(images)[torch.arange(30), labels]
    assert own.mean() < base.codebook.losses(images)[torch.arange(30), labels].mean()
    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert training["command"] == "absynth train codebook-abs"
    assert (training["rounds"], training["seed"], training["trained_on"]) == (0, 4, 30)
    with pytest.raises(AbsynthError, match="every class needs some"):
        train_codebook_abs(replace(work, images=images[::2], labels=labels[::2]), tmp_path / "abs", settings)


def test_only_an_abs_can_be_its_base(tmp_path: Path, progress: Progress) -> None:
    CNN(2).save_pretrained(tmp_path)
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4) % 2
    with pytest.raises(AbsynthError, match="no ABS"):
        train_codebook_abs(Assignment(images, labels, tmp_path / "out", "", progress), tmp_path)
