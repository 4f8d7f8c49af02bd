"""Classifiers by name: the zoo, saved folders and functions in a user's file."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from absynth.errors import AbsynthError
from absynth.evaluate.models import check_name, identity, load_classifier
from absynth.evaluate.own import find_function, own_modules
from absynth.evaluate.tasks import weights_hash
from absynth.models.cnn import CNN
from absynth.models.pretrained import device_of

GOOD = """
import torch
from torch import nn

def make_model():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_a_users_model_is_ready_for_use(file: Path) -> None:
    model = load_classifier(f"{file}:make_model")
    assert not any(module.training for module in model.modules())
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert device_of(model) == torch.device("cpu")


def test_random_weights_are_the_same_each_time_and_the_callers_generators_untouched(file: Path) -> None:
    before = torch.get_rng_state()
    first, second = (load_classifier(f"{file}:make_model") for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert identity(f"{file}:make_model", first) == identity(f"{file}:make_model", second)


def test_another_file_is_another_model_even_with_the_same_weights(file: Path) -> None:
    name = f"{file}:make_model"
    before = identity(name, load_classifier(name))
    file.write_text(GOOD.replace("nn.Linear(784, 10))", "nn.Linear(784, 10), nn.Tanh())"))
    assert identity(name, load_classifier(name)) != before
    file.write_text(GOOD + "# the same, with a comment\n")
    assert identity(name, load_classifier(name)) != before


def test_another_function_is_another_model_even_with_the_same_weights(file: Path) -> None:
    file.write_text(GOOD + "make_other = make_model\n")
    model = load_classifier(f"{file}:make_model")
    assert identity(f"{file}:make_model", model) != identity(f"{file}:make_other", model)


def test_modules_beside_the_file_can_be_imported(file: Path) -> None:
    (file.parent / "beside_the_file.py").write_text("CLASSES = 7\n")
    file.write_text("import beside_the_file\n" + GOOD.replace("10", "beside_the_file.CLASSES"))
    path = list(sys.path)
    try:
        assert load_classifier(f"{file}:make_model")(torch.zeros(1, 1, 28, 28)).shape == (1, 7)
    finally:
        sys.modules.pop("beside_the_file", None)
    assert sys.path == path


def test_names_of_the_zoo_and_saved_folders(tmp_path: Path) -> None:
    model = CNN(2)
    model.save_pretrained(tmp_path / "saved")
    for name in ("cnn", str(tmp_path / "saved")):
        check_name(name)
        loaded = load_classifier(name)
        assert isinstance(loaded, CNN)
        assert identity(name, loaded) == weights_hash(loaded)
    with pytest.raises(AbsynthError, match="no model 'resnet'"):
        check_name("resnet")
    with pytest.raises(AbsynthError, match="no model 'resnet'"):
        load_classifier("resnet")


def test_only_a_file_with_a_function_is_a_function() -> None:
    assert find_function("a/b.py:make") == (Path("a/b.py"), "make")
    assert find_function("abs") is None
    assert find_function("folder:with:colons") is None
    for name in ("a/b.py", "a/b.py:"):
        with pytest.raises(AbsynthError, match=r"names no function; .* a/b\.py:make_model"):
            find_function(name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for act in (check_name, load_classifier):
        with pytest.raises(AbsynthError, match=r"missing\.py cannot be read \(No such file"):
            act(f"{tmp_path / 'missing.py'}:make_model")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("make_other = 1", "has no function 'make_model'"),
        ("make_model = 1", "has no function 'make_model'"),
        ("\ndef make_model(:\n", "raised SyntaxError in line 2"),
        ("\n\nraise RuntimeError('a\\n b')", "raised RuntimeError in line 3: a b; mend it"),
        ("def make_model():\n    return 1 / 0", "raised ZeroDivisionError in line 2"),
        (
            "def make_model(size):\n    return size",
            r"cannot be called without arguments \(.*'size'\); name a function without arguments",
        ),
        (
            GOOD.replace("make_model", "make") + "make_model = make()\n",
            "is a Sequential, a model itself; name a function without arguments",
        ),
        (
            "def make_model():\n    return 'model'",
            "made a str; .*torch.nn.Module, or a function",
        ),
        (
            GOOD + "class Net(nn.Linear):\n    pass\ndef make_model():\n    return Net",
            r"mine.py:make_model made the class Net rather than a model; return Net\(...\)",
        ),
        (
            GOOD.replace("nn.Sequential(", "nn.Sequential(nn.Linear(2, 2, device='meta'), ", 1),
            r"mine.py:make_model is on the device 'meta'",
        ),
        ("from .net import M", r"raised ModuleNotFoundError in line 1: No module named 'net'; mend it"),
        (GOOD.replace("784", "783"), "raised RuntimeError: mat1 and mat2"),
        (
            GOOD.replace("nn.Flatten()", "nn.Identity()").replace("784", "28"),
            r"mine.py:make_model answers 2 images with the shape \(2, 1, 28, 10\); models answer",
        ),
        (
            GOOD + "class Two(nn.Module):\n    def forward(self, x):\n        return x, x\nmake_model = Two",
            "with a tuple whose logits are not plain to see",
        ),
        (
            GOOD
            + "class No(nn.Module):\n    def forward(self, x):\n        return x.numpy()\nmake_model = No",
            r"answers 2 images with the shape \(2, 1, 28, 28\); models answer",
        ),
    ],
)
def test_what_goes_wrong_in_a_users_file_is_told_in_one_sentence(
    file: Path, source: str, sentence: str
) -> None:
    file.write_text(source)
    with pytest.raises(AbsynthError, match=sentence):
        load_classifier(f"{file}:make_model")


