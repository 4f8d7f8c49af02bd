"""The command line as a user meets it: what it prints and how it ends."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import absynth
from absynth.cli import main
from absynth.inference import CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.vae import Decoder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "absynth.cli", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end well, in this process, and returns what it printed."""
    monkeypatch.setenv("COLUMNS", "120")

    def prints(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["absynth", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return printed.out

    return prints


def test_help_is_quick():
    run("--help")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8
    assert result.returncode == 0
    for command in (
        "data",
        "train",
        "classify",
        "certify",
        "attack",
        "audit",
        "speed",
        "bench",
        "export",
        "demo",
    ):
        assert command in result.stdout


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    images, labels = absynth.load_dataset("mnist", "test")
    digit = (images[0, 0].numpy() * 255).astype(np.uint8)
    Image.fromarray(digit).save(folder / "digit.png")
    Image.fromarray(255 - digit).resize((300, 300), Image.Resampling.BICUBIC).save(folder / "scan.jpg")
    np.save(folder / "digit.npy", digit)
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "text.png").write_text("no picture")
    return folder, int(labels[0])


def test_classify_reads_pictures_and_abstains_on_noise(pictures):
    folder, label = pictures
    names = ("digit.png", "scan.jpg", "digit.npy", "noise.png")
    result = run("classify", *(str(folder / name) for name in names), "--json")
    assert result.returncode == 0, result.stderr
    decisions = [json.loads(line) for line in result.stdout.splitlines()]
    assert [decision["label"] for decision in decisions[:3]] == [label] * 3
    assert [decision["abstained"] for decision in decisions] == [False, False, False, True]
    assert decisions[0]["confidence"] > decisions[0]["runner_up_confidence"]


@pytest.mark.usefixtures("shipped_once")
def test_classify_prints_a_sentence(pictures, prints):
    folder, label = pictures
    printed = prints("classify", str(folder / "digit.png"), "--model", "codebook-abs")
    assert f"digit.png: {label}, confidence" in printed


@pytest.fixture(scope="module")
def small_codebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    model = CodebookABS([Decoder() for _ in range(10)], draw_latents(4))
    model.prepare()
    model.save_pretrained(folder)
    return str(folder)


def test_certify_writes_radii_and_tables(small_codebook, prints, tmp_path):
    out = tmp_path / "radii.csv"
    options = ("--model", small_codebook, "--norm", "l2,l1,linf,l0", "-n", "3", "--out", str(out), "--quiet")
    assert "at once" in prints("certify", *options)
    assert len(out.read_text().splitlines()) == 1 + 3 * 4


def test_audit_and_speed_print_a_table(small_codebook, prints, tmp_path):
    options = ("--model", small_codebook, "--norm", "l0", "-n", "3")
    audit = ("audit", *options, "--points", "20", "--out", str(tmp_path / "audit"), "--quiet")
    assert "violations" in prints(*audit)
    assert "prototypes a class" in " ".join(prints("speed", *options, "--prototypes", "2,5").split())


def test_a_majority_is_certified_and_audited(small_codebook, prints, tmp_path):
    out = tmp_path / "radii.csv"
    options = ("--model", small_codebook, "-n", "2", "--quiet", "--set", "samples=100")
    smoothing = ("--norm", "l2,l1", "--method", "smoothing", "--set", "sigma=0.1")
    printed = prints("certify", *options, *smoothing, "--out", str(out))
    assert len(out.read_text().splitlines()) == 1 + 2 * 2
    assert "probability of 99.9 %" in " ".join(printed.split())
    ablation = ("--norm", "l0", "--method", "ablation", "--set", "kept=700")
    audit = ("audit", *options, *ablation, "--points", "4", "--out", str(tmp_path / "audit"))
    assert "violations" in prints(*audit)


def test_a_mistake_is_told_to_the_shell(pictures):
    folder, _ = pictures
    result = run("classify", str(folder / "text.png"))
    assert result.returncode == 1
    assert "text.png" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_mistakes_end_with_one_line(pictures, tmp_path, fails):
    folder, _ = pictures
    assert "text.png" in fails("classify", str(folder / "text.png"), status=1)
    assert "There is no model 'ab'" in fails("classify", str(folder / "digit.png"), "--model", "ab")
    assert "There is no preset" in fails("bench", "--preset", "quik", "--out", str(tmp_path / "r"))
    unknown = fails("train", "aps", "--out", str(tmp_path / "m"))
    assert "There is no recipe" in unknown
    assert "madry" in unknown
    assert "trains no VAEs" in fails("train", "madry", "--emphasis", "1", "--out", str(tmp_path / "m"))
    for words in (
        ("codebook-abs", "--epochs", "3"),
        ("binary-abs", "--batch-size", "3"),
        ("certified-abs", "--emphasis", "1"),
        ("certified-binary-abs", "--start", "abs"),
    ):
        assert f"has no use for {words[1]}" in fails("train", *words, "--out", str(tmp_path / "m"))
    assert "starts from nothing" in fails(
        "train", "madry", "--start", "abs", "--out", str(tmp_path / "m"), "--quiet"
    )
    assert "fashion-mnist" in fails("data", "fetch", "mnits")
    assert "There is no norm" in fails("certify", "--model", "codebook-abs", "--norm", "l7", "-n", "1")
    assert "no certificates to check" in fails(
        "audit", "--model", "abs", "-n", "1", "--out", str(tmp_path / "a"), "--quiet"
    )
    smoothed = ("--method", "smoothing", "-n", "1", "--quiet")
    assert "gives no radii in l0" in fails("certify", "--model", "cnn", "--norm", "l0", *smoothed)
    assert "There is no noise 'pink'" in fails("certify", "--model", "cnn", "--set", "noise=pink", *smoothed)
    assert "no list of numbers" in fails("speed", "--prototypes", "many")
    assert not list(tmp_path.iterdir())
