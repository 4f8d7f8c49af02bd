from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.inference import ABS, FAST, CodebookABS, codebook
from absynth.inference.codebook import draw_latents
from absynth.models.vae import Decoder
from absynth.progress import Progress
from absynth.training import rounds
from absynth.training.assignment import Assignment
from absynth.training.losses import variational
from absynth.training.recipe import Options
from absynth.training.recipes import abs as abs_recipe
from absynth.training.recipes import find_recipe
from absynth.training.recipes.abs import ROUNDS, train_abs
from absynth.training.rounds import CLEAR, SEARCHED, training_margins
from absynth.training.settings import TrainingSettings
from absynth.training.vaes import train_vaes

SETTINGS = TrainingSettings(epochs=3, batch_size=16, learning_rate=3e-3, seed=1, rounds=2)


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    """30 noisy images: class 0 is bright above, class 1 below."""
    labels = torch.arange(30) % 2
    images = 0.3 * torch.rand(30, 1, 28, 28)
    images[labels == 0, :, :14] += 0.6
    images[labels == 1, :, 14:] += 0.6
    return images, labels


@pytest.fixture
def train(
    digits: tuple[Tensor, Tensor], progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 40)

    def run(folder: Path, settings: TrainingSettings = SETTINGS) -> Any:
        return train_abs(Assignment(*digits, folder, "", progress), settings)

    return run


def test_margins_are_searched_where_an_image_is_at_stake_and_the_codebooks_elsewhere(
    make_decoder: Callable[[int], Decoder], make_images: Callable[..., Tensor], progress: Progress
) -> None:
    model = ABS(CodebookABS([make_decoder(seed) for seed in range(3)], draw_latents(60)), FAST)
    model.prepare()
    model.eval()
    prototypes = model.codebook.prototypes().images
    labels = torch.arange(40) % 3
    # From a prototype of the class (clear) through the middle to one of another class (lost).
    share = torch.linspace(0, 1, 40)[:, None]
    numbers = torch.arange(40)
    mixed = (1 - share) * prototypes[labels, numbers] + share * prototypes[(labels + 1) % 3, numbers]
    images = mixed.view(-1, 1, 28, 28)

    def margins(losses: Tensor) -> Tensor:
        return torch.stack(
            [
                row[torch.arange(3) != label].min() - row[label]
                for row, label in zip(losses, labels, strict=True)
            ]
        )

    with torch.no_grad():
        coarse, fine = margins(model.codebook.losses(images)), margins(model.infer(images).losses)
    close = coarse < CLEAR
    assert 5 < close.sum() < 35
    assert (fine < 0).any()
    found = training_margins(model, images, labels, progress)
    torch.testing.assert_close(found, torch.where(close, fine, coarse + SEARCHED), rtol=1e-4, atol=1e-3)


def test_each_round_goes_on_with_weight_on_all_that_was_ever_at_stake(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [torch.full((30,), 50.0), torch.full((30,), 50.0)]
    measured[0][3], measured[1][4] = -1.0, -2.0
    answers = iter(measured)
    calls: list[dict[str, Any]] = []

    def spying(*given: Any, **named: Any) -> Any:
        calls.append({"settings": given[2], **named})
        result = train_vaes(*given, **named)
        calls[-1]["result"] = result[0]
        return result

    monkeypatch.setattr(rounds, "training_margins", lambda *_: next(answers))
    monkeypatch.setattr(abs_recipe, "train_vaes", spying)
    train(tmp_path)
    first, second, third = calls
    assert first["start"] is None
    assert "importance" not in first
    for before, after, further, stakes in (
        (first, second, ROUNDS[0], [3]),
        (second, third, ROUNDS[1], [3, 4]),
    ):
        assert after["start"] is before["result"]
        assert after["settings"].epochs == 1
        assert after["settings"].learning_rate == pytest.approx(3e-3 * further.rate)
        weights = after["importance"]
        assert (weights > 1).nonzero()[:, 0].tolist() == stakes
        assert (weights[stakes] > 1 + 0.9 * further.focus).all()


def test_the_weight_of_an_image_moves_the_loss(make_images: Callable[..., Tensor]) -> None:
    from absynth.models.vae import VAE, elbo_losses

    vae, images = VAE(), make_images(4)
    single = elbo_losses(vae, images, generator=torch.Generator().manual_seed(0))
    found = variational(
        vae, images, torch.tensor([1.0, 1.0, 1.0, 3.0]), torch.Generator().manual_seed(0), emphasis=1.0
    )
    weights = single * torch.tensor([1.0, 1.0, 1.0, 3.0])
    torch.testing.assert_close(found, (weights * single).sum() / weights.sum())


def test_an_interrupted_round_goes_on_with_the_margins_it_began_with(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    real = abs_recipe.train_vaes

    def failing(*given: Any, **named: Any) -> Any:
        if "importance" in named:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(abs_recipe, "train_vaes", failing)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    monkeypatch.setattr(abs_recipe, "train_vaes", real)
    measuring = rounds.training_margins
    calls = []
    monkeypatch.setattr(rounds, "training_margins", lambda *given: calls.append(1) or measuring(*given))
    resumed = train(tmp_path / "cut")
    assert len(calls) == 1  # the second round's; the first round's were kept
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_rounds_change_the_model_and_none_is_allowed(train: Callable[..., Any], tmp_path: Path) -> None:
    with_rounds = train(tmp_path / "two")
    without = train(tmp_path / "none", settings=TrainingSettings(3, 16, 3e-3, 1))
    assert not (tmp_path / "none" / "checkpoints" / "round-1").exists()
    name = "codebook.decoders.0.layers.0.weight"
    assert not torch.equal(with_rounds.state_dict()[name], without.state_dict()[name])


def test_rounds_that_do_not_exist_are_refused() -> None:
    assert abs_recipe.SETTINGS.rounds == len(ROUNDS) == 2
    find_recipe("abs").plan(Options(rounds=0))
    with pytest.raises(AbsynthError, match="no round 3 of training; ask for 0 to 2"):
        find_recipe("abs").plan(Options(rounds=3))
