"""Pictures that are none, or too much, on the command line: exit status 2 and one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from absynth.models.prototypes import NearestNeighbour


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return str(NearestNeighbour(images, torch.arange(2)).save_pretrained(tmp_path_factory.mktemp("model")))


ARRAYS = {
    "nan": (np.full((28, 28), np.nan), "not finite"),
    "inf": (np.full((28, 28), np.inf), "not finite"),
    "minus-inf": (np.full((28, 28), -np.inf), "not finite"),
    "empty": (np.zeros((0, 28)), "is empty"),
    "bright": (np.full((28, 28), 1e30), "from 0 to 1e+30"),
    "line": (np.zeros(784), "has the shape (784,)"),
    "many": (np.zeros((2, 28, 28, 1)), "has the shape (2, 28, 28, 1)"),
    "wide": (np.zeros((1, 64_000_001), np.uint8), "is too large (64000001x1 pixels)"),
}


@pytest.mark.parametrize("name", ["huge", "nothing", "pipe", *ARRAYS])
def test_a_bad_picture_ends_with_one_line(
    name: str, model: str, tmp_path: Path, fails: Callable[..., str]
) -> None:
    path = tmp_path / (f"{name}.npy" if name in ARRAYS else f"{name}.png")
    if name in ARRAYS:
        array, sentence = ARRAYS[name]
        np.save(path, array)
    elif name == "huge":
        Image.new("1", (8001, 8000)).save(path)
        sentence = "is too large (8001x8000 pixels)"
    elif name == "nothing":
        path.touch()
        sentence = "cannot be read as a picture"
    else:
        os.mkfifo(path)
        sentence = "is not a file"
    said = fails("classify", str(path), "--model", model, status=1)
    assert sentence in said
    assert len(said.splitlines()) == 1
