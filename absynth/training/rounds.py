"""Further rounds of training the VAEs of an ABS, with more weight on images it could lose to another class.

A VAE that explains its class well on average may still lose its rare styles. Each VAE goes on learning from
its own class alone, and which of its images count more is decided as in boosting (Freund & Schapire 1997):
by how little the model before the round prefers their class to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.files import write_bytes
from absynth.inference import ABS
from absynth.models.pretrained import read_weights
from absynth.progress import Progress
from absynth.shapes import Images, Labels, Losses

SOFTNESS = 1.5
"""Width of the step in :meth:`Round.importance`, in units of the loss."""

CLEAR = 7.0
"""A margin of the codebook's losses above which the search is left out: such images are not at stake."""

SEARCHED = 2.0
"""What the search adds to such a margin, about: the own class gains more by it than the others do."""

IMAGES_AT_ONCE = 250
MARGINS_NAME = "margins.safetensors"


@dataclass(frozen=True)
class Round:
    """One round of going on.

    Attributes:
        epochs: Its length, as a share of the first training's.
        rate: Its learning rate at the start, as a share of the first training's.
        focus: What the weight of an image at stake has more than that of one safely classified, which is 1.
        margin: The margin below which an image is at stake, in units of the loss.
    """

    epochs: float
    rate: float
    focus: float
    margin: float

    def importance(self, margins: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """1 + focus · sigmoid((margin − m) / softness) of every image's margin m.

        >>> Round(0.2, 0.5, focus=8.0, margin=3.0).importance(torch.tensor([-40.0, 3.0, 60.0]))
        tensor([9., 5., 1.])
        """
        return 1 + self.focus * torch.sigmoid((self.margin - margins) / SOFTNESS)


def _margins(losses: Losses, labels: Labels) -> Float[Tensor, "batch"]:
    own = losses.gather(1, labels[:, None])
    return (losses.scatter(1, labels[:, None], torch.inf).amin(1, keepdim=True) - own)[:, 0]


@torch.no_grad()
def training_margins(
    model: ABS, images: Images, labels: Labels, progress: Progress
) -> Float[Tensor, "batch"]:
    """By how much every image's own class explains it better than the best other one, min_c s_c − s_y.

    Args:
        model: An ABS that is ready to classify.
        images: Training images.
        labels: Their classes.
        progress: Where to show how far it is.
    """
    task = progress.add_task("margins", total=len(images), note="")
    parts = []
    for rows in torch.arange(len(images)).split(IMAGES_AT_ONCE):
        batch, truth = images[rows], labels[rows]
        margins = _margins(model.codebook.losses(batch), truth) + SEARCHED
        close = (margins < CLEAR + SEARCHED).nonzero()[:, 0]
        if len(close):
            margins[close] = _margins(model.infer(batch[close]).losses, truth[close])
        parts.append(margins)
        progress.advance(task, len(rows))
    return torch.cat(parts)


def kept_margins(
    folder: Path, make_model: Callable[[], ABS], images: Images, labels: Labels, progress: Progress
) -> Float[Tensor, "batch"]:
    """The margins of training images, measured once and kept beside the checkpoints that follow from them.

    Args:
        folder: Of these checkpoints.
        make_model: Makes the ABS that they are measured of, if they were not measured yet.
        images: Training images.
        labels: Their classes.
        progress: Where to show how far it is.

    Raises:
        AbsynthError: If what is kept is damaged.
    """
    path = folder / MARGINS_NAME
    if path.exists():
        kept = read_weights(path).get("margins")
        if kept is None or kept.shape != (len(images),):
            raise AbsynthError(f"The margins {path} are damaged; delete them to measure them again.")
        return kept
    model = make_model()
    model.prepare()
    margins = training_margins(model.eval(), images, labels, progress)
    write_bytes(path, save({"margins": margins}))
    return margins
