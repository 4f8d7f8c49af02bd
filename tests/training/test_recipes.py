import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth import recipes
from absynth.errors import AbsynthError
from absynth.inference import ABS
from absynth.models.cnn import CNN, Binarized, StridedCNN
from absynth.models.pretrained import PretrainedModel, load_folder
from absynth.progress import Progress
from absynth.recipes import (
    DEFAULTS,
    EXAMINER,
    FAST,
    RECIPES,
    TRAINER,
    Goal,
    accuracy,
    train,
    train_madry,
    training_settings,
)
from absynth.training import TrainingSettings
from absynth.zoo import load

Train = Callable[..., PretrainedModel]
SETTINGS = TrainingSettings(epochs=2, batch_size=16, learning_rate=3e-3, seed=1)


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    """60 noisy images: class 0 is bright above, class 1 below."""
    labels = torch.arange(60) % 2
    images = 0.3 * torch.rand(60, 1, 28, 28)
    images[labels == 0, :, :14] += 0.6
    images[labels == 1, :, 14:] += 0.6
    return images, labels


@pytest.fixture
def run(digits: tuple[Tensor, Tensor], progress: Progress, monkeypatch: pytest.MonkeyPatch) -> Train:
    monkeypatch.setattr(recipes, "CODEBOOK_SIZE", 40)

    def run_train(name: str, out: Path, **changes: Any) -> PretrainedModel:
        given = {"settings": SETTINGS, "command": f"absynth train {name}", "progress": progress} | changes
        return train(name, *digits, out=out, **given)

    return run_train


@pytest.mark.parametrize(("name", "kind"), [("abs", ABS), ("cnn", CNN), ("binary-cnn", Binarized)])
def test_a_recipe_leaves_a_model_that_loads(
    name: str, kind: type[nn.Module], run: Train, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model = run(name, tmp_path / "out", augmented=True)
    loaded = load(tmp_path / "out")
    assert type(loaded) is type(model) is kind
    images = digits[0][:4]
    torch.testing.assert_close(loaded(images), model(images), rtol=1e-5, atol=1e-4)
    assert loaded(images).shape == (4, 2)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())

    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    final_loss = training.pop("final_loss")
    assert training == {
        "command": f"absynth train {name}",
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "seed": 1,
        "emphasis": 0.0,
        "rounds": 0,
        "least_steps": 0,
        "augmented": True,
        "images": 60,
    }
    checkpoints = sorted((tmp_path / "out" / "checkpoints").iterdir())
    last = [torch.load(path, weights_only=True)["history"][-1] for path in checkpoints]
    assert final_loss == pytest.approx(last if name == "abs" else last[0], abs=1e-3)
    assert len(last) == (2 if name == "abs" else 1)


def test_the_madry_recipe_leaves_a_model_that_loads_and_what_it_measured(run: Train, tmp_path: Path) -> None:
    model = run("madry", tmp_path, augmented=True)
    loaded = load(tmp_path)
    assert isinstance(loaded, StridedCNN)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())

    training = json.loads((tmp_path / "config.json").read_text())["training"]
    assert training["images"] == 60
    assert training["epochs_run"] == training["epochs"] == 2
    assert training["adversary"] == vars(TRAINER)
    held_out = training["held_out"]
    assert held_out["images"] == 6
    assert 0 <= held_out["attacked_accuracy"] <= held_out["accuracy"] <= 1
    assert held_out["attack"] == {**vars(EXAMINER), "restarts": training["goal"]["restarts"]}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["madry.pt"]


@pytest.mark.parametrize(
    ("goal", "epochs"),
    [
        (Goal(clean=0, attacked=0), 2),
        (Goal(clean=1.1, attacked=0), 4),
        (Goal(clean=0, attacked=1.1), 4),
    ],
)
def test_adversarial_training_ends_after_its_warm_up_once_both_goals_are_met(
    goal: Goal, epochs: int, digits: tuple[Tensor, Tensor], tmp_path: Path, progress: Progress
) -> None:
    settings = TrainingSettings(epochs=4, batch_size=16, learning_rate=3e-3, seed=1)
    assert 0.25 < TRAINER.warm_up < 0.5
    _, metrics = train_madry(*digits, settings, folder=tmp_path, progress=progress, goal=goal)
    assert metrics["epochs_run"] == epochs


