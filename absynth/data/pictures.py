"""Reading one picture file as grey values."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from absynth.errors import AbsynthError
from absynth.inputs import allowance, as_mask, digits, offender

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    ".npy",
)
"""How names of pictures end; what a file holds is told by its content."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
"""What is read, by Pillow's names."""

PLUGINS = ("Png", "Jpeg", "WebP", "Tiff", "Bmp", "Gif")
"""The modules of Pillow that read them."""

KINDS = "PNG, JPEG, WebP, TIFF, BMP, GIF or .npy"

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
"""What follows ``ftyp`` in the first bytes of a HEIC or AVIF file."""

MOST_PIXELS = 64_000_000
"""The largest picture that is read: about what the largest phone cameras deliver."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""How much red, green and blue weigh in a grey value (ITU-R BT.601)."""


def read_picture(path: str | Path, name: str | None = None) -> Float[ndarray, "height width"]:
    """The picture at ``path`` as grey values.

    Colour becomes luma, a photograph is turned the way its camera was held, and a transparent background
    becomes white behind dark ink and black behind light ink.

    Args:
        path: A PNG, JPEG, WebP, TIFF, BMP or GIF, told by its content, of which the first frame counts; or an
            .npy array of shape (height, width), (1, height, width) or (height, width, 1, 3 or 4): integers
            from 0 to 255, or real numbers from 0 to 1.
        name: What to call it in a message; by default its path.

    Returns:
        float32 values in [0, 1]; an 8-bit grey value v becomes v / 255 exactly.

    Raises:
        AbsynthError: If the file is missing, empty, not a picture, or larger than 64 megapixels.
    """
    path = Path(path)
    name = str(path) if name is None else name
    if not path.exists():
        raise AbsynthError(f"There is no file {name}; give the path of a picture.")
    if not path.is_file():
        raise AbsynthError(f"{name} is not a file; give the path of a picture.")
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError as error:
        raise AbsynthError(
            f"{name} cannot be read ({error.strerror}); give a file that may be read."
        ) from None
    if begin[:6] == b"\x93NUMPY" or path.suffix.lower() == ".npy":
        return to_grey(_read_array(path, name))
    return to_grey(_read_encoded(path, name))


def decode_picture(data: bytes, name: str) -> Float[ndarray, "height width"]:
    """The picture in the bytes of a file as grey values, as :func:`read_picture` gives them.

    Args:
        data: All bytes of the file.
        name: What to call the picture in a message.

    Raises:
        AbsynthError: If it is not a picture, or larger than 64 megapixels.
    """
    return to_grey(_read_encoded(io.BytesIO(data), name))


def to_grey(pixels: Float[ndarray, "height width *channels"]) -> Float[ndarray, "height width"]:
    """Grey values of a picture with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels.

    >>> to_grey(np.full((1, 1, 3), 0.5, dtype=np.float32))
    array([[0.5]], dtype=float32)
    """
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[2]
    grey: ndarray = pixels[..., :3] @ LUMA if channels >= 3 else pixels[..., 0]
    if channels in (2, 4):
        alpha = pixels[..., -1]
        if alpha.min() < 1:
            paper = float((grey * alpha).sum() < 0.5 * alpha.sum())
            grey = grey * alpha + paper * (1 - alpha)
    return grey.astype(np.float32).clip(0, 1)


def resize(
    picture: Float[ndarray, "height width"], height: int, width: int
) -> Float[ndarray, "new_height new_width"]:
    """A picture stretched or shrunk to a size, by bicubic interpolation that averages where it shrinks.

    >>> resize(np.ones((40, 30), dtype=np.float32), 16, 20).shape
    (16, 20)
    """
    if picture.shape == (height, width):
        return picture
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture, dtype=np.float32))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32).clip(0, 1)


