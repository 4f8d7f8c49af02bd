"""The same tasks on a real Ray cluster of two workers: equal records, whoever is killed on the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import absynth
from absynth.certify import Method
from absynth.certify.provers.ablation import Ablation
from absynth.certify.provers.smoothing import Smoothing
from absynth.cli import main
from absynth.engine import Engine, Job, LocalEngine, run_jobs
from absynth.engine.cluster import RayEngine, connect
from absynth.errors import AbsynthError
from absynth.evaluate import certification
from absynth.evaluate.certification import CertificateRecord, run_certification
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import NORMS, Norm
from absynth.progress import Progress

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra 'ray'"),
    pytest.mark.usefixtures("one_thread"),
]

MODELS = """
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from beside import darkness

MARK = Path("MARK")
DRIVER = os.getpid()

class Brightness(nn.Module):
    def __init__(self, pause=0.0, deadly=False, broken=False, noisy=False, small=False):
        super().__init__()
        self.pause, self.deadly, self.broken = pause, deadly, broken
        self.noisy, self.small = noisy, small

    def forward(self, images):
        time.sleep(self.pause)
        if self.noisy:
            return darkness(images) + torch.randn(len(images), 2)
        if self.small and len(images) > 16:
            raise ValueError("too many at once")
        if self.broken and images.requires_grad and images.sum() > 0:
            raise RuntimeError("the gradient is out of order")
        if self.deadly and os.getpid() != DRIVER and not MARK.exists():
            MARK.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return darkness(images)

def make_model():
    return Brightness()

def make_slow():
    return Brightness(pause=0.005)

def make_deadly():
    return Brightness(deadly=True)

def make_broken():
    return Brightness(broken=True)

def make_noisy():
    return Brightness(noisy=True)

def make_small():
    return Brightness(small=True)
"""

BESIDE = """
import torch

def darkness(images):
    mean = images.flatten(1).mean(1)
    return torch.stack([0.1 - mean, mean - 0.1], dim=1)
"""

LAZY = """
from torch import nn

class Lazy(nn.Module):
    def forward(self, images):
        if images.sum() > 0:
            from later import factor
            return factor(images)
        return images[:, 0, 0, :2]

def make_model():
    return Lazy()
"""

LATER = """
from beside import darkness

def factor(images):
    return 3 - darkness(images)
"""

ATTACKS = """
from beside import darkness

def brighten(model, images, labels):
    from later_still import steps
    for step in steps:
        if model(images + step).argmax(1).bool().all():
            break
    return (images + step).clamp(0, 1)

def broken(model, images, labels):
    return darkness(images)
"""

LATER_STILL = """
steps = (0.05, 0.1, 0.2)
"""

CONFIG = """
models = [{models}]
dataset = "two.npz"
images = 6
shard = 2
clean_images = 20
attacks = {{l2 = ["fgm"], linf = ["pgd"], l0 = ["salt-and-pepper"]}}
"""

TASKS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a user's models, files that they import, and a data set of two classes."""
    pytest.importorskip("tomllib", reason="reading TOML takes Python 3.11")
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_file.py").write_text(MODELS.replace('MARK")', f'{folder / "killed"}")'))
    (folder / "beside.py").write_text(BESIDE)
    (folder / "other").mkdir()
    (folder / "other" / "my_file.py").write_text(LAZY)
    (folder / "other" / "later.py").write_text(LATER)
    (folder / "other" / "my_attacks.py").write_text(ATTACKS)
    (folder / "other" / "later_still.py").write_text(LATER_STILL)
    (folder / "other" / "beside.py").write_text(BESIDE.replace("0.1", "0.2"))
    images, _ = absynth.load_dataset("mnist", "test")
    chosen = images[:40, 0].numpy()
    labels = (chosen.mean(axis=(1, 2)) > 0.1).astype(np.int64)
    np.savez(folder / "two.npz", images=(chosen * 255).astype(np.uint8), labels=labels)
    return folder


