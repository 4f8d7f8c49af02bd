"""Distal adversarials: noise that is changed until a model is sure to see a digit in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from absynth.attacks.gradient_estimation import EstimatedGradient
from absynth.data.domain import DIGITS
from absynth.errors import AbsynthError
from absynth.evaluate.tasks import weights_hash
from absynth.files import atomic_path
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.inference.decision import probabilities
from absynth.models.asked import from_outside
from absynth.models.front import unwrap
from absynth.models.pretrained import device_of, domain_of
from absynth.progress import Progress
from absynth.shapes import Images

Gradient = Literal["exact", "estimated"]
GRADIENTS: tuple[Gradient, ...] = ("exact", "estimated")
ENOUGH = 0.9
"""Confidence at which the ascent on an image ends."""

FOLDER = "distal"


@dataclass(frozen=True)
class Distal:
    """Images that the ascent on one model ended with.

    Attributes:
        model: Its name.
        weights: Its hash.
        target: The class that was ascended on.
        gradient: ``exact`` or ``estimated``.
        seed: Of the noise and of the estimate.
        limit: Steps at most.
        images: The most confident image of each ascent.
        steps: After how many steps it was reached.
        confidences: By name of a model that was asked, its confidence in the target class.
    """

    model: str
    weights: str
    target: int
    gradient: Gradient
    seed: int
    limit: int
    images: Images
    steps: Int64[Tensor, "batch"]
    confidences: Mapping[str, Float[Tensor, "batch"]]


def ascend(
    model: nn.Module,
    starts: Images,
    target: int,
    *,
    steps: int,
    length: float = 0.5,
    progress: Progress,
    note: str = "",
) -> tuple[Images, Int64[Tensor, "batch"]]:
    """Gradient ascent on the confidence in a class, within the box [0, 1], from given images.

    Every step has L2 length ``length`` before it is clipped. It follows the gradient of the log-probability,
    except for models that explain images: there it follows the target's own logit, since their confidence is
    flat, to the last bit, where no class explains an image. Of each image the most confident state is kept,
    and it rests once its confidence exceeds ``ENOUGH``.

    Args:
        model: Any classifier; wrap it to have its gradients estimated.
        starts: Where to start.
        target: Class to ascend on.
        steps: At most so many.
        length: Of a step, in L2.
        progress: Where to show steps done.
        note: Shown beside it.

    Returns:
        The images, and the number of steps after which each was reached.
    """
    inner = model.model if isinstance(model, EstimatedGradient) else model
    explains = isinstance(unwrap(inner), ABS | CodebookABS)
    model = from_outside(model, starts.dtype)
    images, best = starts.clone(), starts.clone()
    confidence = probabilities(inner, starts)[:, target]
    reached = torch.zeros(len(starts), dtype=torch.int64, device=starts.device)
    bar = progress.add_task("ascend", total=steps, note=note)
    for step in range(1, steps + 1):
        resting = confidence > ENOUGH
        if bool(resting.all()):
            break
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            logits = model(inputs)
            objective = logits[:, target] if explains else logits.log_softmax(dim=1)[:, target]
            (slope,) = torch.autograd.grad(objective.sum(), inputs)
        size = slope.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
        moved = (images + length * slope / size).clamp(0, 1)
        images = torch.where(resting.view(-1, 1, 1, 1), images, moved)
        now = probabilities(inner, images)[:, target]
        better = (now > confidence) & ~resting
        best = torch.where(better.view(-1, 1, 1, 1), images, best)
        reached = torch.where(better, step, reached)
        confidence = torch.where(better, now, confidence)
        progress.advance(bar)
    progress.update(bar, completed=steps)
    return best, reached


def find_distal(
    models: Mapping[str, nn.Module],
    *,
    target: int,
    count: int,
    steps: int,
    gradient: str,
    seed: int,
    progress: Progress,
) -> list[Distal]:
    """Distal adversarials of each model, and what the other models say to them.

    All ascents start from the same noise of independent uniform pixels.

    Args:
        models: By name.
        target: Class to ascend on.
        count: Images a model.
        steps: At most so many.
        gradient: ``exact``, or ``estimated`` from 50 random directions each way.
        seed: Of the noise and of the estimate.
        progress: Where to show steps done.

    Raises:
        AbsynthError: If there is no such gradient or class, or the models are for different data.
    """
    if gradient not in GRADIENTS:
        raise AbsynthError(f"There is no gradient '{gradient}'; choose one of {', '.join(GRADIENTS)}.")
    domains = {domain for model in models.values() if (domain := domain_of(model)) is not None} or {DIGITS}
    if len(domains) > 1:
        raise AbsynthError("The models are for different data; ascend on models for the same data only.")
    (domain,) = domains
    if not 0 <= target < len(domain.class_names):
        raise AbsynthError(f"There is no class {target}; choose one of 0 to {len(domain.class_names) - 1}.")
    chosen: Gradient = "exact" if gradient == "exact" else "estimated"
    noise = torch.rand(count, 1, *domain.size, generator=torch.Generator().manual_seed(seed))
    found = []
    for name, model in models.items():
        ascended = model if chosen == "exact" else EstimatedGradient(model, samples=50, seed=seed)
        starts = noise.to(device_of(model))
        images, reached = ascend(ascended, starts, target, steps=steps, progress=progress, note=name)
        images = images.cpu()
        said = {
            other: probabilities(asked, images.to(device_of(asked)))[:, target].cpu()
            for other, asked in models.items()
        }
        found.append(
            Distal(name, weights_hash(model), target, chosen, seed, steps, images, reached.cpu(), said)
        )
    return found


def write_distal(found: Sequence[Distal], folder: Path) -> None:
    """Writes distal adversarials into a result folder, in the place of earlier ones of the same models.

    Args:
        found: One entry a model.
        folder: The result folder; made if needed.
    """
    for entry in found:
        tensors = {"images": entry.images.contiguous(), "steps": entry.steps}
        tensors |= {f"confidence {name}": values.contiguous() for name, values in entry.confidences.items()}
        plain = ("model", "weights", "target", "gradient", "seed", "limit")
        about = json.dumps({name: getattr(entry, name) for name in plain})
        name = f"{entry.weights[:12]}-{entry.target}-{entry.gradient}.safetensors"
        with atomic_path(folder / FOLDER / name) as temporary:
            temporary.write_bytes(save(tensors, metadata={"about": about}))


def read_distal(folder: Path) -> list[Distal]:
    """The distal adversarials in a result folder, none if there are none.

    Raises:
        AbsynthError: If a file is damaged.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as content:
                about = json.loads(content.metadata()["about"])
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            asked = {
                name.removeprefix("confidence "): values for name, values in tensors.items() if " " in name
            }
            images, steps = tensors["images"], tensors["steps"]
            if images.ndim != 4 or any(one.shape != images.shape[:1] for one in (steps, *asked.values())):
                raise ValueError("shapes that do not fit together")
            found.append(Distal(**about, images=images, steps=steps, confidences=asked))
        except Exception:  # whatever safetensors and JSON may meet in a damaged file
            raise AbsynthError(
                f"The images {path} are damaged; delete them and run 'absynth distal'."
            ) from None
    return found
