import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.main import get_command

from absynth.certify import certify
from absynth.certify.provers.smoothing import Smoothing
from absynth.cli import app
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.inference import ABS, FAST, codebook
from absynth.models.cnn import CNN, Binarized, IntervalCNN, SmoothedCNN, StridedCNN
from absynth.models.pretrained import PretrainedModel, load_folder
from absynth.models.prototypes import NearestNeighbour
from absynth.progress import Progress
from absynth.training.assignment import Assignment
from absynth.training.finishing import accuracy
from absynth.training.recipe import Options, choose_training
from absynth.training.recipes import RECIPES, find_recipe
from absynth.training.recipes import abs as abs_recipe
from absynth.training.recipes import cnn as cnn_recipe
from absynth.training.recipes import interval_cnn as interval_recipe
from absynth.training.recipes import learned_prototypes as prototypes_recipe
from absynth.training.recipes import madry as madry_recipe
from absynth.training.recipes import smoothed_cnn as smoothed_recipe
from absynth.training.recipes.madry import EXAMINER, TRAINER, Goal, train_madry
from absynth.training.settings import TrainingSettings
from absynth.zoo import load

Train = Callable[..., PretrainedModel]
ASKED = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "seed": 1}
NETWORKS = ("abs", "cnn", "binary-cnn", "madry", "interval-cnn", "smoothed-cnn", "learned-prototypes")
"""Recipes of the plain training loop alone."""


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
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 40)

    def run_train(
        name: str,
        out: Path,
        *,
        augmented: bool = False,
        data: tuple[Tensor, Tensor] = digits,
        held_out: float = 0.0,
        **changes: Any,
    ) -> PretrainedModel:
        plain = {"rounds": 0, "emphasis": 0.0} if name == "abs" else {}
        train = find_recipe(name).plan(Options(**{**ASKED, **plain, **changes}))
        command = f"absynth train {name}"
        validation = Validation(held_out)
        return train(Assignment(*data, out, command, progress, validation=validation, augmented=augmented))

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


def test_the_interval_recipe_leaves_a_plain_chain_and_what_it_measured(
    run: Train, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model = run("interval-cnn", tmp_path, held_out=0.2, epsilon=0.1)
    loaded = load(tmp_path)
    assert isinstance(loaded, IntervalCNN)
    assert {type(layer) for layer in loaded.layers} == {nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear}
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, value.half().float()) for value in model.state_dict().values())

    training = json.loads((tmp_path / "config.json").read_text())["training"]
    assert training["loss"] == {**vars(interval_recipe.LOSS), "epsilon": 0.1}
    assert training["images"] == 48
    assert training["held_out"]["images"] == training["validation"]["images"] == 12
    kept = list(training["held_out"]["certain_by_intervals"].values())
    assert kept == sorted(kept, reverse=True)
    assert kept[0] <= training["validation"]["accuracy"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["interval-cnn.pt"]


def test_the_smoothing_recipe_leaves_its_base_network_and_what_it_measured(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoothed_recipe, "MEASURED", 5)
    monkeypatch.setattr(smoothed_recipe, "SMOOTHING", Smoothing(first=20, samples=50))
    model = run("smoothed-cnn", tmp_path, held_out=0.2, sigma=0.75)
    loaded = load(tmp_path)
    assert isinstance(loaded, SmoothedCNN)
    assert loaded.sigma == 0.75
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in loaded.layers)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())

    config = json.loads((tmp_path / "config.json").read_text())
    assert config["smoothing"] == {"sigma": 0.75}
    training = config["training"]
    assert training["loss"] == {**vars(smoothed_recipe.LOSS), "sigma": 0.75}
    held_out = training["held_out"]
    assert held_out["images"] == 5
    assert "samples=50" in held_out["method"]
    assert "sigma=0.75" in held_out["method"]
    certified = list(held_out["certified"].values())
    assert certified == sorted(certified, reverse=True)
    assert certified[0] <= held_out["accuracy"]


