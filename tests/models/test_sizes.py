"""Networks follow from the size of the images, and for 28×28 they are what they always were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from absynth.data.domain import Domain, Size
from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized, IntervalCNN, SmoothedCNN, StridedCNN
from absynth.models.confidence import ALPHA
from absynth.models.pretrained import PretrainedModel
from absynth.models.vae import VAE, Decoder, decoder_kernels, encoder_kernels
from absynth.zoo import load

SIDES = st.integers(16, 64)
SIZES = st.tuples(SIDES, SIDES)


@given(SIZES)
def test_the_kernels_leave_no_pixel_out_and_make_every_pixel(size: Size) -> None:
    for side, down, up in zip(
        size, zip(*encoder_kernels(size), strict=True), zip(*decoder_kernels(size), strict=True), strict=True
    ):
        left, made = side, 1
        for kernel, stride in zip(down, (1, 2, 2, 1), strict=True):
            assert (left - kernel) % stride == 0, "a strided kernel passes over the last row"
            left = (left - kernel) // stride + 1
        for kernel, stride in zip(up, (1, 2, 2, 1), strict=True):
            made = (made - 1) * stride + kernel
        assert (left, made) == (1, side)


@settings(max_examples=8)
@given(SIZES)
def test_every_network_takes_and_makes_images_of_its_size(size: Size) -> None:
    images = torch.rand(2, 1, *size)
    vae = VAE(3, size)
    assert vae.encoder(images).mean.shape == (2, 3)
    assert vae.decoder(torch.zeros(2, 3)).shape == images.shape
    for kind in (CNN, StridedCNN, IntervalCNN, SmoothedCNN):
        network = kind(7, size).eval()
        assert network(images).shape == (2, 7)
        assert kind.from_config(network.config()).image_size == size


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (28, 28), (39, 22)])
def test_the_jacobian_is_the_slope_of_finite_differences(size: Size) -> None:
    decoder = Decoder(3, image_size=size).double()
    for layer in decoder.layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, std=0.3)
            layer.momentum = 1.0
    decoder(torch.randn(50, 3, dtype=torch.float64))
    folded = decoder.eval().folded()
    latents = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(folded(latents), decoder(latents))
    images, jacobian = folded.jacobian(latents)
    torch.testing.assert_close(images, folded(latents))
    assert jacobian.shape == (2, 3, 1, *size)
    for coordinate, step in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        slope = (folded(latents + step) - folded(latents - step)) / 2e-5
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(jacobian[:, coordinate], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("size", [(15, 28), (28, 65)])
@pytest.mark.parametrize("kind", [VAE, CNN, StridedCNN, IntervalCNN, SmoothedCNN])
def test_other_sizes_are_refused(kind: type[nn.Module], size: Size) -> None:
    with pytest.raises(AbsynthError, match="models take sides from 16 to 64"):
        kind(3, size)


def test_images_of_another_size_are_refused() -> None:
    model = ABS(CodebookABS([Decoder(2, image_size=(16, 20)) for _ in range(2)], draw_latents(3, 2)))
    model.prepare()
    with pytest.raises(AbsynthError, match=r"takes \(batch, 1, 16, 20\)"):
        model(torch.zeros(1, 1, 28, 28))


def test_a_config_names_the_size_and_the_sharpness_only_where_they_are_not_mnists() -> None:
    """Records of attacks are known by a hash of the config: one of 28×28 must stay as it was."""
    assert Decoder().config() == {"latents": 8, "batch_norm": True}
    assert CNN(4).config() == StridedCNN(4).config() == IntervalCNN(4).config() == {"classes": 4}
    assert "alpha" not in CodebookABS([Decoder()], draw_latents(3)).config()
    assert Decoder(image_size=(16, 20)).config()["image_size"] == [16, 20]


def make(name: str) -> PretrainedModel:
    size = (18, 21)
    if name == "cnn":
        return Binarized(CNN(2, size))
    codebook = CodebookABS([Decoder(2, image_size=size) for _ in range(2)], draw_latents(4, 2), alpha=300.0)
    search = SearchSettings(method="quasi-newton", steps=2, fold_batch_norm=True)
    return codebook if name == "codebook" else ABS(codebook, search)


@pytest.mark.parametrize("name", ["cnn", "codebook", "abs"])
def test_a_model_of_another_size_comes_back_with_its_classes(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.domain = Domain(("left", "right"), (18, 21))
    model.save_pretrained(tmp_path)
    model.prepare()
    loaded = load(tmp_path)
    images = torch.rand(3, 1, 18, 21)
    torch.testing.assert_close(loaded(images), model.eval()(images))
    assert loaded.domain == model.domain
    if name == "codebook":
        losses = loaded.losses(images)
        torch.testing.assert_close(loaded(images), losses * (-300 / (18 * 21)))
        assert loaded.alpha != ALPHA


def test_a_model_without_a_domain_is_for_digits(tmp_path: Path) -> None:
    CNN().save_pretrained(tmp_path)
    assert "data" not in json.loads((tmp_path / "config.json").read_text())
    assert load(tmp_path).domain.digits
    (tmp_path / "config.json").write_text(json.dumps({"type": "cnn", "classes": 10, "data": {"size": 3}}))
    with pytest.raises(AbsynthError, match="lacks class_names, size or digits"):
        load(tmp_path)
