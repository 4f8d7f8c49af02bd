"""What both engines have in common: mistakes end a run, failures do not; and what is asked of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from absynth.cli import main
from absynth.engine import Job, LocalEngine, find_device, open_engine, place, run_jobs
from absynth.engine.jobs import attempt
from absynth.errors import AbsynthError, FailedTasksError
from absynth.progress import Progress


def divide(model: nn.Module, number: int) -> float:
    if number < 0:
        raise AbsynthError(f"{number} is below 0; give another.")
    return 6 / number


def run(progress: Progress, *numbers: int) -> list[float]:
    engine, found = LocalEngine(), []
    shared = engine.share(nn.Identity())
    jobs = [Job(f"6 / {n}", divide, shared, (n,), lambda value, _: found.append(value)) for n in numbers]
    run_jobs(engine, jobs, progress, progress.add_task("", note=""))
    return found


def test_what_is_raised_becomes_part_of_the_outcome() -> None:
    done = attempt(divide, nn.Identity(), 2)
    assert (done.value, done.mistake, done.failure, done.seconds > 0) == (3.0, None, None, True)
    assert attempt(divide, nn.Identity(), -2).mistake == "-2 is below 0; give another."
    failure = attempt(divide, nn.Identity(), 0).failure
    assert failure is not None
    assert failure.startswith("Traceback")
    assert "ZeroDivisionError" in failure


def test_failures_are_told_at_the_end_equal_ones_together(progress: Progress) -> None:
    assert run(progress, 1, 2) == [6.0, 3.0]
    with pytest.raises(FailedTasksError) as raised:
        run(progress, 1, 0, 2, 0, 3)
    assert [name for name, _ in raised.value.failures] == ["6 / 0", "6 / 0"]
    assert str(raised.value).startswith("6 / 0; 6 / 0:\nTraceback")
    assert str(raised.value).count("ZeroDivisionError") == 1
    assert str(raised.value).endswith(
        "2 tasks failed, the others are done; run the same command again to retry."
    )


def test_a_mistake_ends_the_run(progress: Progress) -> None:
    with pytest.raises(AbsynthError, match="-1 is below 0"):
        run(progress, 1, -1, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--engine", "slurm"), "There is no engine 'slurm'; choose one of local, ray."),
        (("--address", "10.0.0.1:6379"), "add --engine ray"),
        (("--cpus-per-task", "2"), "add --engine ray"),
        (("--engine", "ray"), "The engine 'ray' needs Ray; install absynth with the extra 'ray'"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("bench", "-n", "1"), ("certify", "-n", "1"), ("train", "abs", "--out", "new")],
    ids=lambda command: command[0],
)
def test_an_engine_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: tuple[str, ...],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", ["absynth", *command, *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    output, errors = capsys.readouterr()
    assert (output, len(errors.splitlines())) == ("", 1)
    assert sentence in errors
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_follows_another_comes_before_those_that_were_not_asked_for(progress: Progress) -> None:
    engine, found = LocalEngine(), []
    shared = engine.share(nn.Identity())

    def job(number: int) -> Job:
        def finish(value: float, _: float) -> Job | None:
            found.append(value)
            return job(number + 1) if number in (1, 2) else None

        return Job(str(number), divide, shared, (number,), finish)

    run_jobs(engine, (job(number) for number in (1, 6, 2)), progress, None)
    assert found == [6, 3, 2, 1, 3, 2]


@pytest.mark.parametrize("recipe", ["cnn", "codebook-abs"])
@pytest.mark.parametrize("arguments", [("--engine", "ray"), ("--address", "10.0.0.1:6379")], ids=str)
def test_a_recipe_that_is_not_for_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recipe: str,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setattr(sys, "argv", ["absynth", "train", recipe, *arguments, "--out", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    output, errors = capsys.readouterr()
    assert (output, len(errors.splitlines())) == ("", 1)
    assert f"Only 'abs' and certified models train on a cluster; for '{recipe}' leave --engine" in errors
    assert list(tmp_path.iterdir()) == []


def test_the_local_engine_is_the_default() -> None:
    with open_engine() as engine:
        assert isinstance(engine, LocalEngine)


def test_the_local_engine_moves_models_to_its_device() -> None:
    with open_engine() as engine:
        assert engine.share(nn.Linear(2, 2, device="meta")).weight.device.type == "meta"
    with open_engine(device="cpu") as engine:
        assert engine.share(nn.Linear(2, 2)).weight.device.type == "cpu"
    assert LocalEngine(torch.device("meta")).share(nn.Linear(2, 2)).weight.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_in_single_precision() -> None:
    layer, images = nn.Conv2d(8, 8, 5), torch.rand(4, 8, 28, 28)
    here = layer(images)
    there = place(layer, find_device("cuda"))(images.cuda()).cpu()
    assert torch.allclose(here, there, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(AbsynthError, match=f"There is no device '{name}' here; choose one of cpu"):
        find_device(name)


@pytest.mark.parametrize("command", [("bench",), ("certify", "--model", "cnn")], ids=" ".join)
def test_a_device_is_for_the_local_engine(
    fails: Callable[..., str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    out = ("--out", str(tmp_path / "new.json"))
    assert "There is no device 'tpu' here" in fails(*command, *out, "--device", "tpu")
    message = fails(*command, *out, "--device", "cpu", "--engine", "ray")
    assert "A device is for the engine 'local'" in message
    assert list(tmp_path.iterdir()) == []