def test_the_prototypes_recipe_leaves_a_nearest_neighbour_that_proves_more_than_its_start(
    run: Train, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    found = {}
    for epochs in (1, 8):
        out = tmp_path / str(epochs)
        model = run("learned-prototypes", out, held_out=0.2, epochs=epochs, prototypes=2, target=30.0)
        loaded = load(out)
        assert isinstance(loaded, NearestNeighbour)
        assert loaded.prototype_images.shape == (2, 2, 784)
        assert torch.equal(loaded(digits[0]), model(digits[0]))
        training = json.loads((out / "config.json").read_text())["training"]
        assert training["loss"] == {**vars(prototypes_recipe.LOSS), "target": 30.0}
        assert training["held_out"]["images"] == training["validation"]["images"] == 12
        certified = list(training["held_out"]["certified"].values())
        assert certified == sorted(certified, reverse=True)
        found[epochs] = certify(loaded, *digits, "l2").radius.mean()
    assert found[8] > found[1] + 0.02


@pytest.mark.parametrize("name", ["interval-cnn", "smoothed-cnn"])
def test_interrupted_a_recipe_leaves_the_same_bytes(
    name: str, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(name, tmp_path / "whole")
    recipe = interval_recipe if name == "interval-cnn" else smoothed_recipe
    loss, calls = type(recipe.LOSS), iter(range(7))
    original = loss.__call__

    def interrupted(*given: Any) -> Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loss, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(name, tmp_path / "parts")
    assert not (tmp_path / "parts" / "config.json").exists()
    torch.rand(11)  # The global generator is elsewhere by now.
    run(name, tmp_path / "parts")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("interval-cnn", {"epsilon": 0.2}),
        ("smoothed-cnn", {"sigma": 1.0}),
        ("learned-prototypes", {"target": 2.0}),
    ],
)
def test_a_run_for_another_radius_or_noise_does_not_go_on(
    name: str, changed: dict[str, float], run: Train, tmp_path: Path
) -> None:
    run(name, tmp_path)
    with pytest.raises(AbsynthError, match="other loss;"):
        run(name, tmp_path, **changed)
    with pytest.raises(AbsynthError, match="above 0"):
        run(name, tmp_path, **dict.fromkeys(changed, 0.0))


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
    train_madry(Assignment(*digits, tmp_path, "", progress), settings, goal=goal)
    assert json.loads((tmp_path / "config.json").read_text())["training"]["epochs_run"] == epochs


def test_adversarial_training_never_sees_the_images_held_out(
    digits: tuple[Tensor, Tensor], tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}
    fit, measure = madry_recipe.fit, madry_recipe.measure_robustness

    def fitting(make: Any, images: Tensor, *given: Any, **named: Any) -> Any:
        seen["trained"] = images
        return fit(make, images, *given, **named)

    def measuring(model: nn.Module, **named: Any) -> Any:
        seen["held out"] = named["images"]
        return measure(model, **named)

    monkeypatch.setattr(madry_recipe, "fit", fitting)
    monkeypatch.setattr(madry_recipe, "measure_robustness", measuring)
    work = Assignment(*digits, tmp_path, "", progress)
    train_madry(work, TrainingSettings(**ASKED), goal=Goal(images=5, restarts=1))
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


@pytest.mark.parametrize("name", NETWORKS)
def test_run_again_a_recipe_ends_with_the_same_model(name: str, run: Train, tmp_path: Path) -> None:
    first = run(name, tmp_path).state_dict()
    config = (tmp_path / "config.json").read_text()
    second = run(name, tmp_path).state_dict()
    assert (tmp_path / "config.json").read_text() == config
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_the_cnn_learns(
    run: Train, digits: tuple[Tensor, Tensor], tmp_path: Path, progress: Progress
) -> None:
    for name in ("cnn", "binary-cnn"):
        model = run(name, tmp_path / name, epochs=6, learning_rate=1e-3)
        assert accuracy(model, *digits, progress=progress) == 1.0


