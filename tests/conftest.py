"""What the tests share: small decoders, a progress display that shows nothing, and a Ray cluster."""

from __future__ import annotations

import functools
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

import absynth.zoo
from absynth.cli import main
from absynth.models.pretrained import PretrainedModel, load_folder
from absynth.models.vae import Decoder
from absynth.progress import Progress, progress_display

if TYPE_CHECKING:
    from absynth.engine.cluster import RayEngine

TOOLS = Path(__file__).parents[1] / "docs" / "tools"
CLUSTER = Path(__file__).with_name("small_cluster.py")
TOKEN = secrets.token_hex(32)
"""One for all clusters, since Ray keeps the one that it found when it was imported."""

hypothesis.settings.register_profile("absynth", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("absynth")


@pytest.fixture(autouse=True)
def _seed_the_global_generator() -> None:
    torch.manual_seed(0)


@pytest.fixture
def progress() -> Iterator[Progress]:
    with progress_display(False) as display:
        yield display


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end as a user's mistake does, and returns the line that it ends with."""

    def fails(*arguments: str, status: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["absynth", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == status, arguments
        assert "Traceback" not in printed.err
        assert printed.out == ""
        return printed.err

    return fails


@pytest.fixture
def load_tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Imports a module of docs/tools from the folder of its page; in the end none of them is left."""
    before = set(sys.modules)

    def load(folder: str, name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(TOOLS / folder))
        return import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(TOOLS)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def _loaded() -> Callable[[Path, str], PretrainedModel]:
    """Loads a folder once for all tests."""
    return functools.cache(lambda folder, changes: load_folder(folder, json.loads(changes)))


@pytest.fixture
def shipped_once(_loaded: Callable[[Path, str], PretrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped models come from memory: loading one takes a second, and most commands and pages do."""

    def load(folder: Path, changes: dict[str, Any] | None = None) -> PretrainedModel:
        if folder.name in absynth.zoo.model_names() and folder.parent.name == "weights":
            return _loaded(folder, json.dumps(changes or {}, sort_keys=True))
        return load_folder(folder, changes)

    monkeypatch.setattr(absynth.zoo, "load_folder", load)


@pytest.fixture(scope="session")
def make_decoder() -> Callable[[int], Decoder]:
    """Decoders of random weights and random batch-norm statistics, whose images differ visibly."""

    def make(seed: int, latents: int = 8) -> Decoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            decoder = Decoder(latents)
            for layer in decoder.layers:
                if isinstance(layer, nn.BatchNorm2d):
                    nn.init.uniform_(layer.weight, 0.5, 1.5)
                    nn.init.normal_(layer.bias, std=0.3)
                    layer.momentum = 1.0
            nn.init.normal_(decoder.layers[-2].weight, std=0.3)
            decoder(torch.randn(100, latents))
        return decoder.eval()

    return make


@pytest.fixture(scope="session")
def make_images() -> Callable[[int], Tensor]:
    """Images of independent uniform pixels."""

    def make(count: int, seed: int = 0) -> Tensor:
        return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a result store that counts: neither the seconds nor what a killed run was writing."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("[!.]*"))
            if path.is_file() and path.parent.name != "seconds"
        }

    return read


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster in a process of its own, so that this one can join and leave it by a token of their own.

    Ray looks for the token when it is imported, so no test may do that without this fixture.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        # Ray's workers let every other process go first, so that on a busy machine they would hardly run
        patch.setenv("RAY_worker_niceness", "0")
        process = subprocess.Popen(
            [sys.executable, str(CLUSTER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            try:
                yield process.stdout.readline().strip()
            finally:
                process.stdin.close()


@pytest.fixture(scope="module")
def engine(address: str) -> Iterator[RayEngine]:
    """A connection that all tests share, and with it the workers; the command line makes use of it, too."""
    import ray

    from absynth.engine.cluster import connect

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    with connect() as engine:
        yield engine
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a worker has, because the last bits of a sum depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
