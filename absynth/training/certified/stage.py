"""A stage of training for certificates: in each round pairs of prototypes are mined and learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from absynth.models.vae import Decoder, Posterior
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.augmentation import BENT_AT_ONCE, Perturbation
from absynth.training.certified.learning import learn
from absynth.training.certified.pairs import mine, mining_axes, nearest_in_pixels
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.checkpoints import Run, fingerprint
from absynth.training.latents import draw_codebook

DECODED_AT_ONCE = 250
"""Prototypes decoded together in a round."""

MINED_FOR_ONE = 4
"""Pairs that are mined by their distance in L2 for each that is kept by its distance in L0."""


def train_for_certificates(
    decoders: Sequence[Decoder],
    posterior: Posterior,
    images: Images,
    labels: Labels,
    settings: CertifiedSettings,
    *,
    checkpoint: Path,
    progress: Progress,
    perturbation: Perturbation,
) -> list[float]:
    """Trains decoders for the certificates of a codebook, or goes on from where an interrupted run stopped.

    Args:
        decoders: One a class, without batch norm; they are changed.
        posterior: What the encoder of each training image's class says of it, and then perhaps of changed
            copies of all of them, in the same order.
        images: Training images.
        labels: Their classes.
        settings: How long and for what.
        checkpoint: Written after every round; a run that goes on from it ends with the same weights.
        progress: Where to show rounds and loss.
        perturbation: Changes the images a little.

    Returns:
        The mean loss of every round's pairs.

    Raises:
        AbsynthError: If the checkpoint is damaged or belongs to another run.
    """
    model = nn.ModuleList(decoders).requires_grad_(True).train()
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    schedule, average = schedule_and_average(model, optimizer, settings)
    signature = {
        **asdict(settings),
        "data": fingerprint(images, labels, *posterior),
        "start": fingerprint(*model.state_dict().values()),
    }
    kept = model if average is None else nn.ModuleList([model, average])
    run = Run(checkpoint, signature, kept, optimizer, schedule, generator)
    history = run.restore()
    basis = mining_axes(images)
    task = progress.add_task("certificates", total=settings.rounds, completed=len(history), note="")
    while len(history) < settings.rounds:
        history.append(
            _round(decoders, posterior, images, labels, settings, perturbation, optimizer, generator, basis)
        )
        schedule.step()
        if average is not None and settings.averages(len(history)):
            average.update_parameters(model)
        progress.update(task, advance=1, note=f"loss {history[-1]:.4f}")
        run.save(history)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.requires_grad_(False).eval()
    return history


def schedule_and_average(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: CertifiedSettings
) -> tuple[torch.optim.lr_scheduler.LRScheduler, AveragedModel | None]:
    """How the learning rate goes, and what averages the weights, if they are averaged.

    Args:
        model: What is learned.
        optimizer: Of its parameters.
        settings: Of the training.
    """
    if settings.averaged:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0), AveragedModel(model)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, settings.rounds)), None


def _round(
    decoders: Sequence[Decoder],
    posterior: Posterior,
    images: Images,
    labels: Labels,
    settings: CertifiedSettings,
    perturbation: Perturbation,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    basis: Float[Tensor, "pixel axis"],
) -> float:
    """Mines pairs and learns from them; the mean loss of the pairs."""
    chosen = torch.randint(len(images), (min(settings.images, len(images)),), generator=generator)
    changed = torch.cat(
        [perturbation(images[rows], generator) for rows in chosen.split(BENT_AT_ONCE)]
    ).flatten(1)
    truth = labels[chosen]
    copies = len(posterior.mean) // len(labels)
    left_out = torch.cat([chosen + len(labels) * number for number in range(copies)])
    part = draw_codebook(posterior, labels.repeat(copies), left_out, settings.compared, generator)
    shape = part.shape[:2]
    with torch.no_grad():
        pieces = [
            decode(decoders, part, entries) for entries in torch.arange(shape.numel()).split(DECODED_AT_ONCE)
        ]
    prototypes, offsets = (torch.cat(parts).unflatten(0, shape) for parts in zip(*pieces, strict=True))
    pairs = mine(
        settings.see(changed),
        truth,
        prototypes,
        offsets,
        rivals=settings.rivals * (MINED_FOR_ONE if settings.pixels_weight else 1),
        own=settings.own,
        basis=basis,
    )
    if settings.pixels_weight:
        pairs = nearest_in_pixels(pairs, settings.see(changed), prototypes, offsets, settings.rivals)
    make = partial(decode, decoders, part)
    return learn(pairs, changed, make, settings, optimizer, generator, distance=settings.distance)


def decode(
    decoders: Sequence[nn.Module],
    latents: Float[Tensor, "class prototype latent"],
    entries: Int64[Tensor, "some"],
) -> tuple[Float[Tensor, "some pixel"], Float[Tensor, "some"]]:
    """Images and offsets of some entries of a codebook, each made once however often it is named.

    Args:
        decoders: One a class.
        latents: Of every class.
        entries: Which of them, counted through all classes.
    """
    wanted, places = entries.unique(return_inverse=True)
    classes = torch.div(wanted, latents.shape[1], rounding_mode="floor")
    chosen = latents.flatten(0, 1)[wanted]
    # What is wanted comes in order, so that each class's images follow those of the class before.
    images = torch.cat(
        [decoders[label](chosen[classes == label]).flatten(1) for label in classes.unique().tolist()]
    )
    offsets = 0.5 * chosen.square().sum(1)
    # With several threads, the derivative of images[places] is summed in another order in every run.
    return images.index_select(0, places), offsets[places]
