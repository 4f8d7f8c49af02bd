from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

import absynth
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.inference import ABS, FAST, CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import Binarized
from absynth.models.confidence import ALPHA, fit_alpha
from absynth.models.front import Clamped, seen_by, unwrap
from absynth.models.pretrained import PretrainedModel
from absynth.models.vae import VAE, Decoder, Posterior
from absynth.progress import Progress
from absynth.training.assignment import Assignment
from absynth.training.augmentation import bend
from absynth.training.certified.distances import box_distance
from absynth.training.certified.from_nothing import train_from_nothing
from absynth.training.certified.learning import lacking_pixels
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.certified.stage import decode, train_for_certificates
from absynth.training.encoders import write_encoders
from absynth.training.finishing import read_validation
from absynth.training.latents import draw_codebook, encode
from absynth.training.recipes.certified_binary_abs import STAGES as CERTIFIED_BINARY
from absynth.training.recipes.codebook_abs import train_codebook_abs
from absynth.training.settings import TrainingSettings

SETTINGS = CertifiedSettings(rounds=4, images=40, compared=30, batch_size=10, learning_rate=1e-3, rivals=3)
GREY = replace(SETTINGS, rounds=6, learning_rate=3e-4)
BINARY = replace(CERTIFIED_BINARY[-1], rounds=6, images=90, compared=30, batch_size=10, rivals=3)
AVERAGED = replace(SETTINGS, averaged=0.5, target=5.0)