def arguments(folder: Path, out: Path, *models: str) -> list[str]:
    config = folder / f"{'-'.join(models).replace(':', '-').replace('/', '-')}.toml"
    config.write_text(CONFIG.format(models=", ".join(f'"{model}"' for model in models)))
    return ["bench", "--config", str(config), "--out", str(out), "--quiet"]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in this process, in the user's folder; its exit status."""
    monkeypatch.chdir(folder)

    def run(*command: str) -> int:
        monkeypatch.setattr(sys, "argv", ["absynth", *command])
        with pytest.raises(SystemExit) as raised:
            main()
        return int(raised.value.code or 0)

    return run


def rows(folder: Path) -> list[tuple[str, str, str, int]]:
    """What each record is of."""
    found = [row for path in (folder / "records").glob("[!.]*") for row in pq.read_table(path).to_pylist()]
    return [(row["model"], row["norm"], row["attack"], row["index"]) for row in found]


@pytest.mark.usefixtures("address")
def test_a_cluster_that_is_not_there() -> None:
    """Comes before the tests that are connected."""
    with (
        pytest.raises(AbsynthError, match=r"No Ray cluster can be reached .* start one with 'ray start"),
        connect("nowhere"),
    ):
        pass


@pytest.mark.usefixtures("engine")
def test_both_engines_write_the_same_bytes(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    models = ("my_file.py:make_model", "other/my_file.py:make_model", "cnn")
    import ray

    put, puts = ray.put, []
    monkeypatch.setattr(ray, "put", lambda value: puts.append(len(value)) or put(value))
    assert run(*arguments(folder, tmp_path / "ray", *models), "--engine", "ray") == 0
    assert len(puts) == len(models)
    assert run(*arguments(folder, tmp_path / "local", *models)) == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert len(rows(tmp_path / "ray")) == len(models) * 3 * 6
    assert len(list((tmp_path / "ray" / "seconds").iterdir())) == len(models) * TASKS


@pytest.mark.usefixtures("engine")
def test_a_killed_worker_is_replaced(
    run: Callable[..., int], folder: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    models = ("my_file.py:make_deadly",)
    assert not (folder / "killed").exists()
    assert run(*arguments(folder, tmp_path / "ray", *models), "--engine", "ray") == 0
    assert (folder / "killed").exists()
    assert run(*arguments(folder, tmp_path / "local", *models)) == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.usefixtures("engine")
def test_a_killed_driver_goes_on_where_it_was(
    run: Callable[..., int],
    folder: Path,
    address: str,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    models = ("my_file.py:make_slow",)
    command = [sys.executable, "-m", "absynth.cli", *arguments(folder, killed, *models)]
    cluster = ("--engine", "ray", "--address", address)
    process = subprocess.Popen([*command, *cluster], cwd=folder)
    while process.poll() is None and not list(killed.glob("records/[!.]*")):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list(killed.glob("records/[!.]*"))) < TASKS
    assert run(*arguments(folder, killed, *models), "--engine", "ray") == 0
    assert run(*arguments(folder, whole, *models)) == 0
    assert contents(killed) == contents(whole)
    assert len(rows(killed)) == len(set(rows(killed))) == 3 * 6


@pytest.mark.usefixtures("engine")
def test_a_failing_task_is_told_and_the_others_are_done(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = arguments(folder, tmp_path, "my_file.py:make_broken")
    assert run(*command, "--engine", "ray") == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("RuntimeError: the gradient is out of order") == 2  # one trace for each attack
    assert "l2 fgm" in errors
    assert "linf pgd" in errors
    assert "6 tasks failed, the others are done" in errors
    assert {attack for _, _, attack, _ in rows(tmp_path)} == {"salt-and-pepper"}
    assert len(rows(tmp_path)) == 6


@pytest.mark.usefixtures("engine")
def test_both_engines_refuse_the_same_models_and_go_on_with_the_others(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One answers at random, which is seen here; one raises for the clean images, where it is asked."""
    models = ("my_file.py:make_noisy", "my_file.py:make_small", "my_file.py:make_model")
    command = arguments(folder, tmp_path / "ray", *models)
    assert run(*command, "--engine", "ray") == 2
    output, errors = capsys.readouterr()
    assert "make_model" in output
    assert "make_noisy" not in output and "make_small" not in output
    assert "my_file.py:make_noisy answers at random" in errors
    assert "my_file.py:make_small raises ValueError for images of shape (20, 1, 28, 28)" in errors
    assert "too many at once" in errors and "Traceback" not in errors
    assert run(*arguments(folder, tmp_path / "local", *models)) == 2
    # the store may hold what a refused model did before
    ours = [row for row in rows(tmp_path / "ray") if row[0] == models[2]]
    assert sorted(ours) == sorted(row for row in rows(tmp_path / "local") if row[0] == models[2])
    assert len(ours) == 3 * 6
    assert {row[0] for row in rows(tmp_path / "ray")} <= set(models[1:])


@pytest.mark.usefixtures("engine")
def test_both_engines_run_the_same_attacks_of_users(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    """One of them breaks, in which it takes no other along; a worker has neither file."""
    own = ("--attack", "linf=other/my_attacks.py:brighten", "--attack", "l2=other/my_attacks.py:broken")
    command = [*arguments(folder, tmp_path / "ray", "my_file.py:make_model"), *own, "--budget", "10"]
    assert run(*command, "--engine", "ray") == 2
    errors = capsys.readouterr().err
    assert "For my_file.py:make_model in l2: The attack 'my_attacks.py:broken' answers with" in errors
    assert "Traceback" not in errors
    command[command.index(str(tmp_path / "ray"))] = str(tmp_path / "local")
    assert run(*command) == 2
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert {(norm, attack) for _, norm, attack, _ in rows(tmp_path / "ray")} == {
        ("l2", "fgm"),
        ("linf", "pgd"),
        ("linf", "my_attacks.py:brighten"),
        ("l0", "salt-and-pepper"),
    }


@pytest.mark.parametrize(
    ("method", "norms"),
    [
        (None, NORMS),
        (Smoothing(sigma=0.1, samples=300), ("l2", "l1", "linf")),
        (Ablation(kept=1, samples=300), ("l0",)),
    ],
    ids=["pairs", "smoothing", "ablation"],
)
def test_both_engines_prove_the_same_radii(
    engine: RayEngine,
    tmp_path: Path,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    method: Method | None,
    norms: tuple[Norm, ...],
) -> None:
    monkeypatch.setattr(certification, "SHARD", 5)
    generator = torch.Generator().manual_seed(0)
    model = NearestNeighbour(torch.rand(30, 1, 2, 4, generator=generator), torch.arange(30) % 3)
    images = torch.rand(20, 1, 2, 4, generator=generator)
    labels = model(images).argmax(1)

    def certify(engine: Engine, out: Path) -> list[CertificateRecord]:
        return run_certification(
            model,
            images,
            labels,
            indices=range(20),
            norms=norms,
            exact=False,
            out=out,
            progress=progress,
            engine=engine,
            method=method,
        )

    here, there = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    records = certify(engine, there)
    assert records == certify(LocalEngine(), here)
    assert there.read_bytes() == here.read_bytes()
    assert sum(record.radius > 0 for record in records) > len(records) / 4


@pytest.mark.usefixtures("engine")
def test_a_worker_has_the_threads_that_its_task_asks_for(progress: Progress) -> None:
    found: list[int] = []
    with connect(cpus=2) as engine:
        shared = engine.share(nn.Identity())
        job = Job("count", lambda _: torch.get_num_threads(), shared, (), lambda n, _: found.append(n))
        run_jobs(engine, [job], progress, progress.add_task("", note=""))
    assert found == [2]


def test_a_model_that_cannot_travel(engine: RayEngine) -> None:
    model = nn.Identity()
    model.lock = threading.Lock()
    with pytest.raises(AbsynthError, match=r"Identity cannot be sent to the workers \(TypeError: .*lock"):
        engine.share(model)


def test_a_model_of_a_package_that_workers_lack(
    engine: RayEngine, progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("from torch import nn\nclass Model(nn.Identity): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    job = Job("ask", lambda _: None, engine.share(only_here.Model()), (), lambda *_: None)
    with pytest.raises(AbsynthError, match=r"No module named 'only_here'.*install on every machine"):
        run_jobs(engine, [job], progress, progress.add_task("", note=""))


@pytest.mark.usefixtures("engine")
def test_a_task_that_is_too_large() -> None:
    with (
        pytest.raises(AbsynthError, match="No machine of the cluster has 3 CPUs and 0 GPUs"),
        connect(cpus=3),
    ):
        pass