def test_two_recipes_in_one_folder_do_not_take_each_other_for_their_own(run: Train, tmp_path: Path) -> None:
    run("cnn", tmp_path, augmented=True)
    plain = load_folder(tmp_path)
    binary = run("binary-cnn", tmp_path, augmented=True)
    assert isinstance(binary, Binarized)
    inner = binary.model.state_dict()
    assert not all(torch.equal(tensor, inner[key]) for key, tensor in plain.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_an_augmented_run_does_not_go_on_without(name: str, run: Train, tmp_path: Path) -> None:
    run(name, tmp_path, augmented=True)
    with pytest.raises(AbsynthError, match="other perturbed"):
        run(name, tmp_path, augmented=False)


def test_an_unknown_recipe_is_refused_and_the_known_ones_are_named(run: Train, tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match=r"no recipe 'vit'") as caught:
        run("vit", tmp_path)
    assert all(name in str(caught.value) for name in RECIPES)
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_images(run: Train, tmp_path: Path) -> None:
    nothing = torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(AbsynthError, match="no training images"):
        run("cnn", tmp_path, data=nothing)


def test_given_settings_replace_the_defaults() -> None:
    usual = abs_recipe.SETTINGS
    assert choose_training(cnn_recipe.SETTINGS, Options()) == cnn_recipe.SETTINGS
    given = choose_training(usual, Options(epochs=3, learning_rate=0.5, seed=9))
    assert given.least_steps == 0, "epochs that are given are kept to"
    assert given == TrainingSettings(
        epochs=3,
        batch_size=usual.batch_size,
        learning_rate=0.5,
        seed=9,
        emphasis=usual.emphasis,
        rounds=usual.rounds,
    )
    assert choose_training(usual, Options(emphasis=0.0)).emphasis == 0
    with pytest.raises(AbsynthError, match="learning rate above 0"):
        find_recipe("abs").plan(Options(learning_rate=-1.0))


USELESS = "has no use for --{}; leave it out."
NO_PROTOTYPES = "takes no prototypes and no target; leave them out."
NO_VAES = "trains no VAEs; leave the emphasis and the rounds out."
BY_ITS_BASE = "goes by its base; leave the size and the validation out."
NO_BASE = "builds on no other model; leave the base out."
NO_START = "always starts from nothing; leave the start out."
ASKED_FOR = {
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 0.1,
    "augment": True,
    "emphasis": 1.0,
    "rounds": 1,
    "start": "abs",
    "prototypes": 7,
    "target": 2.0,
    "size": 32,
    "validation": 0.2,
    "base": "abs",
    "sigma": 0.25,
    "epsilon": 0.1,
}
NO_NOISE = "trains without noise; leave the sigma out."
NO_RADIUS = "trains for no Linf radius that can be chosen; leave the epsilon out."
NEITHER = {"sigma": NO_NOISE, "epsilon": NO_RADIUS}
OF_NETWORKS = NEITHER | {
    "emphasis": NO_VAES,
    "rounds": NO_VAES,
    "start": NO_START,
    "prototypes": NO_PROTOTYPES,
    "target": NO_PROTOTYPES,
    "base": NO_BASE,
}
OF_CERTIFIED = NEITHER | {"augment": USELESS, "emphasis": USELESS, "start": USELESS, "base": NO_BASE}
OF_BASES = (
    NEITHER
    | {"augment": USELESS, "emphasis": USELESS, "start": USELESS, "epochs": USELESS}
    | {
        "size": BY_ITS_BASE,
        "validation": BY_ITS_BASE,
    }
)
REFUSED: dict[str, dict[str, str]] = {
    "abs": NEITHER | {"prototypes": NO_PROTOTYPES, "target": NO_PROTOTYPES, "base": NO_BASE},
    "cnn": OF_NETWORKS,
    "binary-cnn": OF_NETWORKS,
    "madry": OF_NETWORKS,
    "interval-cnn": {name: reason for name, reason in OF_NETWORKS.items() if name != "epsilon"},
    "smoothed-cnn": {name: reason for name, reason in OF_NETWORKS.items() if name != "sigma"},
    "learned-prototypes": {
        name: reason for name, reason in OF_NETWORKS.items() if name not in ("prototypes", "target")
    },
    "certified-abs": OF_CERTIFIED,
    "certified-binary-abs": OF_CERTIFIED,
    "codebook-abs": OF_BASES,
    "binary-abs": OF_BASES
    | dict.fromkeys(("batch_size", "learning_rate", "rounds"), USELESS)
    | {"prototypes": NO_PROTOTYPES, "target": NO_PROTOTYPES},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_what_it_uses_and_says_why_not_the_rest(name: str) -> None:
    recipe = find_recipe(name)
    for option, value in ASKED_FOR.items():
        asked = Options(**{option: value})  # type: ignore[arg-type]
        reason = REFUSED[name].get(option)
        if reason is None:
            recipe.plan(asked)
            continue
        sentence = f"The recipe '{name}' {reason.format(option.replace('_', '-'))}"
        with pytest.raises(AbsynthError, match=f"^{re.escape(sentence)}$"):
            recipe.plan(asked)


@pytest.mark.parametrize("name", RECIPES)
def test_only_vaes_are_trained_side_by_side(name: str) -> None:
    asked = Options(engine="ray")
    if name in ("abs", "certified-abs", "certified-binary-abs"):
        find_recipe(name).plan(asked)
        return
    with pytest.raises(AbsynthError, match=f"train on a cluster; for '{name}' leave --engine"):
        find_recipe(name).plan(asked)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_held_out_by_default(name: str) -> None:
    recipe = find_recipe(name)
    if name in ("codebook-abs", "binary-abs"):
        assert recipe.base_of(Options()) == "abs"
        assert recipe.base_of(Options(base="mine")) == "mine"
        assert recipe.validation(Options(), digits=True) == Validation(0.0)
        return
    assert recipe.base_of(Options()) is None
    of_digits = 1 / 12 if name.startswith("certified") else 0.0
    if name in ("interval-cnn", "smoothed-cnn", "learned-prototypes"):
        of_digits = 1 / 60
    assert recipe.validation(Options(seed=3), digits=True) == Validation(of_digits, 3)
    assert recipe.validation(Options(seed=3), digits=False) == Validation(0.1, 3)
    assert recipe.validation(Options(validation=0.3), digits=True) == Validation(0.3)


def test_the_command_line_names_every_recipe() -> None:
    (argument,) = (found for found in get_command(app).commands["train"].params if found.name == "model")
    assert argument.help == ", ".join(RECIPES) + "."


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
