"""The models of a benchmark are looked at first: what is refused, and what is remarked on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from absynth.cli import main
from absynth.evaluate.runner import BenchmarkResult, run_benchmark
from absynth.evaluate.schedule import benchmark_schedule
from absynth.evaluate.status import benchmark_status
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.progress import Progress
from absynth.report.results import read_results

MODELS = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        mean = 10 * (images.flatten(1).mean(1) - 0.5)
        return self.answer(torch.stack([-mean, mean], dim=1))

def noise(logits):
    return logits + 0.3 * torch.randn_like(logits)

def detached(logits):
    return logits.detach()

def single(logits):
    return logits[:, :1]

def same(logits):
    return logits

def make():
    return Model(same)

def make_noisy():
    return Model(noise)

def make_detached():
    return Model(detached)

def make_single():
    return Model(single)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of models in a folder with data of two classes."""
    (tmp_path / "my.py").write_text(MODELS)
    images = np.random.default_rng(0).random((12, 16, 16)).astype("f4")
    np.savez(tmp_path / "two.npz", images=images, labels=(images.mean((1, 2)) > 0.5).astype(int))
    monkeypatch.chdir(tmp_path)
    return "my.py"


Bench = Callable[..., BenchmarkResult]


@pytest.fixture
def bench(file: str, progress: Progress) -> Bench:
    """Runs a small benchmark."""

    def bench(*makers: str, out: str = "results", **changes: object) -> BenchmarkResult:
        preset = Preset(
            models=tuple(f"{file}:{maker}" for maker in makers),
            suite="quick",
            attacks={"l2": ("fgm", "ddn", "boundary")},
            images=4,
            clean_images=12,
            dataset="two.npz",
            **changes,
        )
        return run_benchmark(preset, ResultStore(out), progress)

    return bench


def test_a_model_whose_figures_would_be_wrong_is_refused_and_the_others_go_on(bench: Bench) -> None:
    result = bench("make_single", "make", "make_noisy")
    assert list(result.clean_accuracy) == ["my.py:make"] == list(result.preset.models)
    assert set(result.refused) == {"my.py:make_single", "my.py:make_noisy"}
    assert "single logit" in result.refused["my.py:make_single"]
    assert "my.py:make_noisy answers at random" in result.refused["my.py:make_noisy"]


def test_a_refused_model_leaves_nothing_and_ends_the_command_with_2(
    file: str, fails: Callable[..., str]
) -> None:
    command = ("bench", "--preset", "clean", "--data", "two.npz", "--out", "none", "--quiet")
    assert "single logit" in fails(*command, "--model", f"{file}:make_single")
    assert "answers at random" in fails(*command, "--model", f"{file}:make_noisy")
    assert not Path("none").exists()


