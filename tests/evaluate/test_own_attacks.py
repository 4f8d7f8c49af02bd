"""Attacks from users' files in a benchmark: known by their source, resumed, and no danger to the others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import Attack
from absynth.data import Dataset
from absynth.errors import AbsynthError
from absynth.evaluate import runner
from absynth.evaluate.attacks import choose_attacks, load_attack
from absynth.evaluate.config import adapt_preset, read_preset
from absynth.evaluate.runner import BenchmarkResult, run_benchmark
from absynth.evaluate.status import benchmark_status
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.norms import parse_norm
from absynth.progress import Progress

MINE = """
from beside import goal

def brighten(model, images, labels):
    return images + goal()

def make_foolbox():
    import foolbox
    return foolbox.attacks.LinfDeepFoolAttack()

def broken(model, images, labels):
    raise ValueError("no idea")

def moody(model, images, labels):
    if images.sum() > 0:
        raise ValueError("no idea")
    return images

def make_own():
    from absynth.attacks import find_attack
    return find_attack("fgsm", "linf", "quick")

number = 3

def make_nothing():
    return None

def fails():
    return 1 / 0
"""
BESIDE = "def goal():\n    return {step}\n"
PRESET = Preset(
    models=("dark",),
    suite="quick",
    attacks={"linf": ("fgsm",), "l2": ("fgm",)},
    images=4,
    clean_images=8,
    shard=2,
)


class Dark(nn.Module):
    """Class 0 where an image is darker than a half in the mean, else class 1."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file of attacks, and a data set of dark images."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    (tmp_path / "beside.py").write_text(BESIDE.format(step=0.25))
    images = 0.3 + 0.01 * torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = Dataset(images, torch.zeros(8, dtype=torch.int64), ("dark", "bright"))
    monkeypatch.setattr(runner, "read_for", lambda *_: data)
    monkeypatch.setattr("absynth.evaluate.status.read_for", lambda *_: data)
    return path


@pytest.fixture
def run(tmp_path: Path, progress: Progress) -> Callable[[Preset], BenchmarkResult]:
    """Runs a benchmark that keeps its results in one place."""

    def run(preset: Preset) -> BenchmarkResult:
        store = ResultStore(tmp_path / "results")
        return run_benchmark(preset, store, progress, load_model=lambda _: Dark())

    return run


def keys(result: BenchmarkResult, attack: str) -> set[str]:
    return {task.key for task in result.tasks if task.attack == attack}


def test_its_records_have_its_name_the_hash_of_its_source_and_its_true_distance(
    mine: Path, run: Callable[[Preset], BenchmarkResult], tmp_path: Path
) -> None:
    result = run(adapt_preset(PRESET, attacks=[f"{mine}:brighten"], budget=7))
    ours = [record for record in result.records if record.attack == "mine.py:brighten"]
    assert [record.norm for record in ours] == ["linf"] * 4 + ["l2"] * 4
    assert {len(json.loads(record.settings)["source"]) for record in ours} == {64}
    assert {json.loads(record.settings)["budget"] for record in ours} == {7}
    assert [record.distance for record in ours] == pytest.approx([0.25] * 4 + [1.0] * 4, rel=1e-5)
    assert result.preset.attacks["l2"] == ("fgm", "mine.py:brighten")
    assert result.broken == ()
    for task in result.tasks:
        passes = json.loads((tmp_path / "results" / "backwards" / f"{task.key}.json").read_text())
        assert len(passes["backwards"]) == 2
        assert (min(passes["backwards"]) > 0) == (task.attack != "mine.py:brighten")
    table = pq.read_table(tmp_path / "results" / "records" / f"{result.tasks[-1].key}.parquet")
    assert set(table["attack"].to_pylist()) == {"mine.py:brighten"}