def _read_encoded(source: Path | io.BytesIO, name: str) -> Float[ndarray, "height width *channels"]:
    import warnings

    from PIL import Image, ImageOps

    for kind in PLUGINS:  # Pillow finds a format by itself only where all are allowed
        import_module(f"PIL.{kind}ImagePlugin")
    try:
        with warnings.catch_warnings():
            # Our own limit follows, lower than Pillow's; where it can read on, the rest is no matter.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as picture:
                _check_size(name, picture.height, picture.width)
                return _decode(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError:
        raise AbsynthError(_too_large(name)) from None
    except AbsynthError:
        raise
    except Exception:  # whatever Pillow may meet in a damaged file
        if _is_heic(source):
            raise AbsynthError(
                f"{name} is a HEIC or AVIF picture, which is not read; convert it to JPEG, or read it "
                "with the package pillow-heif and save it as PNG."
            ) from None
        raise AbsynthError(f"{name} cannot be read as a picture; give an undamaged {KINDS} file.") from None


def _is_heic(source: Path | io.BytesIO) -> bool:
    """Whether a file begins as the pictures of newer phones do."""
    try:
        begin = source.read_bytes()[:12] if isinstance(source, Path) else source.getvalue()[:12]
    except OSError:
        return False
    return begin[4:8] == b"ftyp" and begin[8:12] in HEIC_BRANDS


def _decode(picture: Any) -> Float[ndarray, "height width *channels"]:
    """The pixels of an opened picture in [0, 1], whatever its mode."""
    transparent = "A" in picture.getbands() or "transparency" in picture.info
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut them off at 255
        return (np.asarray(picture, dtype=np.float32) / 65535).clip(0, 1)
    if picture.mode == "F":  # real numbers, of a TIFF: from 0 to 1, or what 8 or 16 bits hold
        values = np.nan_to_num(np.asarray(picture, dtype=np.float32)).clip(0, None)
        top = next((one for one in (1, 255, 65535) if values.max(initial=0) <= one), values.max(initial=1))
        return values / np.float32(top)
    if picture.mode in ("1", "L") and not transparent:
        mode = "L"
    elif picture.mode == "LA":
        mode = "LA"
    else:
        mode = "RGBA" if transparent else "RGB"
    pixels = np.array(picture.convert(mode), dtype=np.float32)
    pixels /= 255
    return pixels


def _read_array(path: Path, name: str) -> Float[ndarray, "height width *channels"]:
    try:
        # Mapped, so that a header that promises terabytes is seen before memory is taken for them.
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # whatever NumPy may meet in a damaged header
        raise AbsynthError(f"{name} cannot be read as an array; give one that numpy.save wrote.") from None
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise AbsynthError(
            f"{name} has the shape {array.shape}; a picture is (height, width) or (height, width, channels)."
        )
    if array.size == 0:
        raise AbsynthError(f"{name} is empty: its shape is {array.shape}; a picture has at least one pixel.")
    _check_size(name, *array.shape[:2])
    return unit_range(as_mask(array), name)


def unit_range(array: ndarray, name: str) -> Float[ndarray, "*shape"]:
    """Pixel values as float32 in [0, 1]: integers are divided by 255, real numbers stay.

    Real numbers outside [0, 1] by a rounding error are clipped (:func:`absynth.inputs.allowance`).

    Args:
        array: Pixel values of any shape.
        name: What to call the array in a message.

    Raises:
        AbsynthError: If the values are no numbers, not finite or out of range.

    >>> unit_range(np.array([0, 255], dtype=np.uint8), "array")
    array([0., 1.], dtype=float32)
    """
    if array.dtype.kind == "b":
        return array.astype(np.float32)
    if array.dtype.kind not in "iuf":
        raise AbsynthError(f"{name} holds {array.dtype} values; pixels are integers or real numbers.")
    if not np.isfinite(array).all():
        raise AbsynthError(f"{name} holds values that are not finite; pixels are finite numbers.")
    real = array.dtype.kind == "f"
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    top = 1 if real else 255
    allowed = allowance(float(np.finfo(array.dtype).eps)) if real else 0.0
    if offender(low, high, allowed, top=top) is not None:
        raise AbsynthError(
            f"{name} holds values from {digits(low)} to {digits(high)}; pixels are integers from 0 to 255 "
            "or real numbers from 0 to 1."
        )
    scaled: ndarray = array.astype(np.float32)
    scaled /= top
    return scaled.clip(0, 1, out=scaled) if real else scaled


def _check_size(name: str, height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise AbsynthError(_too_large(name, f" ({width}x{height} pixels)"))


def _too_large(name: str, size: str = "") -> str:
    return f"{name} is too large{size}; make it at most {MOST_PIXELS // 10**6} megapixels."
