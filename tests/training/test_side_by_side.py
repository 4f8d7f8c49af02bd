"""The VAEs of an ABS trained as jobs: the same files as in this process, whoever is killed on the way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from absynth.cli import main
from absynth.engine import Engine, LocalEngine
from absynth.errors import AbsynthError, FailedTasksError
from absynth.inference import codebook
from absynth.models.vae import VAE
from absynth.progress import Progress, progress_display
from absynth.training import side_by_side
from absynth.training.augmentation import distort
from absynth.training.settings import TrainingSettings
from absynth.training.side_by_side import fit_side_by_side
from absynth.training.vaes import train_vaes

if TYPE_CHECKING:
    from absynth.engine.cluster import RayEngine

SETTINGS = TrainingSettings(epochs=4, batch_size=5, learning_rate=1e-2, seed=3, emphasis=1.0)
PROTOTYPES = 40
DRIVER = f"""
from absynth.cli import main
from absynth.training import side_by_side
from absynth.inference import codebook

codebook.CODEBOOK_SIZE, side_by_side.PIECE = {PROTOTYPES}, 0.0
main()
"""
"""The command line whose jobs end at every checkpoint."""

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra 'ray'")
pytestmark = pytest.mark.usefixtures("one_thread")

Train = Callable[..., tuple[list[VAE], list[list[float]]]]


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs end at every checkpoint."""
    monkeypatch.setattr(side_by_side, "PIECE", 0.0)
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", PROTOTYPES)


@pytest.fixture
def train(progress: Progress) -> Train:
    """Trains three VAEs of images of 16 × 16 pixels, one of them of few images."""
    images = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 11 + [1] * 10 + [2] * 3)

    def train(folder: Path, engine: Engine | None = None, **changes: Any) -> Any:
        given = {"settings": SETTINGS, "progress": progress, "perturbation": distort} | changes
        if engine is not None:
            given["fit_vaes"] = partial(fit_side_by_side, engine)
        return train_vaes(images, labels, classes=3, folder=folder, **given)

    return train


def same(first: list[VAE], second: list[VAE]) -> bool:
    return all(
        torch.equal(value, other.state_dict()[name])
        for one, other in zip(first, second, strict=True)
        for name, value in one.state_dict().items()
    )