def test_an_edited_file_is_attacked_with_anew_and_an_unchanged_one_is_not(
    mine: Path, run: Callable[[Preset], BenchmarkResult], monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    preset = adapt_preset(PRESET, attacks=[f"linf={mine}:brighten"])
    done, calls = runner.run_task, list[str]()

    def counted(model: nn.Module, task: Any, *others: Any) -> Any:
        calls.append(task.attack)
        return done(model, task, *others)

    monkeypatch.setattr(runner, "run_task", counted)
    first = run(preset)
    assert calls == ["fgsm"] * 2 + ["mine.py:brighten"] * 2 + ["fgm"] * 2
    calls.clear()
    assert run(preset) == first
    assert calls == []
    mine.with_name("beside.py").write_text(BESIDE.format(step=0.3))
    (status,) = benchmark_status(
        preset, ResultStore(mine.parent / "results"), progress, load_model=lambda _: Dark()
    )
    assert (status.done, status.total) == (4, 6)
    second = run(preset)
    assert calls == ["mine.py:brighten"] * 2
    assert not keys(first, "mine.py:brighten") & keys(second, "mine.py:brighten")
    assert keys(first, "fgsm") == keys(second, "fgsm")
    mine.write_text(MINE + "# a comment\n")
    run(preset)
    assert calls == ["mine.py:brighten"] * 4
    run(adapt_preset(preset, budget=3))
    assert calls == ["mine.py:brighten"] * 6


def test_one_that_breaks_leaves_the_others(mine: Path, run: Callable[[Preset], BenchmarkResult]) -> None:
    result = run(adapt_preset(PRESET, attacks=[f"{mine}:broken", f"{mine}:brighten", f"linf={mine}:moody"]))
    assert {record.attack for record in result.records} == {"fgsm", "fgm", "mine.py:brighten"}
    assert len(result.records) == 4 * 4
    assert len(result.broken) == 3
    assert result.refused == {}
    sentence = "The attack 'mine.py:broken' raises ValueError in line 12 of mine.py: no idea."
    assert f"For dark in linf: {sentence}" in result.broken
    assert f"For dark in l2: {sentence}" in result.broken


@pytest.mark.filterwarnings("ignore")  # foolbox warns about its own imports
def test_what_a_file_may_have(mine: Path, run: Callable[[Preset], BenchmarkResult]) -> None:
    result = run(adapt_preset(PRESET, attacks=[f"{mine}:make_own", f"linf={mine}:make_foolbox"]))
    by_attack = {
        name: [r.distance for r in result.records if (r.norm, r.attack) == ("linf", name)]
        for name in ("fgsm", "mine.py:make_own", "mine.py:make_foolbox")
    }
    assert by_attack["mine.py:make_own"] == by_attack["fgsm"]
    assert max(by_attack["mine.py:make_foolbox"]) < 1
    assert result.preset.attacks == {
        "linf": ("fgsm", "mine.py:make_own", "mine.py:make_foolbox"),
        "l2": ("fgm",),  # as the other is for linf alone
    }
    assert isinstance(load_attack(f"{mine}:make_own").value, Attack)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "{mine}",
            r"names no function; add the one that makes the attack, for example .*mine.py:make_attack",
        ),
        ("{mine}:missing", "has no function 'missing'"),
        ("{mine}:number", "has no function 'number'"),
        ("{mine}:make_nothing", "An attack was given as a NoneType"),
        ("{mine}:fails", "fails raised ZeroDivisionError in line 29: division by zero"),
        ("{mine}s.py:brighten", r"mine.pys.py cannot be read \(No such file"),
        ("ddn", "'ddn' is no file with a function"),
        ("l2={mine}:make_own", "is for linf, in which the benchmark has no other; give it as linf="),
        ("l3={mine}:brighten", "There is no norm 'l3'"),
    ],
)
def test_what_is_no_attack_is_told_in_a_sentence(mine: Path, name: str, sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        choose_attacks(adapt_preset(PRESET, attacks=[name.format(mine=mine)]))


def test_a_budget_without_an_attack(mine: Path) -> None:
    with pytest.raises(AbsynthError, match="A budget is for attacks of your own"):
        adapt_preset(PRESET, budget=10)
    with pytest.raises(AbsynthError, match="The budget is 0"):
        adapt_preset(PRESET, attacks=[f"{mine}:brighten"], budget=0)


def test_two_files_of_the_same_name(mine: Path) -> None:
    other = mine.parent / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE)
    (other.parent / "beside.py").write_text(BESIDE.format(step=0.25))
    with pytest.raises(AbsynthError, match=r"Two attacks are called 'mine\.py:brighten'"):
        choose_attacks(adapt_preset(PRESET, attacks=[f"{mine}:brighten", f"{other}:brighten"]))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reading TOML takes Python 3.11")
def test_in_a_file_of_a_benchmark(mine: Path) -> None:
    path = mine.with_suffix(".toml")
    path.write_text(
        f'models = ["cnn"]\nbudget = 50\n[attacks]\nl2 = ["DDN", "{mine}:make_Foolbox"]\n'
        f'[fewer_images]\n"{mine}:make_Foolbox" = 5\n'
    )
    preset = read_preset(path)
    assert preset.attacks == {"l2": ("ddn", f"{mine}:make_Foolbox")}
    assert preset.fewer_images == {f"{mine}:make_Foolbox": 5}
    assert preset.budget == 50


def test_the_command_line(mine: Path, monkeypatch: Any, capsys: Any, fails: Callable[..., str]) -> None:
    from absynth.cli import main

    command = ["attack", "--model", "cnn", "-n", "2", "--norm", "linf", "--quiet", "--attack"]
    monkeypatch.setattr(sys, "argv", ["absynth", *command, f"{mine}:brighten", "--budget", "5"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "mine.py:brighten" in " ".join(capsys.readouterr().out.split())
    assert "is for linf; give --norm linf" in fails(*command, f"{mine}:make_own", "--norm", "l2")
    assert "raises ValueError in line 12 of mine.py: no idea" in fails(*command, f"{mine}:broken")
    assert "A budget is for attacks of your own" in fails("attack", "--model", "cnn", "--budget", "5")


def test_the_attacks_of_other_libraries_that_come_with_a_clone() -> None:
    """Each is one, and says which library it takes, unless that is there."""
    path = Path(__file__).parents[2] / "docs" / "tools" / "attacks" / "libraries.py"
    names = re.findall(r"^([a-z]\w+_(?:l0|l1|l2|linf)) = _", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 20
    model, images = Dark(), torch.zeros(2, 1, 28, 28)
    for name in names:
        norm = parse_norm(name.rpartition("_")[2])
        attack = load_attack(f"{path}:{name}").for_norm(norm, 10)
        assert attack is not None and (attack.name, attack.norm) == (f"libraries.py:{name}", norm)
    if find_spec("adv_lib") is None:
        attack = load_attack(f"{path}:ddn_l2").for_norm("l2", 10)
        assert attack is not None
        with pytest.raises(AbsynthError, match=r"raises ModuleNotFoundError in line \d+ of .*'adv_lib'"):
            attack(model, images, [0, 0])
