"""The one training loop; losses, perturbations and adversaries are functions given to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.progress import Progress
from absynth.shapes import Images
from absynth.training.adversarial import Adversary
from absynth.training.augmentation import Perturbation
from absynth.training.checkpoints import Run, fingerprint
from absynth.training.losses import Loss, Targets
from absynth.training.settings import TrainingSettings

Finished = Callable[[nn.Module, float], bool]
"""Whether a network in evaluation mode is good enough, given the share of the training done, above 0."""

STEPS_A_CHECKPOINT = 20
"""A checkpoint takes about as long as a few steps, so that small sets do not get one every epoch."""


def fit(
    make_model: Callable[[], nn.Module],
    images: Images,
    targets: Targets,
    loss: Loss,
    settings: TrainingSettings,
    *,
    checkpoint: Path,
    progress: Progress,
    description: str,
    perturbation: Perturbation | None = None,
    adversary: Adversary | None = None,
    finished: Finished | None = None,
    pause: Callable[[], bool] | None = None,
) -> tuple[nn.Module, list[float]]:
    """Trains a model with Adam, or goes on from where an interrupted run stopped.

    Args:
        make_model: Builds the untrained model; called with the global generator seeded, and that
            generator's state put back afterwards.
        images: All training images.
        targets: Their classes, or what else the loss takes.
        loss: What to minimise, a function of (model, images, targets, generator, share of the training done).
            The settings of a dataclass are part of the run, and a checkpoint of others is refused.
        settings: How long and how fast.
        checkpoint: Written after every epoch, or every few short ones; if it is there, training goes on from
            it and ends with the very same weights as a run that was never interrupted.
        progress: Where to show epochs and loss.
        description: What the progress display calls this.
        perturbation: Applied to every batch before the loss (augmentation).
        adversary: Turns every batch, after the perturbation, against the model as it is then.
        finished: Asked after every epoch but the last, and once when training goes on, whether to stop. Its
            answer must depend on what it is given alone, or a resumed run could stop elsewhere. The learning
            rate is that of all the epochs: one that stops early leaves out the slowest steps of the cosine.
        pause: Asked after every checkpoint whether to leave the other epochs to the next call.

    Returns:
        The trained model in evaluation mode, and the mean loss of every epoch that was run.

    Raises:
        AbsynthError: If there are no images, or the checkpoint is damaged or belongs to another run.
    """
    if len(images) == 0:
        raise AbsynthError(f"There are no training images for {description}.")
    run = prepare_run(make_model, images, targets, settings, checkpoint, perturbation, adversary, loss)
    model, optimizer, schedule, generator = run.model, run.optimizer, run.schedule, run.generator
    epochs, steps_an_epoch = count_epochs(len(images), settings), _steps_an_epoch(len(images), settings)
    kept_every = math.ceil(STEPS_A_CHECKPOINT / steps_an_epoch) if settings.least_steps else 1
    steps = epochs * steps_an_epoch
    history = run.restore()
    task = progress.add_task(description, total=epochs, completed=len(history), note="")
    while len(history) < epochs:
        if history and finished is not None and finished(model.eval(), len(history) / epochs):
            progress.update(task, total=len(history))
            break
        model.train()
        total = 0.0
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for rows in _batches(order, settings.batch_size):
            batch = images[rows] if perturbation is None else perturbation(images[rows], generator)
            share = schedule.last_epoch / steps
            if adversary is not None:
                batch = adversary(model, batch, targets[rows], generator, share)
            value = loss(model, batch, targets[rows], generator, share)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item() * len(rows)
        history.append(total / len(images))
        progress.update(task, advance=1, note=f"loss {history[-1]:.3f}")
        if len(history) % kept_every and len(history) < epochs:
            continue
        run.save(history)
        if pause is not None and pause():
            break
    return model.eval(), history


def prepare_run(
    make_model: Callable[[], nn.Module],
    images: Images,
    targets: Targets,
    settings: TrainingSettings,
    checkpoint: Path,
    perturbation: Perturbation | None = None,
    adversary: Adversary | None = None,
    loss: Loss | None = None,
) -> Run:
    """The untrained network of :func:`fit`, which has the same arguments, and all that belongs to it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        model = make_model()
    model.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = count_epochs(len(images), settings) * _steps_an_epoch(len(images), settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    signature = {
        **vars(settings),
        "images": len(images),
        "data": fingerprint(images, targets),
        "start": fingerprint(*model.state_dict().values()),
        "perturbed": perturbation is not None,
        **({} if adversary is None else {"adversary": asdict(adversary)}),
        **({"loss": asdict(loss)} if is_dataclass(loss) else {}),
    }
    return Run(checkpoint, signature, model, optimizer, schedule, generator)


def count_epochs(images: int, settings: TrainingSettings) -> int:
    """How many epochs :func:`fit` trains on so many images, unless it stops early."""
    return max(settings.epochs, math.ceil(settings.least_steps / _steps_an_epoch(images, settings)))


def _steps_an_epoch(images: int, settings: TrainingSettings) -> int:
    return len(_batches(torch.arange(images), settings.batch_size))


def _batches(order: Int64[Tensor, "images"], size: int) -> list[Int64[Tensor, "batch"]]:
    """The images of an epoch in batches; one left over, too few for batch norm, joins the last batch."""
    batches = list(order.split(size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
