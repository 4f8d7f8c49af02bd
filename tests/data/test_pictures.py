"""Picture files become grey values, and what is no picture is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as npst
from numpy import ndarray
from PIL import Image

from absynth.data import pictures
from absynth.data.pictures import read_picture, to_grey, unit_range
from absynth.errors import AbsynthError

GREY = np.arange(200, dtype=np.uint8).reshape(10, 20)


@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2)))
def test_integers_are_divided_by_255(array: ndarray) -> None:
    result = unit_range(array, "it")
    assert result.dtype == np.float32
    assert np.array_equal(result, array.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY / 255),
        (GREY[None], GREY / 255),
        (GREY[..., None], GREY / 255),
        (np.stack([GREY] * 3, axis=-1), GREY / 255),
        (GREY / 255, GREY / 255),
        (GREY.astype(np.int64), GREY / 255),
        (GREY > 100, GREY > 100),
    ],
)
def test_arrays(array: ndarray, expected: ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    assert np.allclose(read_picture(tmp_path / "a.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_of_png(mode: str, tmp_path: Path) -> None:
    grey = np.where(GREY > 100, 255, 0).astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(grey).convert(mode)
    picture.save(tmp_path / "a.png")
    assert np.allclose(read_picture(tmp_path / "a.png"), grey / 255, atol=1e-5)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGB"])
def test_jpegs_of_print_shops_and_cameras(mode: str, tmp_path: Path) -> None:
    """Ink is dark in each of them; a page of CMYK that is taken for its negative would be seen."""
    picture = Image.fromarray(GREY).convert("RGB").convert(mode)
    picture.save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.mode == ("CMYK" if mode == "CMYK" else "RGB")
    assert np.allclose(read_picture(tmp_path / "a.jpg"), GREY / 255, atol=3 / 255)


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_a_tiff_of_real_numbers_is_scaled_by_what_they_reach(top: int, tmp_path: Path) -> None:
    values = (GREY / 255 * top).astype(np.float32)
    values[0, 0], values[0, 1] = np.nan, -top
    Image.fromarray(values).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as written:
        assert written.mode == "F"
    expected = GREY / 255
    expected[0, :2] = 0
    assert np.allclose(read_picture(tmp_path / "a.tif"), expected, atol=1e-6)


def test_a_tiff_of_16_bits_or_of_four_inks(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "grey.tif")
    Image.fromarray(GREY).convert("CMYK").save(tmp_path / "inks.tif")
    for name in ("grey.tif", "inks.tif"):
        assert np.allclose(read_picture(tmp_path / name), GREY / 255, atol=1e-5)


@pytest.mark.parametrize(("ink", "background"), [(0, 1), (255, 0)])
def test_a_transparent_background_contrasts_with_the_ink(ink: int, background: int, tmp_path: Path) -> None:
    pixels = np.zeros((10, 10, 4), dtype=np.uint8)
    pixels[4:6, 2:8] = (ink, ink, ink, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = read_picture(tmp_path / "a.png")
    assert np.allclose(grey[0], background, atol=1e-6)
    assert np.allclose(grey[4, 4], ink / 255, atol=1e-6)


def test_colour_becomes_luma() -> None:
    red = np.zeros((1, 1, 3), dtype=np.float32)
    red[..., 0] = 1
    assert np.allclose(to_grey(red), 0.299)


def test_a_photograph_is_turned_the_way_it_was_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90° clockwise
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    assert np.allclose(read_picture(tmp_path / "a.png"), np.rot90(GREY, -1) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros(5), r"has the shape \(5,\)"),
        (np.zeros((4, 4, 2)), r"has the shape \(4, 4, 2\)"),
        (np.zeros((0, 4)), "is empty: its shape is"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.full((4, 4), np.inf), "not finite"),
        (
            np.full((4, 4), 255.0),
            "from 0 to 255; pixels are integers from 0 to 255 or real numbers from 0 to 1",
        ),
        (np.full((4, 4), -1), "from -1 to 0"),
        (np.full((4, 4), "7"), "pixels are integers or real numbers"),
        (np.full((4, 4), 1j), "pixels are integers or real numbers"),
    ],
)
def test_arrays_that_are_no_pictures_are_named(array: ndarray, sentence: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(AbsynthError, match=sentence):
        read_picture(tmp_path / "a.npy")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 cut off"])
def test_files_that_are_no_pictures_are_named(content: bytes, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "no_suffix"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AbsynthError, match=f"{name} cannot be read as a picture; give an undamaged PNG"):
            read_picture(tmp_path / name)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(AbsynthError, match="cannot be read as an array"):
        read_picture(tmp_path / "a.npy")


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(AbsynthError, match="cannot be read as a picture"):
            read_picture(path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(AbsynthError, match="cannot be read as an array"):
        read_picture(tmp_path / "a.npy")


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match=r"There is no file .*absent"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(AbsynthError, match="is not a file"):
        read_picture(tmp_path)


def test_absurd_sizes_are_refused_before_they_take_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1)))
    with (tmp_path / "liar.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (10**9, 10**9)})
    with pytest.raises(AbsynthError, match="cannot be read as an array"):
        read_picture(tmp_path / "liar.npy")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    Image.fromarray(GREY).save(tmp_path / "large.png")
    np.save(tmp_path / "large.npy", GREY)
    for name in ("large.png", "large.npy"):
        with pytest.raises(AbsynthError, match=r"is too large \(20x10 pixels\); make it at most"):
            read_picture(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    with pytest.raises(AbsynthError, match="is too large"):
        read_picture(tmp_path / "large.png")
