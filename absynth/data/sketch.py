"""Reading what was drawn on a web page."""

from __future__ import annotations

import base64

from jaxtyping import Float
from torch import Tensor

from absynth.data.digits import center_digit
from absynth.data.pictures import decode_picture
from absynth.errors import AbsynthError

PREFIX = "data:image/png;base64,"
"""How a browser begins a drawing that it hands over as text (``canvas.toDataURL``)."""

MOST_CHARACTERS = 1_000_000
"""Of a drawing; one of 280 by 280 pixels has a few thousand."""


def read_sketch(sketch: str) -> Float[Tensor, "1 28 28"]:
    """The digit in a browser's drawing, as an image that a model trained on MNIST understands.

    Args:
        sketch: A data URL of a PNG picture.

    Raises:
        AbsynthError: If it is none, is too large, or shows no ink.
    """
    if not sketch.startswith(PREFIX) or len(sketch) > MOST_CHARACTERS:
        raise AbsynthError("The drawing did not arrive as a PNG picture; reload the page and draw again.")
    try:
        data = base64.b64decode(sketch[len(PREFIX) :], validate=True)
    except ValueError:
        raise AbsynthError("The drawing arrived damaged; draw again.") from None
    return center_digit(decode_picture(data, "The drawing"), "The drawing")
