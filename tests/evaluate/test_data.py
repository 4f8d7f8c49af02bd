"""Which numbers the classes of a folder get, for models that are known only by what they answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from absynth.errors import AbsynthError
from absynth.evaluate.data import read_for

MODELS = """
import torch
from torch import nn

class Brightest(nn.Module):
    "The class is the row that is bright."
    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.weight * images[:, 0, : self.classes].mean(2)

def two():
    return Brightest(2)

def ten():
    return Brightest(10)

def twelve():
    return Brightest(12)

def broken():
    raise ValueError("no weights")
"""


def fill(folder: Path, names: list[str]) -> None:
    """A folder a name, with pictures of which the row of that number is bright."""
    for place, name in enumerate(names):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[int(name) if name.isdecimal() else place] = 255
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    (folder / "models.py").write_text(MODELS)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "maker", "labels"),
    [
        (["3", "7"], "ten", [3, 3, 7, 7]),
        (["10", "2", "9"], "twelve", [10, 10, 2, 2, 9, 9]),
        (["3", "7"], "two", [0, 0, 1, 1]),
        (["10", "2", "9"], "ten", [0, 0, 1, 1, 2, 2]),
    ],
)
def test_whole_numbers_below_the_number_of_classes_are_the_labels(
    names: list[str], maker: str, labels: list[int], here: Path
) -> None:
    fill(here, names)
    read = read_for([f"models.py:{maker}"], "pictures", "test")
    assert read.labels.tolist() == labels
    (remark,) = read.remarks
    assert all(f"'{name}'" in remark for name in names)
    if maker in ("two", "ten") and max(map(int, names)) >= {"two": 2, "ten": 10}[maker]:
        assert f"tells {2 if maker == 'two' else 10} apart" in remark


def test_the_names_of_the_classes_are_those_of_the_model(here: Path) -> None:
    fill(here, ["3", "7"])
    read = read_for(["models.py:ten"], "pictures", "test")
    assert read.class_names == tuple("0123456789")
    assert read_for(["cnn"], "pictures", "test").labels.tolist() == read.labels.tolist()


def test_words_are_counted_and_a_model_of_more_classes_is_told(here: Path) -> None:
    fill(here, ["cat", "dog"])
    read = read_for(["models.py:two"], "pictures", "test")
    assert (read.labels.tolist(), read.class_names, read.remarks) == ([0, 0, 1, 1], ("cat", "dog"), ())
    read = read_for(["models.py:ten"], "pictures", "test")
    assert read.labels.tolist() == [0, 0, 1, 1]
    assert "the classes 'cat', 'dog' are numbered from 0" in read.remarks[0]


def test_models_that_number_differently_are_not_compared(here: Path) -> None:
    fill(here, ["3", "7"])
    with pytest.raises(AbsynthError, match=r"'models\.py:two' tells only 2 apart"):
        read_for(["models.py:ten", "models.py:two"], "pictures", "test")
    models = ["models.py:broken", "models.py:ten"]
    assert read_for(models, "pictures", "test").labels.tolist() == [3, 3, 7, 7]


def test_an_archive_says_its_labels_itself(here: Path) -> None:
    fill(here, ["3"])
    images = np.random.default_rng(0).random((2, 16, 16)).astype("f4")
    np.savez(here / "two.npz", images=images, labels=[0, 1], class_names=["3", "7"])
    read = read_for(["models.py:ten"], "two.npz", "test")
    assert (read.labels.tolist(), read.remarks) == ([0, 1], ())
