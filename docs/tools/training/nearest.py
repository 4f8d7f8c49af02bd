"""Nearest prototypes trained for their certified margin, as Voráček and Hein (2022) do; no decoders.

Of every class a few prototypes are learned themselves. An image x whose best own prototype is p lies at least
h(q, p) = (‖x − q‖² − ‖x − p‖²) / (2 ‖q − p‖) from where the rival q beats p; the mean of max(0, t − h) over
images and their nearest rivals is lowered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from study import Record, Study, Table, clock, once
from torch import Tensor, nn
from torch.nn import functional

from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.checkpoints import Run, fingerprint


@dataclass(frozen=True)
class NearestSettings:
    """How to train nearest prototypes.

    Attributes:
        prototypes: Of a class.
        target: t, the distance beyond which an image no longer matters.
        epochs: Passes over the images; without any, prototypes stay the random training images they begin as.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start; it falls to 0 along a cosine.
        shift: Pixels that an image is moved by at most.
        seed: Of every draw.
    """

    prototypes: int = 400
    target: float = 2.5
    epochs: int = 100
    batch_size: int = 500
    learning_rate: float = 2e-3
    shift: int = 1
    seed: int = 0


NEAREST = {"untrained": NearestSettings(epochs=0), "trained": NearestSettings()}
"""By name, in the order of the table."""


class Nearest(nn.Module):
    """Prototypes that are learned themselves.

    Args:
        prototypes: To begin with.
    """

    def __init__(self, prototypes: Float[Tensor, "class prototype pixel"]) -> None:
        super().__init__()
        self.classes, self.count = prototypes.shape[:2]
        self.prototypes = nn.Parameter(prototypes.flatten(0, 1).clone())

    @torch.no_grad()
    def pair(
        self, images: Float[Tensor, "batch pixel"], labels: Labels
    ) -> tuple[Int64[Tensor, "batch"], Int64[Tensor, "batch"]]:
        """The best own prototype of each image, and the rival that is nearest to beating it."""
        table = self.prototypes
        squares = table.square().sum(1)
        scores = torch.addmm(squares, images, table.T, alpha=-2)
        members = torch.arange(self.classes).repeat_interleave(self.count) == labels[:, None]
        own_score, own = scores.masked_fill(~members, torch.inf).min(1)
        chosen = table[own]
        squared = torch.addmm(squares, chosen, table.T, alpha=-2) + squares[own, None]
        heights = (scores - own_score[:, None]) * squared.clamp(min=1e-3).rsqrt()
        return own, heights.masked_fill(members, torch.inf).argmin(1)

    def forward(self, images: Float[Tensor, "batch pixel"], labels: Labels) -> Float[Tensor, "batch"]:
        """The distance h(q, p) of each image, negative where a rival is better."""
        own, rival = self.pair(images, labels)
        near, far = self.prototypes.index_select(0, own), self.prototypes.index_select(0, rival)
        margins = (images - far).square().sum(1) - (images - near).square().sum(1)
        lengths: Tensor = (2 * (far - near)).norm(dim=1).clamp(min=1e-3)
        return margins / lengths


def shift(images: Images, most: int, generator: torch.Generator) -> Images:
    """Moves each image by its own whole number of pixels in each direction; what comes in is black.

    Args:
        images: Shape (batch, channel, height, width).
        most: Pixels at most.
        generator: Source of the moves.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (most,) * 4)
    places = list(product(range(2 * most + 1), repeat=2))
    chosen = torch.randint(len(places), (len(images),), generator=generator)
    moved = torch.empty_like(images)
    for number, (row, column) in enumerate(places):
        rows = chosen == number
        moved[rows] = padded[rows, :, row : row + height, column : column + width]
    return moved


def draw_images(
    images: Images, labels: Labels, count: int, generator: torch.Generator
) -> Float[Tensor, "class prototype pixel"]:
    """Random images of each class, flattened; with repetitions where it has too few.

    Args:
        images: To draw from.
        labels: Their classes.
        count: How many of a class.
        generator: Source of the draw.
    """
    drawn = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        drawn.append(images[members[order[torch.arange(count) % len(order)]]].flatten(1))
    return torch.stack(drawn)


def train_nearest(
    images: Images, labels: Labels, settings: NearestSettings, *, checkpoint: Path, progress: Progress
) -> tuple[Nearest, list[float], float | None]:
    """Trains nearest prototypes, or goes on from where an interrupted run stopped.

    Args:
        images: Training images.
        labels: Their classes.
        settings: How long and for what.
        checkpoint: Written after every epoch.
        progress: Where to show epochs and loss.

    Returns:
        The model, the mean loss of every epoch, and the seconds that all epochs take at the speed of those
        that were run now, if any were.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    model = Nearest(draw_images(images, labels, settings.prototypes, generator))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = settings.epochs * len(torch.arange(len(images)).split(settings.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    signature = {
        **asdict(settings),
        "data": fingerprint(images, labels),
        "start": fingerprint(model.prototypes),
    }
    run = Run(checkpoint, signature, model, optimizer, schedule, generator)
    history = run.restore()
    task = progress.add_task("nearest prototypes", total=settings.epochs, completed=len(history), note="")
    before, started = len(history), clock()
    while len(history) < settings.epochs:
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(settings.batch_size):
            batch = shift(images[rows], settings.shift, generator).flatten(1)
            loss = (settings.target - model(batch, labels[rows])).clamp(min=0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            model.prototypes.detach().clamp_(0, 1)
            total += float(loss.detach()) * len(rows)
        history.append(total / len(images))
        progress.update(task, advance=1, note=f"loss {history[-1]:.4f}")
        run.save(history)
    now = len(history) - before
    return model, history, (clock() - started) / now * settings.epochs if now else None


def measure_nearest(
    name: str, settings: NearestSettings, study: Study, records: Path, progress: Progress
) -> Record:
    """The record of a baseline, which is trained now unless it was before.

    Args:
        name: Of the record.
        settings: Of the training.
        study: The images, and how much is measured.
        records: Folder of the records.
        progress: Where to show the training and the measurements.
    """

    def make() -> Record:
        model, history, seconds = train_nearest(
            *study.trained,
            settings,
            checkpoint=study.work / "nearest" / f"{name}.pt",
            progress=progress,
        )
        table = model.prototypes.detach().unflatten(0, (model.classes, model.count))
        figures = study.measure(Table(table, torch.zeros(table.shape[:2])), progress)
        return {
            "seconds": None if seconds is None else round(seconds, 1),
            "loss": history[-1] if history else None,
            **figures,
        }

    return once(records / f"{name}.json", study.describe(nearest=asdict(settings)), make)
