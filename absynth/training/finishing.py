"""What recipes share before and after the training: the classes, the sharpness, the accuracy, the record."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from absynth.data.domain import FEWEST_CLASSES, MOST_CLASSES, Domain
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS
from absynth.models.confidence import fit_alpha
from absynth.models.pretrained import PretrainedModel, read_config
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.assignment import Assignment
from absynth.training.settings import TrainingSettings

CONFIDENCE_IMAGES = 500
"""Images that the sharpness of the confidence is fitted on, for other data than MNIST."""


def check_classes(work: Assignment) -> Domain:
    """What a model of the training images is for.

    Args:
        work: The images, and what is known of them; by default the classes are called by their numbers.

    Raises:
        AbsynthError: If there are no images, a class has none, or there are not 2 to 100 classes.
    """
    images, labels, domain = work.images, work.labels, work.domain
    if len(images) == 0:
        raise AbsynthError("There are no training images; name a data set that has some.")
    height, width = images.shape[2:]
    if domain is None:
        domain = Domain(tuple(str(number) for number in range(int(labels.max()) + 1)), (height, width))
    names = domain.class_names
    if not FEWEST_CLASSES <= len(names) <= MOST_CLASSES:
        raise AbsynthError(
            f"There are {len(names)} classes to tell apart; give {FEWEST_CLASSES} to {MOST_CLASSES}."
        )
    empty = (labels.bincount(minlength=len(names)) == 0).nonzero()[:, 0]
    if len(empty):
        raise AbsynthError(
            f"The class '{names[int(empty[0])]}' has no training images; give it some or leave it out."
        )
    return domain


@torch.no_grad()
def fit_sharpness(model: ABS | CodebookABS, images: Images, rows: Int64[Tensor, "some"]) -> float:
    """The sharpness of a confidence for data other than MNIST, by how well the model explains such images.

    Args:
        model: Ready to classify.
        images: All images.
        rows: Those that are like what it will see; at most ``CONFIDENCE_IMAGES`` of them are looked at.
    """
    few = images[rows[:: math.ceil(len(rows) / CONFIDENCE_IMAGES)]]
    explain = model.losses if isinstance(model, CodebookABS) else lambda some: model.infer(some).losses
    return fit_alpha(torch.cat([explain(some) for some in few.split(100)]), few[0].numel())


@torch.no_grad()
def accuracy(
    model: nn.Module, images: Images, labels: Labels, *, progress: Progress, batch_size: int = 256
) -> float:
    """The fraction of images that the model classifies right."""
    task = progress.add_task("clean accuracy", total=len(images), note="")
    right = 0
    for rows in torch.arange(len(images)).split(batch_size):
        right += int((model(images[rows]).argmax(1) == labels[rows]).sum())
        progress.update(task, advance=len(rows))
    return right / len(images)


def validate(model: PretrainedModel, work: Assignment) -> dict[str, Any]:
    """The entry of a training record for the accuracy on the images held out; none if there are none.

    Args:
        model: Ready to classify.
        work: What it was trained on, and what was held out.
    """
    model.eval()
    rows = work.held_out
    if len(rows) == 0:
        return {}
    right = accuracy(model, work.images[rows], work.labels[rows], progress=work.progress)
    return {"validation": {**vars(work.validation), "images": len(rows), "accuracy": right}}


def save_trained(
    work: Assignment,
    model: PretrainedModel,
    domain: Domain,
    settings: TrainingSettings,
    metrics: dict[str, Any],
) -> PretrainedModel:
    """Measures what the training loop has made and saves it, with the command and the settings that made it.

    Args:
        work: What it was trained on.
        model: As the training left it.
        domain: What it is for.
        settings: Of its training.
        metrics: What else to keep in the record.

    Returns:
        A copy that is ready to classify.
    """
    model.domain = domain
    record = {"command": work.command, **vars(settings), "augmented": work.augmented}
    record |= {"images": len(work.trained), **metrics}
    # What is saved is not yet prepared: folding batch norm cannot be undone.
    ready = deepcopy(model)
    ready.prepare()
    if isinstance(model, ABS) and isinstance(ready, ABS) and not domain.digits:
        rows = work.held_out if len(work.held_out) else work.trained
        model.codebook.alpha = ready.codebook.alpha = fit_sharpness(ready.eval(), work.images, rows)
    record |= validate(ready, work)
    model.save_pretrained(work.out, record)
    return ready.requires_grad_(False)


def read_validation(base: Path) -> Validation:
    """Which images were held out when the model in a folder was trained."""
    try:
        record = read_config(base).get("training", {}).get("validation", {})
        return Validation(float(record.get("share", 0.0)), int(record.get("seed", 0)))
    except (AttributeError, TypeError):
        raise AbsynthError(
            f"The config in {base} does not say what was held out as training wrote it; train it again."
        ) from None
