"""Samples and latent walks of each class's decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.evaluate.tasks import weights_hash
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.models.front import unwrap
from absynth.report.drawing import Panel, Section, draw_image, finish_sheet, image_sheet

COLUMNS = 10
MOST_ROWS = 20


def samples(codebook: CodebookABS, seed: int) -> Float[Tensor, "class column height width"]:
    """Images of latents drawn from N(0, I), the same latents for each class.

    Args:
        codebook: Whose decoders to use.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    return _decode(codebook, torch.randn(COLUMNS, codebook.latents.shape[-1], generator=generator))


def walks(codebook: CodebookABS, seed: int) -> Float[Tensor, "class column height width"]:
    """Images along a straight line between two latents drawn from N(0, I), the same line for each class.

    Args:
        codebook: Whose decoders to use.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, codebook.latents.shape[-1], generator=generator)
    way = torch.linspace(0, 1, COLUMNS)[:, None]
    return _decode(codebook, (1 - way) * start + way * end)


def _decode(codebook: CodebookABS, latents: Tensor) -> Tensor:
    rows = min(MOST_ROWS, len(codebook.decoders))
    return torch.stack([codebook.decode(label, latents)[:, 0] for label in range(rows)])


def latents_section(
    key: str, title: str, load_model: Callable[[str], nn.Module], seed: int, name: str = "abs"
) -> Section:
    """What each decoder makes of random latents and of the way from one to another.

    Args:
        key: Anchor.
        title: Heading.
        load_model: Gives the model by its name.
        seed: Of the latents.
        name: Of the model.

    Raises:
        AbsynthError: If the model cannot be had, or has no decoders.
    """
    model = unwrap(load_model(name))
    if not isinstance(model, ABS):
        raise AbsynthError(f"the model '{name}' has no decoders.")
    caption = (
        f"Each row is one class's decoder of the model '{name}' (weights {weights_hash(model)[:12]}). Left: "
        f"ten latents drawn from N(0, I) (seed {seed}), the same for every class. Right: the straight way, "
        f"in equal steps, from one latent to another, drawn likewise (seed {seed + 1}). None is picked."
    )
    if len(model.codebook.decoders) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(model.codebook.decoders)} classes are shown."
    panels = (
        _sheet("latents-samples", samples(model.codebook, seed), "Random samples of each class's decoder."),
        _sheet("latents-walks", walks(model.codebook, seed + 1), "A latent walk of each class's decoder."),
    )
    return Section(key, title, caption, panels)


def _sheet(name: str, rows: Tensor, words: str) -> Panel:
    figure, axes = image_sheet(COLUMNS, len(rows), width=3.5)
    for top, images in enumerate(rows):
        for left, image in enumerate(images):
            draw_image(axes, image, left, top)
    finish_sheet(axes, COLUMNS, len(rows))
    return Panel(name, figure, words)
