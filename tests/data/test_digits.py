"""Pictures of single digits become what MNIST has, whatever their size, polarity, light and noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from PIL import Image
from torch import Tensor

from absynth.data import center_digit, load_dataset, read_digit
from absynth.data.digits import SeveralDigitsError, render_digit
from absynth.errors import AbsynthError

COUNT = 50


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_dataset("mnist", "test")
    return images[:COUNT].clone(), labels[:COUNT].clone()


@pytest.fixture(scope="module")
def nearest() -> Callable[[Tensor], Tensor]:
    """The label of each image's nearest neighbour among 20,000 training images."""
    images, labels = load_dataset("mnist", "train")
    known, names = images[:20_000].flatten(1), labels[:20_000].clone()
    energies = known.square().sum(1)
    return lambda queries: names[(energies - 2 * queries.flatten(1) @ known.T).argmin(dim=1)]


def enlarge(image: Tensor, height: int, width: int) -> ndarray:
    picture = Image.fromarray(image[0].numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).clip(0, 1)


def paper(
    image: Tensor, generator: np.random.Generator, light: Callable[[ndarray, ndarray], ndarray]
) -> ndarray:
    """A photograph: the digit somewhere on a 400×300 sheet, dark on light, unevenly lit and noisy."""
    side = int(generator.integers(130, 280))
    top, left = generator.integers(0, 400 - side), generator.integers(0, 300 - side)
    ink = np.zeros((400, 300), dtype=np.float32)
    ink[top : top + side, left : left + side] = enlarge(image, side, side)
    rows, columns = np.mgrid[0:400, 0:300] / np.array([400, 300]).reshape(2, 1, 1)
    picture = light(rows, columns) * (1 - 0.8 * ink) + generator.normal(0, 0.03, ink.shape)
    return picture.clip(0, 1).astype(np.float32)


LIGHTS: dict[str, Callable[[ndarray, ndarray], ndarray]] = {
    "gradient": lambda rows, columns: 0.95 - 0.4 * columns - 0.15 * rows,
    "vignette": lambda rows, columns: 0.9 - 0.7 * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2),
    "lamp": lambda rows, columns: 0.4 + 0.5 * np.exp(-((columns - 0.3) ** 2 + (rows - 0.4) ** 2) / 0.15),
    "shadow": lambda rows, columns: np.where(columns + 0.3 * rows > 0.6, 0.9, 0.6),
}


def assert_recognised(
    results: Tensor, digits: tuple[Tensor, Tensor], nearest: Callable[[Tensor], Tensor], distance: float
) -> None:
    """The results are near the originals, and a nearest-neighbour classifier knows at least 90 % of them."""
    images, labels = digits
    assert (results - images).square().flatten(1).sum(1).median() < distance
    assert (nearest(results) == labels).float().mean() >= 0.9


