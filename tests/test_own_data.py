"""From labelled images of one's own to a model, and through every command, without a word about MNIST.

The images are scikit-learn's 8×8 digits under other names, few of them and trained for a moment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from typer.main import get_command

import absynth
from absynth.cli import app
from absynth.data import read_dataset
from absynth.demo.fragments import introduction
from absynth.demo.loading import load_examiner
from absynth.errors import AbsynthError
from absynth.inference import codebook
from absynth.inference.codebook import codebook_size
from absynth.models.confidence import ALPHA
from absynth.progress import Progress
from absynth.report import page as report_page
from absynth.training.assignment import Assignment
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.recipes import certified_abs
from absynth.training.recipes.abs import train_abs
from absynth.training.recipes.certified_abs import HIDDEN
from absynth.training.recipes.cnn import train_cnn
from absynth.training.recipes.codebook_abs import train_codebook_abs
from absynth.training.settings import TrainingSettings

NAMES = ("nought", "one", "two", "three")
COUNTS = (60, 60, 40, 3)
"""Unbalanced, and a class of too few images to hold one out."""

WORDS = re.compile(r"mnist|digit|the paper's|in the paper", re.IGNORECASE)


def run(*words: object) -> None:
    get_command(app).main([str(word) for word in words], standalone_mode=False)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command printed, with nothing in it that is about other data."""
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not WORDS.search(text), text
    return text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and test images and the models that the commands make of them."""
    folder = tmp_path_factory.mktemp("own")
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16
    rows = {"train": [], "test": []}
    for label, count in enumerate(COUNTS):
        members = np.flatnonzero(labels == label)
        rows["train"] += members[:count].tolist()
        rows["test"] += members[100:110].tolist()
    for split, chosen in rows.items():
        np.savez(folder / f"{split}.npz", images=images[chosen], labels=labels[chosen], class_names=NAMES)
    Image.fromarray((255 * images[rows["test"][0]]).astype(np.uint8)).resize((90, 90)).save(
        folder / "scan.png"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codebook, "CODEBOOK_SIZE", 200)
        data = ("--data", folder / "train.npz", "--quiet")
        run("train", "abs", *data, "--out", folder / "abs", "--epochs", "40", "--rounds", "1")
        for name, options in (("codebook-abs", ("--rounds", "4")), ("binary-abs", ())):
            run("train", name, *data, "--out", folder / name, "--base", folder / "abs", *options)
        run("train", "cnn", *data, "--out", folder / "cnn", "--epochs", "5")
    return folder


def test_decoders_are_trained_for_certificates(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified_abs, "STAGES", (CertifiedSettings(images=40, compared=50),))
    data = ("--data", home / "train.npz", "--quiet")
    words = ("train", "certified-abs", *data, "--out", home / "certified", "--epochs", "2")
    run(*words, "--rounds", "2", "--prototypes", "60")
    model = absynth.load(home / "certified")
    assert model.domain.class_names == NAMES
    assert model.prototypes().images.shape == (4, 60, 256)
    stored = json.loads((home / "certified" / "config.json").read_text())
    decoder = {"latents": 8, "batch_norm": False, "image_size": [16, 16], "hidden": list(HIDDEN)}
    assert stored["decoder"] == decoder
    assert stored["training"]["rounds"] == 2
    assert stored["alpha"] != ALPHA
    assert set(stored["training"]["certified"]["l2"]["accuracy"]) == {"1", "1.5", "1.58", "2"}
    with pytest.raises(AbsynthError, match="builds on no other model"):
        run(*words, "--base", home / "abs")
    with pytest.raises(AbsynthError, match="takes no prototypes"):
        run("train", "binary-abs", *data, "--out", home / "x", "--base", home / "abs", "--target", "2")


def test_the_model_knows_its_classes_and_what_was_held_out(home: Path) -> None:
    test = read_dataset(home / "test.npz", "test")
    assert test.images.shape == (40, 1, 16, 16)
    for name in ("abs", "codebook-abs", "binary-abs", "cnn"):
        config = json.loads((home / name / "config.json").read_text())
        assert config["data"] == {"class_names": list(NAMES), "size": [16, 16], "digits": False}
        validation = config["training"]["validation"]
        assert (validation["share"], validation["seed"]) == (0.1, 0)
        assert validation["images"] == 6 + 6 + 4
        model = absynth.load(home / name)
        right = (model(test.images).argmax(1) == test.labels)[: 3 * 10]
        assert float(right.double().mean()) > 0.8, name
        assert model.domain.class_names == NAMES


def test_the_sharpness_is_that_of_the_data(home: Path) -> None:
    """Images of the data are explained as well as MNIST's, and noise is not."""
    model = absynth.load(home / "abs")
    assert model.codebook.alpha != ALPHA
    images = read_dataset(home / "test.npz", "test").images[:30]
    assert float(model.infer(images).probabilities.amax(1).median()) > 0.5
    assert float(model.infer(torch.rand(5, 1, 16, 16)).probabilities.amax()) < 0.3


