"""A browser's drawing becomes a digit, and what is none is refused with a sentence."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image

from absynth.data import center_digit, read_digit
from absynth.data.pictures import decode_picture, read_picture
from absynth.data.sketch import MOST_CHARACTERS, PREFIX, read_sketch
from absynth.errors import AbsynthError


def sheet() -> ndarray:
    """A bar of ink on a white sheet."""
    pixels = np.full((280, 280), 255, dtype=np.uint8)
    pixels[60:220, 130:150] = 0
    return pixels


def png(pixels: ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(content: bytes) -> str:
    return PREFIX + base64.b64encode(content).decode()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_drawing_is_centred_as_a_picture_is(channels: int) -> None:
    pixels = sheet()
    if channels > 1:
        pixels = np.stack([pixels] * 3 + [np.full_like(pixels, 255)] * (channels == 4), axis=-1)
    expected = center_digit(sheet().astype(np.float32) / 255)
    assert torch.allclose(read_sketch(data_url(png(pixels))), expected, atol=1e-5)


def test_ink_on_a_transparent_sheet_is_read() -> None:
    alpha = 255 - sheet()
    pixels = np.stack([np.zeros_like(alpha)] * 3 + [alpha], axis=-1)
    expected = center_digit(sheet().astype(np.float32) / 255)
    assert torch.allclose(read_sketch(data_url(png(pixels))), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sketch", "message"),
    [
        ("", "reload the page"),
        ("hello", "reload the page"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "reload the page"),
        (PREFIX + "A" * MOST_CHARACTERS, "reload the page"),
        (PREFIX + "?!", "damaged"),
        (PREFIX + "é", "damaged"),
        (data_url(b"no picture"), "The drawing cannot be read as a picture"),
        (data_url(png(sheet())[:100]), "The drawing cannot be read as a picture"),
        (data_url(png(np.full((280, 280), 255, dtype=np.uint8))), "The drawing shows no ink"),
        (data_url(png(np.full((1, 1), 255, dtype=np.uint8))), "The drawing shows no ink"),
    ],
)
def test_what_is_no_drawing_is_refused(sketch: str, message: str) -> None:
    with pytest.raises(AbsynthError, match=message):
        read_sketch(sketch)


def test_a_picture_is_the_same_from_bytes_and_from_a_file(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(png(sheet()))
    assert np.array_equal(decode_picture(png(sheet()), "it"), read_picture(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["a.png", "a.npy", "absent.png"])
def test_a_message_calls_a_picture_by_the_name_it_was_given(name: str, tmp_path) -> None:
    if name != "absent.png":
        (tmp_path / name).write_text("no picture")
    with pytest.raises(AbsynthError) as caught:
        read_digit(tmp_path / name, "Yours")
    assert "Yours" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
