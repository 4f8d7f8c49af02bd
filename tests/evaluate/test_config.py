"""Benchmarks described in TOML files and changed on the command line."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from absynth.attacks import suite_attacks
from absynth.errors import AbsynthError
from absynth.evaluate.config import adapt_preset, choose_preset, read_preset
from absynth.evaluate.tasks import Preset, all_attacks, find_preset

FULL = """
models = ["cnn", "binary-cnn"]
suite = "strong"
images = 50
clean_images = 200
dataset = "fashion-mnist"
seed = 3
shard = 25

[attacks]
L2 = ["DDN", "boundary", "ddn"]
linf = "all"

[fewer_images]
boundary = 10

[thresholds]
l2 = [1, 0.5]
l1 = 8
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


@pytest.fixture
def read(file: Path) -> Any:
    pytest.importorskip("tomllib", reason="reading TOML takes Python 3.11")

    def read(text: str) -> Preset:
        file.write_text(text)
        return read_preset(file)

    return read


def test_every_key_is_read(read: Any) -> None:
    assert read(FULL) == Preset(
        models=("cnn", "binary-cnn"),
        suite="strong",
        attacks={"l2": ("ddn", "boundary"), **all_attacks("strong", ["linf"])},
        images=50,
        clean_images=200,
        shard=25,
        dataset="fashion-mnist",
        seed=3,
        fewer_images={"boundary": 10},
        thresholds={"l2": (0.5, 1.0), "l1": (8.0,)},
    )


def test_the_models_are_enough(read: Any) -> None:
    preset = read('models = ["cnn"]')
    assert (preset.suite, preset.images, preset.clean_images, preset.seed) == ("quick", 100, 1000, 0)
    assert preset.attacks["l0"] == tuple(attack.name for attack in suite_attacks("quick", "l0"))
    assert preset.norms == ("l2", "linf", "l0")


@pytest.mark.parametrize(
    ("text", "key", "sentence"),
    [
        ('model = ["cnn"]', "model", "the keys are models, suite"),
        ("images = 5", "models", "lacks the key"),
        ("models = []", "models", "no list of names"),
        ("models = [1]", "models", "no list of names"),
        ('models = ["cnm"]', "models", "no model 'cnm'"),
        ('models = ["no.py:make"]', "models", "cannot be read"),
        ('suite = "strnog"', "suite", "no suite 'strnog'; choose one of quick"),
        ("suite = 1", "suite", "put it in quotes"),
        ("dataset = 1", "dataset", "put it in quotes"),
        ('images = "5"', "images", "'5' is no whole number"),
        ("images = true", "images", "True is no whole number"),
        ("images = 0", "images", "must be at least 1"),
        ("clean_images = 1.5", "clean_images", "no whole number"),
        ("shard = -1", "shard", "must be at least 1"),
        ("seed = 0.5", "seed", "no whole number"),
        ('attacks = "all"', "attacks", "no table"),
        ('attacks = {l3 = "all"}', "attacks", "no norm 'l3'"),
        ('attacks = {l2 = "ddn"}', "attacks", "no list of names"),
        ('attacks = {l2 = ["dnd"]}', "attacks", "no attack 'dnd' for l2"),
        ('attacks = {l1 = "all"}\nsuite = "paper"', "attacks", "has no attacks for l1"),
        ("fewer_images = 5", "fewer_images", "no table"),
        ("fewer_images = {ddn = true}", "fewer_images", "no whole number"),
        ("thresholds = {l2 = ['a']}", "thresholds", "no list of numbers"),
        ("thresholds = {l2 = true}", "thresholds", "no list of numbers"),
        ("thresholds = {l9 = 1}", "thresholds", "no norm 'l9'"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(read: Any, text: str, key: str, sentence: str) -> None:
    whole = text if "model" in text or key == "models" else f'models = ["cnn"]\n{text}'
    with pytest.raises(AbsynthError, match=sentence) as raised:
        read(whole)
    assert f"'{key}'" in str(raised.value)
    assert "mine.toml" in str(raised.value)


def test_parts_that_do_not_fit_together(read: Any) -> None:
    with pytest.raises(AbsynthError, match=r"mine\.toml: Fewer images are asked for 'ddx'"):
        read('models = ["cnn"]\nfewer_images = {ddx = 3}')
    with pytest.raises(AbsynthError, match=r"mine\.toml: The thresholds of l2"):
        read('models = ["cnn"]\nthresholds = {l2 = [-1]}')


def test_a_file_that_is_no_toml(read: Any, file: Path, tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="is not valid TOML"):
        read("models = [")
    file.write_bytes(b'models = ["\xff"]')
    with pytest.raises(AbsynthError, match="is not valid TOML"):
        read_preset(file)
    with pytest.raises(AbsynthError, match="cannot be read"):
        read_preset(tmp_path / "missing.toml")
    with pytest.raises(AbsynthError, match="cannot be read"):
        read_preset(tmp_path)


def test_an_old_python_is_told_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "tomllib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AbsynthError, match=r"takes Python 3\.11"):
        read_preset(file)


def test_a_preset_or_a_file(read: Any, file: Path) -> None:
    assert choose_preset(None, None) == (find_preset("quick"), "quick")
    assert choose_preset("standard", None) == (find_preset("standard"), "standard")
    preset = read('models = ["cnn"]')
    assert choose_preset(None, file) == (preset, "mine")
    with pytest.raises(AbsynthError, match="give one of them"):
        choose_preset("quick", file)


def test_parts_of_a_preset_are_replaced() -> None:
    quick = find_preset("quick")
    assert adapt_preset(quick) == quick
    changed = adapt_preset(
        quick, models=["cnn"], dataset="kmnist", images=7, thresholds=["l2=2,1,1", "Linf=.1"]
    )
    assert (changed.models, changed.dataset, changed.images) == (("cnn",), "kmnist", 7)
    assert changed.thresholds == {"l2": (1.0, 2.0), "linf": (0.1,)}
    assert changed.attacks == quick.attacks


@pytest.mark.parametrize("text", ["l2", "l2=", "l2=a", "1.5", "l2:1"])
def test_thresholds_that_are_none(text: str) -> None:
    with pytest.raises(AbsynthError, match=r"gives no thresholds; .* l2=0\.5,1,1\.5"):
        adapt_preset(find_preset("quick"), thresholds=[text])


def test_models_are_checked_before_anything_runs() -> None:
    with pytest.raises(AbsynthError, match="no model 'cnm'"):
        adapt_preset(find_preset("quick"), models=["cnn", "cnm"])
    with pytest.raises(AbsynthError, match="thresholds of l2"):
        adapt_preset(find_preset("quick"), thresholds=["l2=-1"])
