"""What the tests share: small decoders that are no toys, and a progress display that shows nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from absynth.cli import main
from absynth.models.vae import Decoder
from absynth.progress import Progress, progress_display

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

    def fails(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["absynth", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 2, arguments
        assert "Traceback" not in printed.err
        assert printed.out == ""
        return printed.err

    return fails


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
