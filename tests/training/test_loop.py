from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.models.cnn import CNN
from absynth.models.vae import VAE, elbo_losses
from absynth.progress import Progress
from absynth.training.adversarial import Adversary
from absynth.training.augmentation import augment
from absynth.training.loop import fit
from absynth.training.losses import Loss, cross_entropy, variational
from absynth.training.settings import TrainingSettings
from absynth.training.vaes import train_vaes

SETTINGS = TrainingSettings(epochs=3, batch_size=7, learning_rate=1e-2, seed=3)
Fit = Callable[..., tuple[nn.Module, list[float]]]


def unweighted(model: nn.Module, images: Tensor, _: Tensor, generator: torch.Generator, __: float) -> Tensor:
    return variational(model, images, torch.ones(len(images)), generator)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 2))


@pytest.fixture
def data(make_images: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """17 images: class 1 is brighter on its right half."""
    images, labels = make_images(17), torch.arange(17) % 2
    images[labels == 1, :, :, 14:] = 1
    return images, labels


@pytest.fixture
def run(data: tuple[Tensor, Tensor], tmp_path: Path, progress: Progress) -> Fit:
    def run_fit(
        make_model: Callable[[], nn.Module] = linear,
        loss: Loss = cross_entropy,
        settings: TrainingSettings = SETTINGS,
        *,
        folder: str = "run",
        **changes: Any,
    ) -> tuple[nn.Module, list[float]]:
        given = {"images": data[0], "targets": data[1], "progress": progress, "description": "toy"} | changes
        return fit(
            make_model, loss=loss, settings=settings, checkpoint=tmp_path / folder / "model.pt", **given
        )

    return run_fit


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_the_loss_falls_and_the_classes_are_learnt(run: Fit, data: tuple[Tensor, Tensor]) -> None:
    model, history = run(settings=replace(SETTINGS, epochs=15))
    assert history[-1] < 0.1 * history[0]
    assert torch.equal(model(data[0]).argmax(1), data[1])
    assert not model.training


def interrupted_after(loss: Loss, calls: int) -> Loss:
    left = [calls]

    def interrupted(*arguments: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return loss(*arguments)

    return interrupted


@pytest.mark.parametrize("calls", [2, 3, 7])
@pytest.mark.parametrize(
    ("make_model", "loss"), [(lambda: CNN(2), cross_entropy), (VAE, unweighted)], ids=["CNN", "VAE"]
)
def test_an_interrupted_run_ends_with_the_very_same_weights(
    run: Fit, make_model: Callable[[], nn.Module], loss: Loss, calls: int
) -> None:
    whole, whole_history = run(make_model, loss, folder="whole", perturbation=augment)
    with pytest.raises(KeyboardInterrupt):
        run(make_model, interrupted_after(loss, calls), folder="parts", perturbation=augment)
    torch.rand(11)  # The global generator is elsewhere by now.
    resumed, resumed_history = run(make_model, loss, folder="parts", perturbation=augment)
    assert same(resumed, whole)
    assert resumed_history == whole_history


def test_a_run_in_pieces_ends_with_the_very_same_weights(run: Fit) -> None:
    whole, history = run(folder="whole", perturbation=augment)
    for epochs in (1, 2, 3):
        model, piece = run(folder="parts", perturbation=augment, pause=lambda: True)
        assert piece == history[:epochs]
        assert not model.training
    assert same(model, whole)
    asked: list[bool] = []
    run(folder="asked", settings=replace(SETTINGS, least_steps=90), pause=lambda: bool(asked.append(True)))
    assert len(asked) == 5, "once a checkpoint, which every seventh epoch of three steps has, and the last"


def test_a_run_that_began_on_another_kind_of_device_goes_on(run: Fit, tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.pt"
    ends = []
    for _ in range(2):
        path.unlink(missing_ok=True)
        run(pause=lambda: True)
        of_a_gpu = torch.load(path, weights_only=True) | {"generator": torch.arange(16, dtype=torch.uint8)}
        torch.save(of_a_gpu, path)
        model, history = run()
        assert history[:1] == of_a_gpu["history"]
        ends.append(model)
    assert len(history) == 3
    assert same(*ends)


def test_a_finished_run_is_only_read_back(run: Fit) -> None:
    whole, history = run()
    again, again_history = run(loss=interrupted_after(cross_entropy, 0))
    assert same(again, whole)
    assert again_history == history
    assert not again.training


def test_the_seed_decides_and_the_global_generator_does_not(run: Fit) -> None:
    first, _ = run(folder="1")
    torch.rand(5)
    second, _ = run(folder="2")
    other, _ = run(folder="3", settings=replace(SETTINGS, seed=4))
    assert same(first, second)
    assert not same(first, other)


def test_the_global_generator_is_left_alone(run: Fit) -> None:
    state = torch.random.get_rng_state()
    run(VAE, unweighted, perturbation=augment)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_epoch_shows_every_image_once_in_another_order(run: Fit, data: tuple[Tensor, Tensor]) -> None:
    images, labels = data
    seen: list[int] = []
    sizes: list[int] = []

    def spying(
        model: nn.Module, batch: Tensor, targets: Tensor, generator: torch.Generator, _: float
    ) -> Tensor:
        rows = [int((images == image).flatten(1).all(1).nonzero()) for image in batch]
        assert torch.equal(labels[rows], targets)
        seen.extend(rows)
        sizes.append(len(rows))
        return cross_entropy(model, batch, targets, generator)

    run(loss=spying)
    epochs = [seen[:17], seen[17:34], seen[34:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(17))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != sorted(epochs[2])
    assert sizes == [7, 7, 3] * 3


def test_the_history_is_the_mean_loss_of_an_image(run: Fit, data: tuple[Tensor, Tensor]) -> None:
    still = replace(SETTINGS, learning_rate=1e-30)
    model, history = run(settings=still)
    expected = cross_entropy(model, *data, torch.Generator()).item()
    assert history == pytest.approx([expected] * 3, rel=1e-5)


def test_the_learning_rate_falls_to_zero_along_a_cosine(run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def spying(self: torch.optim.Adam, *arguments: Any, **named: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", spying)
    run()
    cosine = torch.arange(9) * torch.pi / 9
    assert rates == pytest.approx((1e-2 * (1 + cosine.cos()) / 2).tolist(), rel=1e-5)


def test_a_perturbation_is_applied_to_every_batch(run: Fit) -> None:
    def black(images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(images)

    sums: list[float] = []

    def spying(
        model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, _: float
    ) -> Tensor:
        sums.append(images.sum().item())
        return cross_entropy(model, images, labels, generator)

    run(loss=spying, perturbation=black)
    assert sums == [0.0] * 9


def test_progress_is_shown_and_starts_where_the_run_goes_on(run: Fit, progress: Progress) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(loss=interrupted_after(cross_entropy, 7))
    (first,) = progress.tasks
    assert (first.description, first.total, first.completed) == ("toy", 3, 2)
    _, history = run()
    second = progress.tasks[1]
    assert (second.total, second.completed) == (3, 3)
    assert second.fields["note"] == f"loss {history[-1]:.3f}"
    run()
    assert progress.tasks[2].completed == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 4}, "epochs"),
        ({"batch_size": 8}, "batch_size"),
        ({"learning_rate": 2e-2}, "learning_rate"),
        ({"seed": 4}, "seed, start"),
        ({"seed": 4, "epochs": 4}, "epochs, seed, start"),
    ],
)
def test_other_settings_are_refused(run: Fit, change: dict[str, Any], named: str) -> None:
    run()
    with pytest.raises(AbsynthError, match=f"other {named};"):
        run(settings=replace(SETTINGS, **change))


def test_other_images_labels_or_perturbations_are_refused(run: Fit, data: tuple[Tensor, Tensor]) -> None:
    images, labels = data
    run()
    with pytest.raises(AbsynthError, match="other data, images;"):
        run(images=images[:-1], targets=labels[:-1])
    with pytest.raises(AbsynthError, match="other data;"):
        run(images=images.flip(0))
    with pytest.raises(AbsynthError, match="other data;"):
        run(targets=1 - labels)
    with pytest.raises(AbsynthError, match="other perturbed;"):
        run(perturbation=augment)
    run(images=images.clone(), targets=labels.clone())


def test_another_network_is_refused(run: Fit) -> None:
    run()
    with pytest.raises(AbsynthError, match="other start;"):
        run(lambda: CNN(2))
    with pytest.raises(AbsynthError, match="another network"):
        run(lambda: nn.Sequential(linear()))


def flip_a_weight(content: bytes, state: dict[str, Any]) -> bytes:
    place = content.index(state["model"]["1.weight"].numpy().tobytes())
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def damages(path: Path) -> dict[str, Callable[[], Any]]:
    content = path.read_bytes()
    state = torch.load(path, weights_only=True)
    return {
        "empty": lambda: path.write_bytes(b""),
        "cut short": lambda: path.write_bytes(content[: len(content) // 2]),
        "last bytes missing": lambda: path.write_bytes(content[:-20]),
        "a flipped bit": lambda: path.write_bytes(flip_a_weight(content, state)),
        "text": lambda: path.write_text("hello\n"),
        "a pickle's end": lambda: path.write_bytes(b"\x80\x02."),
        "a list": lambda: torch.save([1, 2], path),
        "no signature": lambda: torch.save({**state, "signature": 3}, path),
        "no optimizer": lambda: torch.save(
            {name: state[name] for name in state if name != "optimizer"}, path
        ),
        "a whole module": lambda: torch.save(linear(), path),
    }


@pytest.mark.parametrize(
    "damage",
    [
        "empty",
        "cut short",
        "last bytes missing",
        "a flipped bit",
        "text",
        "a pickle's end",
        "a list",
        "no signature",
        "no optimizer",
        "a whole module",
    ],
)
def test_a_damaged_checkpoint_is_refused(run: Fit, tmp_path: Path, damage: str) -> None:
    run()
    damages(tmp_path / "run" / "model.pt")[damage]()
    with pytest.raises(AbsynthError, match=r"checkpoint .*model\.pt is damaged; delete it"):
        run()


def test_nothing_but_the_checkpoint_is_left(run: Fit, tmp_path: Path) -> None:
    run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.pt"]


def test_there_must_be_images(run: Fit, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(AbsynthError, match="no training images for toy"):
        run(images=data[0][:0], targets=data[1][:0])


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}]
)
def test_senseless_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AbsynthError, match="at least 1 epoch"):
        replace(SETTINGS, **change)


ADVERSARY = Adversary(epsilon=0.2, steps=3, warm_up=0.5)


def test_an_adversary_gets_every_batch_and_the_share_done(
    run: Fit, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    attack = Adversary.__call__

    def spying(self: Adversary, model: nn.Module, images: Tensor, *given: Any) -> Tensor:
        shares.append(given[-1])
        return attack(self, model, images, *given)

    distances: list[float] = []

    def measuring(
        model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, share: float
    ) -> Tensor:
        assert share == shares[-1]
        nearest = (images[:, None] - data[0][None]).abs().flatten(2).amax(2).amin(1)
        distances.append(nearest.max().item())
        return cross_entropy(model, images, labels, generator)

    monkeypatch.setattr(Adversary, "__call__", spying)
    run(loss=measuring, adversary=ADVERSARY)
    assert shares == pytest.approx([step / 9 for step in range(9)])
    assert distances == pytest.approx([min(0.2, 0.2 * step / 4.5) for step in range(9)], abs=1e-6)


def good_after(epochs: int, seen: list[float] | None = None) -> Callable[[nn.Module, float], bool]:
    def finished(model: nn.Module, share: float) -> bool:
        assert not model.training
        if seen is not None:
            seen.append(share)
        return share >= epochs / 3

    return finished


def test_training_stops_when_it_is_finished(run: Fit, progress: Progress, tmp_path: Path) -> None:
    shares: list[float] = []
    _, whole_history = run(folder="whole")
    model, history = run(folder="early", finished=good_after(2, shares))
    assert shares == pytest.approx([1 / 3, 2 / 3])
    assert history == whole_history[:2]
    assert not model.training
    assert progress.tasks[1].completed == progress.tasks[1].total == 2
    again, again_history = run(
        loss=interrupted_after(cross_entropy, 0), folder="early", finished=good_after(2)
    )
    assert same(again, model)
    assert again_history == history


def test_the_last_epoch_is_the_last_whatever_finished_says(run: Fit) -> None:
    shares: list[float] = []
    model, history = run(finished=good_after(9, shares))
    assert len(history) == 3
    assert shares == pytest.approx([1 / 3, 2 / 3])
    assert same(model, run(folder="plain")[0])


@pytest.mark.parametrize("calls", [2, 3, 5])
def test_an_interrupted_run_under_attack_ends_and_stops_the_same(run: Fit, calls: int) -> None:
    given: dict[str, Any] = {"perturbation": augment, "adversary": ADVERSARY, "finished": good_after(2)}
    whole, whole_history = run(folder="whole", **given)
    with pytest.raises(KeyboardInterrupt):
        run(linear, interrupted_after(cross_entropy, calls), folder="parts", **given)
    torch.rand(11)
    resumed, resumed_history = run(folder="parts", **given)
    assert same(resumed, whole)
    assert resumed_history == whole_history
    assert len(whole_history) == 2


def test_a_run_interrupted_while_it_is_measured_ends_the_same(run: Fit) -> None:
    def interrupted(model: nn.Module, share: float) -> bool:
        raise KeyboardInterrupt

    whole, _ = run(folder="whole", finished=good_after(1))
    with pytest.raises(KeyboardInterrupt):
        run(folder="parts", finished=interrupted)
    assert same(run(folder="parts", finished=good_after(1))[0], whole)


def test_other_adversaries_are_refused_and_none_is_stored_where_there_is_none(
    run: Fit, tmp_path: Path
) -> None:
    run()
    stored = torch.load(tmp_path / "run" / "model.pt", weights_only=True)["signature"]
    assert sorted(stored) == sorted([*vars(SETTINGS), "data", "images", "perturbed", "start"])
    with pytest.raises(AbsynthError, match="other adversary;"):
        run(adversary=ADVERSARY)
    run(folder="attacked", adversary=ADVERSARY)
    for other in (None, replace(ADVERSARY, epsilon=0.3)):
        with pytest.raises(AbsynthError, match="other adversary;"):
            run(folder="attacked", adversary=other)


@dataclass(frozen=True)
class Weighted:
    """The cross-entropy times a growing weight."""

    weight: float

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, share: float
    ) -> Tensor:
        return self.weight * (1 + share) * cross_entropy(model, images, labels, generator)


def test_the_settings_of_a_loss_are_part_of_a_run(run: Fit, tmp_path: Path) -> None:
    _, history = run(loss=Weighted(2.0))
    _, again_history = run(loss=Weighted(2.0))
    assert again_history == history
    stored = torch.load(tmp_path / "run" / "model.pt", weights_only=True)["signature"]
    assert stored["loss"] == {"weight": 2.0}
    for other in (Weighted(3.0), cross_entropy):
        with pytest.raises(AbsynthError, match="other loss;"):
            run(loss=other)
    run(folder="plain")
    with pytest.raises(AbsynthError, match="other loss;"):
        run(loss=Weighted(2.0), folder="plain")


def test_each_vae_sees_its_own_class_alone(tmp_path: Path, progress: Progress) -> None:
    grey = torch.tensor([0.05, 0.95])
    labels = torch.arange(24) % 2
    images = grey[labels][:, None, None, None].expand(-1, 1, 28, 28) + 0.02 * torch.randn(24, 1, 28, 28)
    settings = TrainingSettings(epochs=12, batch_size=6, learning_rate=1e-2, seed=0)
    vaes, histories = train_vaes(
        images.clamp(0, 1), labels, settings, classes=2, folder=tmp_path, progress=progress
    )
    for vae, level in zip(vaes, grey, strict=True):
        decoded = vae.decoder(torch.zeros(1, 8))
        assert (decoded.mean() - level).abs() < 0.15
    assert [len(history) for history in histories] == [12, 12]
    assert all(history[-1] < history[0] for history in histories)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae-0.pt", "vae-1.pt"]
    assert not torch.equal(vaes[0].encoder.layers[0].weight, vaes[1].encoder.layers[0].weight)


def test_a_class_without_images_is_named(tmp_path: Path, progress: Progress) -> None:
    images, labels = torch.rand(3, 1, 28, 28), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(AbsynthError, match="VAE of class 1"):
        train_vaes(images, labels, SETTINGS, classes=2, folder=tmp_path, progress=progress)


def test_emphasis_weights_images_by_their_own_loss(make_images: Callable[..., Tensor]) -> None:
    vae, images = VAE(), make_images(5)

    def value(emphasis: float) -> Tensor:
        return variational(vae, images, torch.ones(5), torch.Generator().manual_seed(1), emphasis=emphasis)

    losses = elbo_losses(vae, images, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(value(0.0), losses.mean())
    torch.testing.assert_close(value(2.0), (losses**3).sum() / (losses**2).sum())
    # The weights are constants: the gradient is that of the weighted sum alone.
    (gradient,) = torch.autograd.grad(value(1.0), vae.decoder.layers[0].weight)
    weighted = (losses.detach() * losses).sum() / losses.detach().sum()
    (expected,) = torch.autograd.grad(weighted, vae.decoder.layers[0].weight)
    torch.testing.assert_close(gradient, expected)