def test_the_command_shows_the_others_and_ends_with_2(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("--model", f"{file}:make_single", "--model", f"{file}:make")
    command = ["bench", "--preset", "clean", "--data", "two.npz", "--out", "some", "--quiet", *models]
    monkeypatch.setattr(sys, "argv", ["absynth", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert "100.00%" in shown.out
    assert "my.py:make_single answers with a single logit" in shown.err


def test_a_random_model_that_is_allowed_has_its_own_records_and_a_remark(bench: Bench) -> None:
    few, again, many = (bench("make_noisy", allow_random=True, draws=draws) for draws in (5, 5, 9))
    assert few.records == again.records
    assert few.clean_accuracy == again.clean_accuracy
    assert few.weights != many.weights
    assert any("the mean of its logits over 5 draws" in remark for remark in few.remarks)
    assert again.remarks == few.remarks
    # a model that is not random has the same identity, whatever is allowed
    assert bench("make", allow_random=True).weights == bench("make").weights


def test_remarks_survive_in_the_store_and_stand_in_the_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    first, second = bench("make_detached", "make"), bench("make_detached", "make")
    gone, masked = "my.py:make_detached gives no gradients", "gradients of my.py:make_detached may be masked"
    for result in (first, second):
        assert [gone in remark for remark in result.remarks] == [True, False]
        assert [masked in remark for remark in result.remarks] == [False, True]
    kept = [json.loads(path.read_text()) for path in Path("results/checks").iterdir()]
    assert [[gone in remark for remark in one["remarks"]] for one in kept] == [[True]]
    monkeypatch.setattr(sys, "argv", ["absynth", "report", "results", "--records-only", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    page, told = Path("report/index.html").read_text(encoding="utf-8"), capsys.readouterr().out
    for words in (gone, masked):
        assert words in page
        assert words in told


BROKEN = """
import my, sys
from torch import nn

class Broken(nn.Module):
    def __init__(self, breaks):
        super().__init__()
        self.breaks = breaks

    def forward(self, images):
        self.breaks(images)
        return my.make()(images)

def boom(images):
    if images.sum() > 0:
        raise ValueError("boom")

def many(images):
    if len(images) > 8:
        raise ValueError("too many")

def ends(images):
    if images.sum() > 0:
        sys.exit(3)

def make_boom():
    return Broken(boom)

def make_many():
    return Broken(many)

def make_ends():
    return Broken(ends)

def make_now():
    sys.exit(4)
"""


@pytest.mark.parametrize(
    ("maker", "sentence"),
    [
        (
            "make_boom",
            r"broken.py:make_boom raises ValueError for images of shape \(8, 1, 16, 16\): boom; mend",
        ),
        ("make_many", r"broken.py:make_many raises ValueError for images of shape \(1[26], .*: too many; "),
        ("make_ends", "broken.py:make_ends raises SystemExit for images of shape .*: 3; mend it"),
        ("make_now", r"broken.py:make_now ended the program in line 36 \(SystemExit: 4\); keep what reads"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_breaks_on_real_images_loses_no_other(
    maker: str, sentence: str, first: bool, file: str, progress: Progress
) -> None:
    Path("broken.py").write_text(BROKEN)
    names = (f"broken.py:{maker}", f"{file}:make")
    preset = Preset(
        models=names if first else names[::-1],
        suite="quick",
        attacks={"l2": ("fgm", "ddn")},
        images=4,
        clean_images=12,
        dataset="two.npz",
    )
    result = run_benchmark(preset, ResultStore("results"), progress)
    assert list(result.refused) == [names[0]]
    assert re.search(sentence, result.refused[names[0]])
    assert result.clean_accuracy == {names[1]: 1.0}
    assert set(result.weights) == {names[1]} == {record.model for record in result.records}
    assert len(result.tasks) == 2


def test_a_model_that_breaks_only_when_its_clean_accuracy_is_counted_is_refused(
    file: str, progress: Progress
) -> None:
    Path("broken.py").write_text(BROKEN.replace("> 8", "> 16"))
    images = np.random.default_rng(0).random((20, 16, 16)).astype("f4")
    np.savez("two.npz", images=images, labels=(images.mean((1, 2)) > 0.5).astype(int))
    names = ("broken.py:make_many", f"{file}:make")
    preset = Preset(
        models=names,
        suite="quick",
        attacks={"l2": ("fgm",)},
        images=4,
        clean_images=20,
        dataset="two.npz",
    )
    result = run_benchmark(preset, ResultStore("results"), progress)
    told = r"broken.py:make_many raises ValueError for images of shape \(20, 1, 16, 16\) in float32: too many"
    assert re.match(told, result.refused[names[0]])
    assert list(result.clean_accuracy) == list(result.weights) == [names[1]]
    assert {task.model for task in result.tasks} == {names[1]}
    assert all(names[0] not in remark for remark in result.remarks)


def test_an_attack_that_does_not_fit_a_model_is_told_wherever_it_is_planned_or_reported(
    file: str, progress: Progress, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = Preset(
        models=(f"{file}:make",),
        suite="paper",
        attacks={"l2": ("transfer", "fgm"), "linf": ("transfer",)},
        images=2,
        clean_images=12,
        dataset="two.npz",
    )
    told = (
        "The attack 'transfer' (l2, linf) was left out for my.py:make: what it begins from is for images of "
        "another size or for other classes."
    )
    result = run_benchmark(preset, ResultStore("results"), progress)
    assert told in result.remarks
    assert {task.attack for task in result.tasks} == {"fgm"}
    assert benchmark_status(preset, ResultStore("results"), progress)[0].remarks == (told,)
    assert benchmark_schedule(preset, ResultStore("results"), progress).remarks == (told,)
    assert told in read_results(Path("results")).remarks
    attacks = 'l2 = ["transfer", "fgm"], linf = ["transfer"]'
    Path("some.toml").write_text(
        f'models = ["{file}:make"]\ndataset = "two.npz"\nsuite = "paper"\nimages = 2\nclean_images = 12\n'
        f"attacks = {{{attacks}}}\n"
    )
    for action in ("status", "plan"):
        command = ["absynth", "bench", action, "--config", "some.toml", "--out", "results", "--quiet"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        assert capsys.readouterr().err.splitlines() == [told]