@pytest.mark.parametrize("light", LIGHTS)
def test_photographed_digits(
    light: str, digits: tuple[Tensor, Tensor], nearest: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    results = []
    for image in digits[0]:
        picture = Image.fromarray((paper(image, generator, LIGHTS[light]) * 255).astype(np.uint8))
        picture.convert("RGB").save(tmp_path / "photo.jpg", quality=90)
        try:
            results.append(read_digit(tmp_path / "photo.jpg"))
        except SeveralDigitsError:  # what a dark corner is taken for counts as not recognised
            results.append(torch.zeros(1, 28, 28))
    assert_recognised(torch.stack(results), digits, nearest, distance=10)


@pytest.mark.parametrize(
    ("kind", "distance"),
    [
        ("larger", 10),  # strokes are redrawn at the width of MNIST's pens
        ("inverted", 10),
        ("stretched", 40),
        ("smaller", 30),
        ("off-centre", 35),
        ("blocks", 10),
        ("chalk", 10),
    ],
)
def test_drawn_digits(
    kind: str, distance: float, digits: tuple[Tensor, Tensor], nearest: Callable[[Tensor], Tensor]
) -> None:
    generator = np.random.default_rng(0)
    change: dict[str, Callable[[Tensor], ndarray]] = {
        "larger": lambda image: enlarge(image, 200, 200),
        "inverted": lambda image: 1 - enlarge(image, 200, 200),
        "stretched": lambda image: 1 - enlarge(image, 200, 150),
        "smaller": lambda image: enlarge(image, 14, 14),
        "off-centre": lambda image: np.pad(image[0].numpy(), ((9, 1), (2, 12))),
        "blocks": lambda image: (enlarge(image, 300, 300) > 0.5).astype(np.float32),
        "chalk": lambda image: (
            0.15 + 0.6 * enlarge(image, 200, 200) + generator.normal(0, 0.03, (200, 200)).astype(np.float32)
        ).clip(0, 1),
    }
    results = torch.stack([center_digit(change[kind](image)) for image in digits[0]])
    assert_recognised(results, digits, nearest, distance)


def test_an_mnist_image_comes_back_bit_for_bit(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    for image in digits[0]:
        pixels = (image[0] * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "digit.png")
        np.save(tmp_path / "digit.npy", image.numpy())
        assert torch.equal(read_digit(tmp_path / "digit.png"), image)
        assert torch.equal(read_digit(tmp_path / "digit.npy"), image)
        Image.fromarray(255 - pixels).save(tmp_path / "digit.png")
        assert torch.allclose(read_digit(tmp_path / "digit.png"), image, atol=1e-6)


def test_an_adversarial_perturbation_is_left_in_place(digits: tuple[Tensor, Tensor]) -> None:
    noise = torch.rand(digits[0].shape, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    for image in (digits[0] + noise).clamp(0, 1):
        assert torch.equal(center_digit(image[0].numpy()), image)


@settings(max_examples=25)
@given(
    height=st.integers(20, 300),
    width=st.integers(20, 300),
    thickness=st.floats(0.05, 0.2),
    ink=st.floats(0, 0.3),
    sheet=st.floats(0.6, 1),
    inverted=st.booleans(),
)
def test_a_bar_is_scaled_and_centred(
    *, height: int, width: int, thickness: float, ink: float, sheet: float, inverted: bool
) -> None:
    picture = np.full((height, width), sheet, dtype=np.float32)
    half = max(1, round(thickness * min(height, width) / 2))
    picture[height // 5 : height - height // 5, width // 2 - half : width // 2 + half] = ink
    image = center_digit(1 - picture if inverted else picture)
    assert image.shape == (1, 28, 28)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert 0.5 < image.max() <= 1
    places = torch.arange(28.0)
    for axis in (0, 1):
        assert abs((image[0].sum(dim=1 - axis) * places).sum() / image.sum() - 14) <= 0.6
    rows, columns = (image[0] > 0.3).nonzero(as_tuple=True)
    assert 18 <= max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 <= 20


@pytest.mark.parametrize(
    "picture",
    [
        np.ones((50, 50)),
        np.zeros((28, 28)),
        np.full((1, 1), 0.5),
        np.ones((1, 500)),
        np.mgrid[0:100, 0:100][0] / 100,
        np.where(np.mgrid[0:164, 0:8][0] > 82, 0.2, 0.9),
        np.random.default_rng(0).normal(0.5, 0.1, (200, 200)).clip(0, 1),
        0.8 + np.random.default_rng(0).normal(0, 0.01, (300, 200)),
    ],
    ids=["white", "black", "point", "line", "ramp", "two halves", "noise", "sensor noise"],
)
def test_no_ink_is_told(picture: ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "blank.npy", picture)
    with pytest.raises(
        AbsynthError, match=r"blank\.npy shows no ink(: its .* of the range)?; give a picture of one digit"
    ):
        read_digit(tmp_path / "blank.npy")


@pytest.mark.parametrize("dark", [True, False])
@pytest.mark.parametrize("place", [(1400, 800), (5, 5)])
def test_a_digit_too_small_for_its_page_is_told(place: tuple[int, int], dark: bool) -> None:
    page = np.ones((3000, 2200), np.float32)
    row, column = place
    page[row : row + 6, column : column + 25] = 0
    page[row : row + 40, column + 19 : column + 25] = 0
    page = page if dark else 1 - page
    sentence = r"What it shows is too small to be read, 40x25 of 3000x2200 pixels; cut it out"
    with pytest.raises(AbsynthError, match=sentence):
        render_digit(page, "it")
    cut = page[max(0, row - 20) : row + 60, max(0, column - 20) : column + 45]
    assert center_digit(cut).amax() > 0.5


def test_a_page_with_a_speck_of_dust_shows_no_ink() -> None:
    page = np.ones((3000, 2200), np.float32)
    page[500:504, 500:504] = 0
    with pytest.raises(AbsynthError, match="shows no ink"):
        render_digit(page, "it")