def test_training_says_what_it_did(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "cnn", "--data", home / "train.npz", "--quiet", "--out", home / "cnn", "--epochs", "5")
    text = said(capsys)
    assert "the images are 8x8 pixels; scaled to 16x16" in text
    assert re.search(r"validation accuracy \d+\.\d% \(16 images held out\)", text)


@pytest.mark.parametrize("name", ["abs", "codebook-abs", "cnn"])
def test_classify_names_the_class(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = home / "noise.npy"
    np.save(noise, np.random.default_rng(0).random((16, 16)))
    run("classify", home / "scan.png", noise, "--model", home / name)
    first, second = said(capsys).splitlines()
    assert "scan.png: nought, confidence" in first
    if name != "cnn":
        assert "none of the classes (best guess" in second
    run("classify", home / "scan.png", "--model", home / name, "--json")
    assert json.loads(said(capsys))["class"] == "nought"


def test_certify_writes_names_and_no_common_sizes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "radii.csv"
    options = ("--data", home / "test.npz", "--norm", "l2,l1,linf", "-n", "4", "--out", out, "--quiet")
    run("certify", "--model", home / "codebook-abs", *options)
    text = said(capsys)
    assert "three quarters" in " ".join(text.split()) and "at 1.5" not in text and "at once" not in text
    header, *lines = out.read_text().replace('"', "").splitlines()
    assert header.endswith("class,predicted_class")
    assert len(lines) == 12
    assert all(line.split(",")[-2] in NAMES for line in lines)


def test_attack_writes_names_and_no_threshold(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "adversarials.npz"
    run("attack", "--model", home / "cnn", "--data", home / "test.npz", "-n", "2", "--out", out, "--quiet")
    assert "accuracy at" not in said(capsys)
    with np.load(out) as content:
        assert tuple(content["class_names"]) == NAMES
        assert content["adversarials"].shape == (2, 1, 16, 16)


def test_other_data_must_be_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("certify", "attack", "bench"):
        with pytest.raises(AbsynthError, match="is for data of its own; name them with --data"):
            run(command, "--model", home / "codebook-abs", "--quiet")
    with pytest.raises(AbsynthError, match=r"mnist has the class '7'.* its 4 classes are nought, one"):
        run("attack", "--model", home / "cnn", "--data", "mnist", "-n", "1", "--quiet")
    with pytest.raises(AbsynthError, match="are for different data"):
        run("bench", "--model", home / "cnn", "--model", "cnn", "--data", home / "test.npz", "--quiet")


def test_bench_and_report(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The page has every drawing; the files beside it, which take most of the time, are tested elsewhere.
    monkeypatch.setattr(report_page, "save_panel", lambda *_: None)
    results, page = home / "results", home / "report"
    models = ("--model", home / "abs", "--model", home / "cnn")
    options = ("--data", home / "test.npz", "-n", "2", "--out", results, "--quiet")
    run("bench", *models, *options, "--markdown", home / "table.md")
    text = said(capsys)
    assert "at 1.5" not in text
    assert not WORDS.search((home / "table.md").read_text())
    run("report", results, "--out", page, "--quiet")
    said(capsys)
    html = re.sub(r"base64,[^\"]*", "", (page / "index.html").read_text(encoding="utf-8"))
    assert not WORDS.search(html), WORDS.search(html)
    for words in ("nought", "class three", "Samples and latent walks", "What ABS does to an image"):
        assert words in html
    assert "Left out" not in html.replace("Left out: none are recorded", "")


def test_the_demo_speaks_of_classes(home: Path) -> None:
    for name in ("abs", "codebook-abs"):
        examiner = load_examiner(str(home / name), str(home / "test.npz"))
        answer = examiner.choose(0)
        *_, proof = examiner.prove(answer.subject)
        parts = (examiner.welcome, examiner.example.message, introduction(examiner.domain), answer.verdict)
        parts += (answer.reconstructions, proof.certificates, proof.sentence)
        parts += (examiner.step(proof.change, 100), examiner.upload(str(home / "scan.png")).verdict)
        for part in parts:
            assert not re.search(r"mnist|digit", re.sub(r"base64,[^\"]*", "", part), re.IGNORECASE), part
        assert "labelled nought" in answer.verdict
        assert answer.reconstructions.count("<img") == 4
        assert examiner.dark, "the images have a dark ground, so drawings are turned light on dark"
    with pytest.raises(AbsynthError, match="is no ABS and no codebook ABS"):
        load_examiner(str(home / "cnn"), str(home / "test.npz"))


def test_strictness_and_an_empty_class_end_with_a_sentence(tmp_path: Path, fails: Callable[..., str]) -> None:
    for name in ("cat", "dog", "eel"):
        (tmp_path / "set" / name).mkdir(parents=True)
        if name != "eel":
            Image.new("L", (16, 16)).save(tmp_path / "set" / name / "a.png")
    (tmp_path / "set/dog/torn.jpg").write_bytes(b"torn")
    words = ["train", "cnn", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    for extra, sentence in ((["--strict"], "torn.jpg cannot be read"), ([], "class 'eel' has no training")):
        assert sentence in " ".join(fails(*words, "--quiet", *extra).split())


@pytest.mark.parametrize(("name", "classes"), [("abs", 2), ("abs", 30), ("cnn", 100)])
def test_any_number_of_classes(name: str, classes: int, tmp_path: Path, progress: Progress) -> None:
    """One image each: too few for batch norm, none to hold out, and still trained."""
    images = torch.rand(classes, 1, 16, 16)
    settings = TrainingSettings(epochs=1, batch_size=64, learning_rate=1e-3, seed=0)
    work = Assignment(images, torch.arange(classes), tmp_path, "", progress)
    train = {"abs": train_abs, "cnn": train_cnn}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codebook, "CODEBOOK_SIZE", 3)
        model = train(work, settings)
        assert model(images[:2]).shape == (2, classes)
        assert model.domain.class_names[-1] == str(classes - 1)
        if classes == 2:
            further = replace(work, out=tmp_path / "codebook")
            coded = train_codebook_abs(further, tmp_path, CertifiedSettings(rounds=1))
            assert coded(images).shape == (2, 2)
            assert coded.domain == model.domain


def test_too_few_or_many_classes_are_refused(tmp_path: Path, progress: Progress) -> None:
    for classes in (1, 101):
        work = Assignment(torch.rand(classes, 1, 16, 16), torch.arange(classes), tmp_path, "", progress)
        with pytest.raises(AbsynthError, match=f"There are {classes} classes .* give 2 to 100"):
            train_cnn(work)


def test_a_codebook_stays_within_memory() -> None:
    assert codebook_size(10, 784) == 8000
    for classes, pixels in ((2, 256), (30, 1024), (100, 4096)):
        count = codebook_size(classes, pixels)
        assert count >= 500
        assert count == 500 or count * classes * pixels <= 8000 * 7840
