"""Training that goes on from a trained ABS."""

from pathlib import Path
from shutil import copy

import pytest
import torch

from absynth.errors import AbsynthError
from absynth.inference import codebook
from absynth.models.pretrained import PretrainedModel
from absynth.progress import progress_display
from absynth.training.assignment import Assignment
from absynth.training.encoders import read_vaes
from absynth.training.recipe import Options
from absynth.training.recipes import find_recipe

IMAGES = torch.rand(24, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 2


def run(out: Path, rate: float, start: Path | None = None, name: str = "abs") -> PretrainedModel:
    plain = {"rounds": 0, "emphasis": 0.0} if name == "abs" else {}
    options = Options(epochs=1, batch_size=6, learning_rate=rate, seed=3, start=start and str(start), **plain)
    with progress_display(False) as progress:
        return find_recipe(name).plan(options)(Assignment(IMAGES, LABELS, out, "", progress))


def test_a_start_is_where_training_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 10)
    run(tmp_path / "first", 1e-3)
    run(tmp_path / "second", 1e-9, start=tmp_path / "first")
    run(tmp_path / "fresh", 1e-9)
    first, second, fresh = (read_vaes(tmp_path / name) for name in ("first", "second", "fresh"))
    for one, two, other in zip(first, second, fresh, strict=True):
        for name, value in one.named_parameters():
            torch.testing.assert_close(two.get_parameter(name), value, rtol=0, atol=1e-6)
        weight = "encoder.layers.0.weight"
        assert not torch.allclose(one.get_parameter(weight), other.get_parameter(weight), atol=1e-5)


def test_another_start_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 10)
    run(tmp_path / "first", 1e-3)
    with pytest.raises(AbsynthError, match="other start"):
        run(tmp_path / "first", 1e-3, start=tmp_path / "first")
    with pytest.raises(AbsynthError, match="starts from nothing"):
        run(tmp_path / "cnn", 1e-3, start=tmp_path / "first", name="cnn")


def test_a_start_without_vaes_is_named(tmp_path: Path) -> None:
    run(tmp_path / "cnn", 1e-3, name="cnn")
    with pytest.raises(AbsynthError, match="no ABS to go on from"):
        read_vaes(tmp_path / "cnn")


def test_the_stored_vaes_are_those_of_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 10)
    run(tmp_path, 1e-3)
    for label, vae in enumerate(read_vaes(tmp_path)):
        stored = torch.load(tmp_path / "checkpoints" / f"vae-{label}.pt", weights_only=True)["model"]
        assert vae.state_dict().keys() == stored.keys()
        assert all(torch.equal(tensor, stored[name]) for name, tensor in vae.state_dict().items())
        assert all(parameter.requires_grad for parameter in vae.parameters())


def test_a_start_that_lost_its_encoders_or_batch_norm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codebook, "CODEBOOK_SIZE", 10)
    run(tmp_path / "abs", 1e-3).save_pretrained(tmp_path / "folded")
    with pytest.raises(AbsynthError, match=r"encoders\.safetensors are missing"):
        read_vaes(tmp_path / "folded")
    copy(tmp_path / "abs" / "encoders.safetensors", tmp_path / "folded")
    with pytest.raises(AbsynthError, match="not as training left them"):
        read_vaes(tmp_path / "folded")