def test_pieces_leave_the_same_checkpoints_weights_and_bars(
    train: Train,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, train_on = [], side_by_side.train_on

    def spying(training: Any, name: str, *given: Any) -> bytes:
        trained.append(name)
        return train_on(training, name, *given)

    monkeypatch.setattr(side_by_side, "train_on", spying)
    with progress_display(False) as there, progress_display(False) as here:
        pieces, piece_histories = train(tmp_path / "pieces", LocalEngine(), progress=there)
        whole, histories = train(tmp_path / "whole", progress=here)
        for one, other in zip(there.tasks, here.tasks, strict=True):
            assert (one.description, one.total, one.completed) == (
                other.description,
                other.total,
                other.completed,
            )
            assert one.fields == other.fields
    assert trained == [f"vae-{label}.pt" for label in range(3) for _ in range(SETTINGS.epochs)]
    assert same(pieces, whole)
    assert not any(module.training for vae in pieces for module in vae.modules())
    assert piece_histories == histories
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")


def test_vaes_to_go_on_from_and_weights_of_images_travel(train: Train, tmp_path: Path) -> None:
    start, _ = train(tmp_path / "start")
    given = {"start": start, "importance": torch.arange(24) + 1.0}
    pieces, _ = train(tmp_path / "pieces", LocalEngine(), **given)
    assert same(pieces, train(tmp_path / "whole", **given)[0])
    assert not same(pieces, train(tmp_path / "fresh")[0])


@pytest.mark.parametrize("order", [(LocalEngine(), None), (None, LocalEngine())], ids=["jobs first", "last"])
def test_each_engine_goes_on_with_what_the_other_began(
    train: Train, tmp_path: Path, order: tuple[Engine | None, Engine | None]
) -> None:
    whole, histories = train(tmp_path / "whole")
    left = [13]

    def interrupted(images: Tensor, generator: torch.Generator) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return distort(images, generator)

    first, then = order
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", first, perturbation=interrupted)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["vae-0.pt", "vae-1.pt"]
    resumed, resumed_histories = train(tmp_path / "cut", then)
    assert same(resumed, whole)
    assert resumed_histories == histories


def test_a_class_that_fails_is_told_when_the_others_are_done(
    train: Train, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    def failing(images: Tensor, generator: torch.Generator) -> Tensor:
        if len(images) == 10:
            raise RuntimeError("the images are out of order")
        return distort(images, generator)

    settings = replace(SETTINGS, batch_size=20)
    with pytest.raises(FailedTasksError, match="RuntimeError: the images are out of order") as raised:
        train(tmp_path / "cut", LocalEngine(), perturbation=failing, settings=settings)
    assert [name for name, _ in raised.value.failures] == ["VAE of class 1"]
    train(tmp_path / "whole", settings=settings)
    left, whole = contents(tmp_path / "cut"), contents(tmp_path / "whole")
    assert left == {name: whole[name] for name in ("vae-0.pt", "vae-2.pt")}


def test_a_checkpoint_of_another_run_is_told_by_its_name(train: Train, tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(AbsynthError, match=rf"{tmp_path}/vae-0\.pt belongs to a run with other perturbed"):
        train(tmp_path, LocalEngine(), perturbation=None)
    (tmp_path / "vae-1.pt").write_bytes(b"nonsense")
    with pytest.raises(AbsynthError, match=rf"{tmp_path}/vae-1\.pt is damaged"):
        train(tmp_path, LocalEngine())


@needs_ray
def test_a_killed_worker_is_replaced(train: Train, engine: RayEngine, tmp_path: Path) -> None:
    mark = tmp_path / "killed"

    def deadly(images: Tensor, generator: torch.Generator) -> Tensor:
        import os
        import signal

        if len(images) == 10 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return images

    settings = replace(SETTINGS, batch_size=20)
    pieces, histories = train(tmp_path / "ray", engine, perturbation=deadly, settings=settings)
    assert mark.exists()
    whole, whole_histories = train(tmp_path / "whole", perturbation=deadly, settings=settings)
    assert same(pieces, whole)
    assert histories == whole_histories


@needs_ray
def test_certified_models_train_their_vaes_on_a_cluster(
    run: Callable[..., int], engine: RayEngine, address: str, data: Path, tmp_path: Path
) -> None:
    command = (
        "train",
        "certified-abs",
        "--data",
        data,
        "--epochs",
        "2",
        "--rounds",
        "1",
        "--prototypes",
        "9",
    )
    cluster = ("--engine", "ray", "--address", address)
    assert run(*command, "--quiet", *cluster, "--out", tmp_path / "ray") == 0
    assert run(*command, "--quiet", "--out", tmp_path / "local") == 0
    there = trained(tmp_path / "ray")
    assert len([name for name in there if "vae-" in name]) == 2
    assert there == trained(tmp_path / "local")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 30 images of two classes."""
    path = tmp_path_factory.mktemp("data") / "two.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(30) % 2)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in this process; its exit status."""

    def run(*command: object) -> int:
        monkeypatch.setattr(sys, "argv", ["absynth", *map(str, command)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def trained(folder: Path) -> dict[str, bytes]:
    """What training left, but for the config, in which the command stands."""
    files = (path for path in folder.rglob("[!.]*") if path.is_file() and path.name != "config.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@needs_ray
def test_a_killed_driver_goes_on_with_either_engine(
    run: Callable[..., int], engine: RayEngine, address: str, data: Path, tmp_path: Path
) -> None:
    command = (
        "train",
        "abs",
        "--data",
        data,
        "--epochs",
        "20",
        "--batch-size",
        "6",
        "--rounds",
        "1",
        "--quiet",
    )
    cluster = ("--engine", "ray", "--address", address)
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *command, *cluster, "--out", killed])
    while process.poll() is None and not list(killed.glob("checkpoints/[!.]*")):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    begun = trained(killed)
    shutil.copytree(killed, tmp_path / "other")
    assert run(*command, "--out", tmp_path / "whole") == 0
    assert run(*command, "--out", tmp_path / "other") == 0
    assert run(*command, "--engine", "ray", "--out", killed) == 0
    whole = trained(tmp_path / "whole")
    assert begun
    assert all(whole[name] != content for name, content in begun.items())
    assert len([name for name in whole if name.endswith(".pt")]) == 4
    assert trained(killed) == trained(tmp_path / "other") == whole
