"""What ``attack`` writes is read again: as data, and as pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import absynth
from absynth.cli import main
from absynth.data import read_dataset
from absynth.norms import distance


def run(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["absynth", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pictures_of_adversarials_are_read_with_the_same_wrong_class(
    norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "found.npz", tmp_path / "pictures"
    command = ["attack", "--model", "cnn", "--norm", norm, "-n", "4", "--quiet"]
    run(monkeypatch, *command, "--out", str(out), "--png", str(folder))
    with np.load(out) as found:
        arrays = {name: found[name] for name in found.files}
    model, images = absynth.load("cnn"), torch.from_numpy(arrays["adversarials"])
    clean, labels = absynth.load_dataset("mnist", "test")
    assert labels[arrays["indices"]].tolist() == arrays["labels"].tolist()
    measured = distance(clean[arrays["indices"]], images, norm)
    assert measured.tolist() == arrays["distances"].tolist()
    assert torch.equal((255 * images).round() / 255, images)
    wrong = model(images).argmax(1)
    assert (wrong != torch.from_numpy(arrays["labels"])).all()
    paths = [
        folder / f"{index}-was-{label}.png"
        for index, label in zip(arrays["indices"], arrays["labels"], strict=True)
    ]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), (255 * image[0]).round().byte().numpy())
    capsys.readouterr()
    run(monkeypatch, "classify", *map(str, paths), "--model", "cnn", "--json")
    read = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["label"] for one in read] == wrong.tolist()


def test_what_attack_writes_is_data_for_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.npz"
    run(monkeypatch, "attack", "--model", "cnn", "-n", "4", "--quiet", "--out", str(out))
    with np.load(out) as found:
        images, labels = torch.from_numpy(found["adversarials"]), torch.from_numpy(found["labels"])
    dataset = read_dataset(out, "test")
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels)
    assert dataset.class_names == tuple("0123456789")
    right = float((absynth.load("madry")(images).argmax(1) == labels).double().mean())
    capsys.readouterr()
    command = ["bench", "--preset", "clean", "--model", "madry", "--model", "cnn", "--data", str(out)]
    run(monkeypatch, *command, "--out", str(tmp_path / "results"), "--quiet")
    shown = capsys.readouterr().out
    assert f"{right:.2%}" in shown
    assert "0.00%" in shown


def test_norms_are_given_one_at_a_time(fails: pytest.FixtureRequest) -> None:
    assert "no norm 'l2,linf'; choose one of l2, l1, linf, l0, one at a time" in fails(
        "attack", "--norm", "l2,linf"
    )


def test_a_picture_has_no_other_steps_than_its_own(tmp_path: Path, fails: pytest.FixtureRequest) -> None:
    line = fails("attack", "--model", "cnn", "-n", "1", "--png", str(tmp_path / "p"), "--grid", "100")
    assert "give a --grid that divides 255 in place of 100" in line