def test_adversarial_training_never_sees_the_images_held_out(
    digits: tuple[Tensor, Tensor], tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}
    fit, measure = recipes.fit, recipes.measure_robustness

    def fitting(make: Any, images: Tensor, *given: Any, **named: Any) -> Any:
        seen["trained"] = images
        return fit(make, images, *given, **named)

    def measuring(model: nn.Module, **named: Any) -> Any:
        seen["held out"] = named["images"]
        return measure(model, **named)

    monkeypatch.setattr(recipes, "fit", fitting)
    monkeypatch.setattr(recipes, "measure_robustness", measuring)
    train_madry(*digits, SETTINGS, folder=tmp_path, progress=progress, goal=Goal(images=5, restarts=1))
    together = torch.cat([seen["trained"], seen["held out"]])
    assert len(seen["held out"]) == 5
    assert together.flatten(1).unique(dim=0).equal(digits[0].flatten(1).unique(dim=0))
    assert len(together) == 60


def test_abs_searches_fast_by_default_and_as_the_paper_on_demand(run: Train, tmp_path: Path) -> None:
    model = run("abs", tmp_path)
    assert isinstance(model, ABS)
    assert model.settings == FAST
    assert model.codebook.latents.shape == (1, 40, 8)
    paper = load(tmp_path, settings="paper")
    assert isinstance(paper, ABS)
    assert paper.settings.steps == 50
    assert paper.settings.margin == float("inf")


@pytest.mark.parametrize("name", RECIPES)
def test_run_again_a_recipe_ends_with_the_same_model(name: str, run: Train, tmp_path: Path) -> None:
    first = run(name, tmp_path).state_dict()
    config = (tmp_path / "config.json").read_text()
    second = run(name, tmp_path).state_dict()
    assert (tmp_path / "config.json").read_text() == config
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_the_cnn_learns(
    run: Train, digits: tuple[Tensor, Tensor], tmp_path: Path, progress: Progress
) -> None:
    settings = TrainingSettings(epochs=6, batch_size=16, learning_rate=1e-3, seed=1)
    for name in ("cnn", "binary-cnn"):
        model = run(name, tmp_path / name, settings=settings)
        assert accuracy(model, *digits, progress=progress) == 1.0


def test_two_recipes_in_one_folder_do_not_take_each_other_for_their_own(run: Train, tmp_path: Path) -> None:
    run("cnn", tmp_path, augmented=True)
    plain = load_folder(tmp_path)
    binary = run("binary-cnn", tmp_path, augmented=True)
    assert isinstance(binary, Binarized)
    inner = binary.model.state_dict()
    assert not all(torch.equal(tensor, inner[key]) for key, tensor in plain.state_dict().items())


@pytest.mark.parametrize("name", RECIPES)
def test_an_augmented_run_does_not_go_on_without(name: str, run: Train, tmp_path: Path) -> None:
    run(name, tmp_path, augmented=True)
    with pytest.raises(AbsynthError, match="other perturbed"):
        run(name, tmp_path, augmented=False)


def test_an_unknown_recipe_is_refused_and_the_known_ones_are_named(run: Train, tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match=r"no recipe 'vit'.*abs, cnn, binary-cnn, madry"):
        run("vit", tmp_path)
    with pytest.raises(AbsynthError, match=r"no recipe 'vit'.*abs, cnn, binary-cnn"):
        training_settings("vit", None, None, None, 0)
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_images(tmp_path: Path, progress: Progress) -> None:
    nothing = torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(AbsynthError, match="no training images"):
        train("cnn", *nothing, SETTINGS, out=tmp_path, command="", progress=progress)


def test_given_settings_replace_the_defaults() -> None:
    assert training_settings("cnn", None, None, None, 0) == DEFAULTS["cnn"]
    assert training_settings("abs", 3, None, 0.5, 9).least_steps == 0, "epochs that are given are kept to"
    assert training_settings("abs", 3, None, 0.5, 9) == TrainingSettings(
        epochs=3,
        batch_size=DEFAULTS["abs"].batch_size,
        learning_rate=0.5,
        seed=9,
        emphasis=DEFAULTS["abs"].emphasis,
        rounds=DEFAULTS["abs"].rounds,
    )
    assert training_settings("abs", None, None, None, 0, 0.0).emphasis == 0
    with pytest.raises(AbsynthError, match="trains no VAEs"):
        training_settings("cnn", None, None, None, 0, 1.0)
    with pytest.raises(AbsynthError, match="learning rate above 0"):
        training_settings("abs", None, None, -1.0, 0)


def test_accuracy_counts_every_image_once(progress: Progress) -> None:
    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = images.mean((1, 2, 3))
            return torch.stack([0.5 - bright, bright - 0.5], dim=1)

    images = torch.linspace(0, 1, 11)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0])  # The fifth and the last are wrong.
    images[5] += 0.01
    assert accuracy(Brightness(), images, labels, progress=progress, batch_size=4) == pytest.approx(9 / 11)
    assert progress.tasks[0].completed == progress.tasks[0].total == 11
