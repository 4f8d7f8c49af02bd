"""Reading what was drawn on a web page."""

from __future__ import annotations

import base64

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.data.digits import center_digit
from absynth.data.domain import DIGITS, Domain
from absynth.data.pictures import decode_picture, resize
from absynth.errors import AbsynthError

PREFIX = "data:image/png;base64,"
"""How a browser begins a drawing that it hands over as text (``canvas.toDataURL``)."""

MOST_CHARACTERS = 1_000_000
"""Of a drawing; one of 280 by 280 pixels has a few thousand."""


def read_sketch(
    sketch: str, domain: Domain = DIGITS, *, dark: bool = True
) -> Float[Tensor, "1 height width"]:
    """A browser's drawing as an image that a model understands.

    Args:
        sketch: A data URL of a PNG picture, dark ink on white.
        domain: What the model is for. A digit is scaled and centred, any other drawing scaled as a whole.
        dark: Whether such images have a dark ground, so that the ink becomes light.

    Raises:
        AbsynthError: If it is none, is too large, or should show a digit and shows no ink.
    """
    if not sketch.startswith(PREFIX) or len(sketch) > MOST_CHARACTERS:
        raise AbsynthError("The drawing did not arrive as a PNG picture; reload the page and draw again.")
    try:
        data = base64.b64decode(sketch[len(PREFIX) :], validate=True)
    except ValueError:
        raise AbsynthError("The drawing arrived damaged; draw again.") from None
    picture = decode_picture(data, "The drawing")
    if domain.digits:
        return center_digit(picture, "The drawing")
    drawn = torch.from_numpy(resize(picture, *domain.size).copy()).unsqueeze(0)
    return 1 - drawn if dark else drawn