def test_decoding_serves_every_entry_in_its_place(make_decoder: Callable[[int], Decoder]) -> None:
    decoders = [make_decoder(seed).folded() for seed in range(3)]
    latents = torch.randn(3, 5, 8)
    entries = torch.tensor([14, 0, 7, 7, 3])
    images, offsets = decode(decoders, latents, entries)
    for entry, image, offset in zip(entries, images, offsets, strict=True):
        latent = latents[entry // 5, entry % 5]
        torch.testing.assert_close(image, decoders[entry // 5](latent[None]).flatten())
        torch.testing.assert_close(offset, 0.5 * latent.square().sum())


def test_the_derivative_of_decoding_is_the_same_in_every_run_of_several_threads(
    make_decoder: Callable[[int], Decoder],
) -> None:
    decoders = [make_decoder(seed).folded().requires_grad_(True) for seed in range(2)]
    latents, entries = torch.randn(2, 20, 8), torch.randint(40, (600,))
    cotangents = torch.randn(600, 784)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(5):
            images, _ = decode(decoders, latents, entries)
            weights = [weight for decoder in decoders for weight in decoder.parameters()]
            runs.append(torch.autograd.grad(images, weights, cotangents))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_a_codebook_is_drawn_from_other_images_than_those_left_out() -> None:
    # Each image has a latent of its own, and no noise to hide it.
    posterior = Posterior(torch.arange(20.0)[:, None], torch.full((20, 1), -torch.inf))
    labels = torch.arange(20) % 2
    left_out = torch.arange(8)
    latents = draw_codebook(posterior, labels, left_out, 50, torch.Generator().manual_seed(0))
    assert latents.shape == (2, 50, 1)
    assert set(latents[0].flatten().tolist()) == set(range(8, 20, 2))
    assert set(latents[1].flatten().tolist()) == set(range(9, 20, 2))
    only = draw_codebook(posterior, labels, torch.arange(20), 5, torch.Generator().manual_seed(0))
    assert only.shape == (2, 5, 1)


def train_decoders(
    decoders: list[Decoder],
    digits: tuple[Tensor, Tensor],
    settings: CertifiedSettings,
    folder: Path,
    progress: Progress,
    copies: int = 0,
) -> list[float]:
    """Trains decoders on images as they are, with posteriors that know nothing of them."""
    count = (1 + copies) * len(digits[1])
    return train_for_certificates(
        decoders,
        Posterior(torch.randn(count, 8), torch.zeros(count, 8)),
        *digits,
        settings,
        checkpoint=folder / "certified.pt",
        progress=progress,
        perturbation=lambda images, _: images,
    )


def test_the_copies_of_an_image_are_left_out_with_it(
    make_decoder: Callable[[int], Decoder],
    digits: tuple[Tensor, Tensor],
    progress: Progress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = Mock(wraps=draw_codebook)
    monkeypatch.setattr("absynth.training.certified.stage.draw_codebook", drawn)
    decoders = [make_decoder(seed).folded() for seed in range(3)]
    train_decoders(decoders, digits, replace(SETTINGS, rounds=1), tmp_path, progress, copies=2)
    _, labels, left_out, *_ = drawn.call_args.args
    assert torch.equal(labels, digits[1].repeat(3))
    first, *copies = left_out.chunk(3)
    assert first.max() < 90
    assert all(torch.equal(copy, first + 90 * number) for number, copy in enumerate(copies, 1))


def test_images_are_encoded_by_their_own_class_and_then_bent_copies(
    make_images: Callable[[int], Tensor],
) -> None:
    vaes = [VAE(hidden=(10,)).eval() for _ in range(2)]
    images, labels = make_images(12), torch.arange(12) % 2
    posterior = encode(vaes, images, labels, 2, torch.Generator().manual_seed(0))
    assert posterior.mean.shape == posterior.log_variance.shape == (36, 8)
    for row in range(12):
        mean, log_variance = vaes[row % 2].encoder(images[row][None])
        torch.testing.assert_close(posterior.mean[row], mean[0])
        torch.testing.assert_close(posterior.log_variance[row], log_variance[0])
    bent = bend(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(posterior.mean[13], vaes[1].encoder(bent[1][None]).mean[0])
    assert not torch.isclose(posterior.mean[12:24], posterior.mean[24:]).any(dim=1).all()


@pytest.fixture
def base(make_decoder: Callable[[int], Decoder], tmp_path: Path) -> Path:
    """An ABS of three classes with the encoders that it was not trained with."""
    model = ABS(CodebookABS([make_decoder(seed) for seed in range(3)], draw_latents(20)), FAST)
    folder = tmp_path / "base"
    model.save_pretrained(folder)
    write_encoders(folder, [VAE() for _ in range(3)])
    return folder


@pytest.fixture
def digits(make_decoder: Callable[[int], Decoder]) -> tuple[Tensor, Tensor]:
    """Noisy images of the three decoders."""
    labels = torch.arange(90) % 3
    with torch.no_grad():
        made = torch.stack([make_decoder(seed)(torch.randn(90, 8)) for seed in range(3)])
    images = made[labels, torch.arange(90)]
    return (images + 0.1 * torch.randn_like(images)).clamp(0, 1), labels


def test_images_beyond_the_target_change_nothing(
    make_decoder: Callable[[int], Decoder], digits: tuple[Tensor, Tensor], progress: Progress, tmp_path: Path
) -> None:
    decoders = [make_decoder(seed).folded() for seed in range(3)]
    before = [tensor.clone() for decoder in decoders for tensor in decoder.state_dict().values()]
    settings = replace(SETTINGS, rounds=2, target=1e-6)
    history = train_decoders(decoders, digits, settings, tmp_path, progress)
    assert history == [0.0, 0.0]
    after = [tensor for decoder in decoders for tensor in decoder.state_dict().values()]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize(
    "settings", [GREY, replace(GREY, tail=0.1), BINARY], ids=["grey", "clamped", "binary"]
)
def test_training_raises_the_radii_of_the_images(
    settings: CertifiedSettings,
    make_decoder: Callable[[int], Decoder],
    digits: tuple[Tensor, Tensor],
    progress: Progress,
    tmp_path: Path,
) -> None:
    decoders = [make_decoder(seed).folded() for seed in range(3)]
    codebook = draw_latents(40).expand(3, -1, -1)

    def mean_radius() -> float:
        model = CodebookABS(decoders, codebook)
        model.prepare()
        behind = settings.behind(model)
        return float(absynth.certify(behind, *digits, norm="l0" if settings.binary else "l2").radius.mean())

    before = mean_radius()
    asked_for = {"pixels" if settings.binary else "target": 1.4 * before}
    history = train_decoders(decoders, digits, replace(settings, **asked_for), tmp_path, progress)
    assert len(history) == 6
    assert mean_radius() > 1.01 * before


def test_a_binary_model_is_stored_with_its_radii(
    base: Path, digits: tuple[Tensor, Tensor], progress: Progress, tmp_path: Path
) -> None:
    work = Assignment(*digits, tmp_path / "binary", "a command", progress, validation=Validation(0.2))
    settings = replace(CERTIFIED_BINARY[-1], rounds=1, images=20, compared=30, batch_size=10)
    model = train_codebook_abs(work, base, settings, prototypes=35)
    loaded = absynth.load(tmp_path / "binary")
    assert isinstance(loaded, Binarized)
    assert torch.equal(loaded(digits[0]).argmax(1), model(digits[0]).argmax(1))
    stored = json.loads((tmp_path / "binary" / "config.json").read_text())["training"]
    assert stored["certified"]["images"] == 18
    assert set(stored["certified"]["linf"]["accuracy"]) == {"0.3"}
    assert set(stored["certified"]["l0"]["accuracy"]) == {"8", "12"}


def test_the_weights_are_averaged_over_the_last_rounds(
    make_decoder: Callable[[int], Decoder],
    digits: tuple[Tensor, Tensor],
    progress: Progress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoders = [make_decoder(seed).folded() for seed in range(3)]
    rounds: list[list[Tensor]] = []
    monkeypatch.setattr(
        "absynth.training.checkpoints.Run.save",
        lambda *_: rounds.append([weights.detach().clone() for weights in weights_of(decoders)]),
    )
    train_decoders(decoders, digits, AVERAGED, tmp_path, progress)
    assert len(rounds) == AVERAGED.rounds == 4
    for average, before, last in zip(weights_of(decoders), *rounds[2:], strict=True):
        assert not torch.equal(before, last)
        torch.testing.assert_close(average, (before + last) / 2)


def weights_of(decoders: list[Decoder]) -> list[Tensor]:
    """All that is learned."""
    return [weights for decoder in decoders for weights in decoder.parameters()]


@pytest.mark.parametrize(("settings", "step"), [(SETTINGS, 9), (AVERAGED, 14)], ids=["last", "averaged"])
def test_an_interrupted_run_ends_with_the_same_model(
    settings: CertifiedSettings,
    step: int,
    base: Path,
    digits: tuple[Tensor, Tensor],
    progress: Progress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(name: str) -> CodebookABS:
        work = Assignment(*digits, tmp_path / name, "a command", progress)
        return train_codebook_abs(work, base, settings, prototypes=35)

    whole = run("whole")
    with monkeypatch.context() as patched:
        calls = []

        def interrupted(*arguments: Tensor, **options: object) -> Tensor:
            calls.append(1)
            if len(calls) == step:
                raise KeyboardInterrupt
            return box_distance(*arguments)

        patched.setattr("absynth.training.certified.settings.box_distance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    resumed = run("parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    loaded = absynth.load(tmp_path / "parts")
    assert isinstance(loaded, CodebookABS)
    assert loaded.latents.shape == (3, 35, 8)
    images = digits[0]
    assert torch.equal(loaded(images).argmax(1), whole(images).argmax(1))


def train_small(
    digits: tuple[Tensor, Tensor], folder: Path, progress: Progress, **changes: object
) -> PretrainedModel:
    """A certified model of three classes with small layers."""
    first = replace(SETTINGS, rounds=2)
    last = replace(first, averaged=0.5, pixels_weight=0.1, **changes)  # type: ignore[arg-type]
    return train_from_nothing(
        Assignment(*digits, folder, "a command", progress, validation=Validation(0.2)),
        explaining=TrainingSettings(epochs=3, batch_size=10, learning_rate=2e-3, seed=0, emphasis=2.0),
        hidden=(20, 12),
        stages=(first, last),
        prototypes=35,
    )


@pytest.mark.parametrize(
    ("changes", "kind"), [({}, CodebookABS), ({"binary": True}, Binarized), ({"tail": 0.1}, Clamped)]
)
def test_a_model_trained_from_nothing_is_stored_with_what_it_was_trained_for(
    changes: dict[str, Any],
    kind: type[PretrainedModel],
    digits: tuple[Tensor, Tensor],
    progress: Progress,
    tmp_path: Path,
) -> None:
    model = train_small(digits, tmp_path / "model", progress, **changes, seed=3)
    loaded = absynth.load(tmp_path / "model")
    assert type(loaded) is kind
    assert torch.equal(loaded(digits[0]), model(digits[0]))
    # The confidence suits how well this codebook explains images, not how well ABS explains MNIST.
    codebook = unwrap(loaded)
    assert isinstance(codebook, CodebookABS)
    held_out = read_validation(tmp_path / "model").split(digits[1])[1]
    assert codebook.alpha == fit_alpha(codebook.losses(seen_by(loaded, digits[0][held_out])), 28 * 28)
    assert codebook.alpha != ALPHA
    certificate = absynth.certify(loaded, *digits, norm="l0")
    assert bool((certificate.radius > 0).any())
    stored = json.loads((tmp_path / "model" / "config.json").read_text())["training"]
    assert stored["explaining"]["hidden"] == [20, 12]
    assert stored["explaining"]["seed"] == stored["seed"] == 3
    assert len(stored["explaining"]["final_loss"]) == 3
    assert stored["trained_on"] == 72
    assert stored["validation"]["images"] == 18


def test_the_weight_of_the_prior_is_for_the_finished_model_alone(
    digits: tuple[Tensor, Tensor], progress: Progress, tmp_path: Path
) -> None:
    whole = unwrap(train_small(digits, tmp_path / "model", progress))
    less = unwrap(train_small(digits, tmp_path / "model", progress, prior_weight=0.5))
    assert isinstance(whole, CodebookABS)
    assert isinstance(less, CodebookABS)
    assert torch.equal(less.prototype_images, whole.prototype_images)
    assert torch.equal(less.prototype_offsets, 0.5 * whole.prototype_offsets)
    assert "prior_weight" in (tmp_path / "model" / "config.json").read_text()


def test_training_from_nothing_goes_on_where_it_was(
    digits: tuple[Tensor, Tensor], progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_small(digits, tmp_path / "whole", progress)
    with monkeypatch.context() as patched:
        patched.setattr("absynth.training.certified.stage.mine", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_small(digits, tmp_path / "parts", progress)
    with monkeypatch.context() as patched:
        patched.setattr(
            "absynth.training.vaes.variational", Mock(side_effect=AssertionError("trained again"))
        )
        resumed = train_small(digits, tmp_path / "parts", progress)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_hopeless_pairs_have_no_say_in_what_is_learned() -> None:
    def slopes(hopeless: float) -> list[float]:
        settings = CertifiedSettings(pixels=14.0, pixels_sharpness=1.0, pixels_hopeless=hopeless)
        distances = torch.tensor([[0.0, 10.0, 20.0]], requires_grad=True)
        lacking_pixels(distances, settings).backward()
        assert distances.grad is not None
        return (3 * distances.grad[0]).tolist()

    assert slopes(0.0) == pytest.approx([-1, -1, 0], abs=0.02)
    assert slopes(6.0) == pytest.approx([0, -1, 0], abs=0.04)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(AbsynthError, match="at least 1 of everything"):
        CertifiedSettings(images=0)
    with pytest.raises(AbsynthError, match="but rounds and copies"):
        CertifiedSettings(copies=-1)
    with pytest.raises(AbsynthError, match="above 0"):
        CertifiedSettings(target=0.0)
    with pytest.raises(AbsynthError, match="at least 0"):
        CertifiedSettings(pixels_weight=-1.0)
    with pytest.raises(AbsynthError, match="less than the target, 16"):
        CertifiedSettings(pixels_hopeless=16.0)
    with pytest.raises(AbsynthError, match="from 0 to 1"):
        CertifiedSettings(averaged=1.5)
