from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import absynth
from absynth import export
from absynth.errors import AbsynthError
from absynth.export import export_onnx
from absynth.inference import ABS, CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized
from absynth.models.front import Clamped
from absynth.models.prototypes import NearestNeighbour
from absynth.models.vae import Decoder

MakeDecoder = Callable[..., Decoder]


@pytest.fixture(scope="module")
def run() -> Callable[[Path, Tensor], np.ndarray]:
    """Runs a graph with onnxruntime."""
    runtime = pytest.importorskip("onnxruntime")

    def logits(path: Path, images: Tensor) -> np.ndarray:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(["logits"], {"images": images.numpy()})
        return found

    return logits


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = absynth.load_dataset("mnist", "test")
    return images[:100], labels[:100]


def codebook(make_decoder: MakeDecoder, classes: int = 10) -> CodebookABS:
    latents = draw_latents(40)
    model = CodebookABS(
        [make_decoder(seed) for seed in range(classes)], latents, [0.5 * c for c in range(classes)]
    )
    model.prepare()
    return model


def neighbours(_: MakeDecoder) -> NearestNeighbour:
    """Classes of different sizes, one of them empty."""
    images, labels = absynth.load_dataset("mnist", "train")
    few = labels[:300] != 3
    return NearestNeighbour(images[:300][few], labels[:300][few], classes=10)


MODELS: dict[str, Callable[[MakeDecoder], nn.Module]] = {
    "codebook": codebook,
    "binary codebook": lambda make_decoder: Binarized(codebook(make_decoder)),
    "clamped codebook": lambda make_decoder: Clamped(codebook(make_decoder), 0.2),
    "nearest neighbour": neighbours,
    "binary nearest neighbour": lambda make_decoder: Binarized(neighbours(make_decoder)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_answers_as_the_model_does(
    name: str, make_decoder: MakeDecoder, digits: tuple[Tensor, Tensor], run: Any, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    model = MODELS[name](make_decoder).eval()
    path = export_onnx(model, tmp_path / "model.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    images = digits[0]
    expected = model(images).numpy()
    np.testing.assert_allclose(run(path, images), expected, rtol=0, atol=1e-4)
    # Any number of images, and the same answer for one alone.
    np.testing.assert_allclose(run(path, images[7:8]), expected[7:8], rtol=0, atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_an_image_on_a_prototype_has_the_loss_of_the_offset_alone(
    make_decoder: MakeDecoder, run: Any, tmp_path: Path
) -> None:
    """Where a difference of large numbers would lose every digit."""
    model = codebook(make_decoder, classes=3)
    stored = model.prototypes()
    images = stored.images[:, 5].view(3, 1, 28, 28)
    found = run(export_onnx(model, tmp_path / "model.onnx"), images)
    expected = stored.offsets[:, 5].numpy() * (-440 / 784)
    assert (found.diagonal() >= expected - 1e-6).all()
    np.testing.assert_allclose(found, model(images).numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [ABS, lambda _: CNN(), lambda _: Binarized(CNN())])
def test_what_decides_otherwise_is_refused(
    make: Callable[[CodebookABS], nn.Module], make_decoder: MakeDecoder, tmp_path: Path
) -> None:
    with pytest.raises(AbsynthError, match=r"(ABS|CNN) cannot be exported; codebook-abs"):
        export_onnx(make(codebook(make_decoder, 2)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_one_file_cannot_hold_is_refused(
    make_decoder: MakeDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST", 60 * 4 * 784)
    with pytest.raises(AbsynthError, match="has 80 prototypes of 784 pixels; an ONNX file takes 60 at most"):
        export_onnx(codebook(make_decoder, 2), tmp_path / "model.onnx")


def test_another_ending_or_no_library_is_told(
    make_decoder: MakeDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = codebook(make_decoder, 2)
    with pytest.raises(AbsynthError, match=r"does not end in \.onnx"):
        export_onnx(model, tmp_path / "model.pb")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(AbsynthError, match=r"pip install 'absynth\[onnx\]'"):
        export_onnx(model, tmp_path / "model.onnx")


def test_the_command(
    make_decoder: MakeDecoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    digits: tuple[Tensor, Tensor],
    run: Any,
) -> None:
    from absynth import cli

    model = codebook(make_decoder)
    folder, out = model.save_pretrained(tmp_path / "model"), tmp_path / "made" / "model.onnx"
    monkeypatch.setattr(sys, "argv", ["absynth", "export", str(folder), str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == str(out)
    np.testing.assert_allclose(run(out, digits[0]), model(digits[0]).numpy(), rtol=0, atol=1e-4)
    monkeypatch.setattr(sys, "argv", ["absynth", "export", str(folder), "model.pt"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "does not end in .onnx" in capsys.readouterr().err
