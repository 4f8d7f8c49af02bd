"""The smallest adversarial of each image over all attacks, kept beside the records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Task
from absynth.norms import Norm

FOLDER = "smallest"


def smallest_distances(records: Sequence[Record], model: str, norm: Norm) -> Float[Tensor, "images"]:
    """For each image of a model, the distance of the smallest adversarial over all attacks (float64).

    An upper bound on the true distance. Images are in the order of their index.
    """
    best: dict[int, float] = {}
    for record in records:
        if record.model == model and record.norm == norm:
            best[record.index] = min(best.get(record.index, torch.inf), record.distance)
    return torch.tensor([best[index] for index in sorted(best)], dtype=torch.float64)


def keep_smallest(store: ResultStore, tasks: Sequence[Task]) -> None:
    """Writes the closest verified adversarial of each image, unless it is written already.

    A safetensors file with ``adversarials``, their ``distances`` (float64), the ``indices`` of the images,
    their ``labels`` and the number of the ``attack`` that found each; the metadata names model, norm and
    attacks. Where two attacks are equally close, the first has found it. The file's name depends on the
    tasks: other attacks or images make another file.

    Args:
        store: Where the tasks' results are, and where the file goes.
        tasks: Finished ones of one model and one norm.

    Raises:
        AbsynthError: If a file of the store is damaged.
    """
    first = tasks[0]
    digest = hashlib.sha256("".join(task.key for task in tasks).encode()).hexdigest()
    name = f"{first.weights[:12]}-{first.norm}-{digest[:12]}.safetensors"
    if store.has_file(FOLDER, name):
        return
    attacks = list(dict.fromkeys(task.attack for task in tasks))
    best: dict[int, Record] = {}
    images: dict[int, Tensor] = {}
    for task in tasks:
        for record, image in zip(store.records([task]), store.adversarials(task), strict=True):
            known = best.get(record.index)
            if known is None or record.distance < known.distance:
                best[record.index], images[record.index] = record, image
    indices = sorted(best)
    rows = [best[index] for index in indices]
    tensors = {
        "adversarials": torch.stack([images[index] for index in indices]),
        "distances": torch.tensor([row.distance for row in rows], dtype=torch.float64),
        "indices": torch.tensor(indices),
        "labels": torch.tensor([row.label for row in rows]),
        "attack": torch.tensor([attacks.index(row.attack) for row in rows]),
    }
    # a single entry, as safetensors writes several in no fixed order
    about = json.dumps({"model": first.model, "norm": first.norm, "attacks": attacks})
    store.write(FOLDER, name, save(tensors, metadata={"about": about}))