def test_a_users_files_are_told_from_installed_modules(tmp_path: Path) -> None:
    (tmp_path / "makes_one.py").write_text(
        "import json\nimport lies_beside, lies_deeper\nfrom torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    (tmp_path / "lies_beside.py").write_text("")
    (tmp_path / "lies_deeper").mkdir()
    (tmp_path / "lies_deeper" / "__init__.py").write_text("")
    load_classifier(f"{tmp_path}/makes_one.py:make")
    names = {name_of(module) for module in own_modules()}
    assert {"makes_one.py", "lies_beside.py", "lies_deeper/__init__.py"} <= names
    assert not {"torch/__init__.py", "json/__init__.py"} & names


def name_of(module: Any) -> str:
    file = Path(getattr(module, "__file__", None) or "none")
    return f"{file.parent.name}/{file.name}" if file.name == "__init__.py" else file.name


ALTERS = """
import os, warnings
import numpy as np
import torch
from torch import nn
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.set_float32_matmul_precision("medium")
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
torch.set_num_threads(torch.get_num_threads() + 1)
np.seterr(all="raise")
warnings.simplefilter("ignore")
os.chdir("elsewhere")
import my

class Net(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2]

def make():
    torch.set_default_device("meta")
    assert my.Net is Net
    return Net()

def make_none():
    make()
    raise ValueError("no model")
"""


def settings() -> tuple[object, ...]:
    """What a user's file could set for the whole process."""
    return (
        Path.cwd(),
        np.geterr(),
        list(warnings.filters),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        torch.backends.cudnn.benchmark,
    )


def test_a_users_file_alters_the_process_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "my.py").write_text(ALTERS)
    (tmp_path / "plain.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    before, names = settings(), ("my.py:make", "plain.py:make_model")
    plain = load_classifier(names[1])
    first, second = (load_classifier(name) for name in names)
    assert settings() == before
    with pytest.raises(AbsynthError, match="no model"):
        load_classifier("my.py:make_none")
    assert settings() == before
    assert first(torch.ones(3, 1, 28, 28)).shape == (3, 2)
    assert identity(names[1], second) == identity(names[1], plain)
