"""Any number of images is classified within the memory that is allowed."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.memory import MEMORY_VARIABLE, memory_limit
from absynth.models import prototypes
from absynth.models.cnn import CNN
from absynth.models.vae import Decoder

CLASSIFY = """
import ctypes, re, sys
from dataclasses import replace
from pathlib import Path
import torch
import absynth
from absynth.data import load_dataset
from absynth.inference import ABS
from absynth.models.front import unwrap

def most_memory():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

name, settings, count = sys.argv[1:]
model = absynth.load(name, settings=settings or None)
inner = unwrap(model)
if isinstance(inner, ABS):
    inner.settings = replace(inner.settings, steps=1)  # as all steps take the same memory
images = load_dataset("mnist", "test")[0]
images = torch.cat([images] * (1 + int(count) // len(images)))[:int(count)]
with torch.no_grad():
    model(images[:1])
    # What loading has freed would hide what the call takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = most_memory()
    model(images)
print(most_memory() - before)
"""
LINUX = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="the peak is read from /proc, after memory that was freed is given back by glibc",
)


def extra_memory(name: str, settings: str, count: int, megabytes: int | None = None) -> int:
    """The bytes that classifying so many images takes beyond the loaded model, in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != MEMORY_VARIABLE}
    if megabytes is not None:
        environment[MEMORY_VARIABLE] = str(megabytes)
    command = [sys.executable, "-c", CLASSIFY, name, settings, str(count)]
    return int(subprocess.check_output(command, env=environment, text=True))


@LINUX
@pytest.mark.parametrize(
    ("name", "count"),
    # the search takes long, so a quarter of the images must do with a quarter of the memory
    [("cnn", 10_000), ("codebook-binary-abs", 10_000), ("abs", 2_500)],
)
def test_ten_thousand_images_at_once_need_less_than_two_gigabytes(name: str, count: int) -> None:
    assert extra_memory(name, "", count) < 2e9 * count / 10_000


@LINUX
@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [("cnn", "", 2000), ("codebook-abs", "", 500), ("abs", "", 500), ("abs", "paper", 500)],
)
def test_a_smaller_limit_is_kept_too(name: str, settings: str, count: int) -> None:
    assert extra_memory(name, settings, count, megabytes=100) < 100e6


def test_smaller_pieces_change_nothing(
    make_decoder: Callable[[int], Decoder],
    make_images: Callable[[int], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prototypes, "SMALL_CODEBOOK", 10)
    codebook = CodebookABS([make_decoder(seed) for seed in range(3)], draw_latents(50))
    search = SearchSettings(method="quasi-newton", steps=2, fold_batch_norm=True)
    models, images = [CNN().eval(), codebook, ABS(codebook, search)], make_images(7)
    models[-1].prepare()
    with torch.no_grad():
        expected = [model(images) for model in models]
        monkeypatch.setenv(MEMORY_VARIABLE, "1")
        for model, logits in zip(models, expected, strict=True):
            torch.testing.assert_close(model(images), logits)
            assert model(images[:0]).shape == (0, logits.shape[1])


@pytest.mark.parametrize("value", ["", "0", "-5", "2 GB"])
def test_a_limit_that_is_no_number_of_megabytes(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, value)
    with pytest.raises(AbsynthError, match="number of megabytes"):
        memory_limit()
