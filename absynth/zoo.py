"""The named pretrained models that ship with the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import absynth.models.prototypes  # noqa: F401  registers NearestNeighbour
from absynth.errors import AbsynthError
from absynth.inference import PAPER
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.models.hub import download, is_identifier
from absynth.models.pretrained import CONFIG_NAME, PretrainedModel, load_folder, read_config

CHECKPOINTS = (
    ".pt",
    ".pth",
    ".ckpt",
    ".tar",
    ".bin",
    ".safetensors",
    ".h5",
    ".keras",
    ".onnx",
    ".pkl",
    ".npz",
)
"""Endings of files with weights, which are no models by themselves."""

WEIGHTS = Path(__file__).parent / "weights"


def model_names() -> tuple[str, ...]:
    """The names that :func:`load` knows.

    >>> "abs" in model_names()
    True
    """
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob(f"*/{CONFIG_NAME}")))


def model_folder(name_or_folder: Any) -> Path:
    """Where a model is stored; one on the Hugging Face Hub is downloaded, unless it was before.

    Raises:
        AbsynthError: If it is neither a name of the zoo nor a folder, nor a model on the Hub; at once if it
            is a file.
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise AbsynthError(
            f"The name of the model is {name_or_folder!r}, a {type(name_or_folder).__name__}; name one of "
            f"{', '.join(model_names())}, or a folder written by save_pretrained."
        )
    if str(name_or_folder) in model_names():
        return WEIGHTS / str(name_or_folder)
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    if folder.suffix.lower() == ".py":
        raise AbsynthError(
            f"'{name_or_folder}' names no function; add the one that makes the model, for example "
            f"{name_or_folder}:make, which the commands attack and bench take."
        )
    if folder.is_file() or folder.suffix.lower() in CHECKPOINTS:
        what = "is a file, and no model by itself" if folder.is_file() else "is no file that exists"
        raise AbsynthError(
            f"'{name_or_folder}' {what}; write a function that makes the network and loads the file, and "
            "give my_file.py:make, which the commands attack and bench take."
        )
    if isinstance(name_or_folder, str) and is_identifier(name_or_folder):
        return download(name_or_folder)
    raise AbsynthError(
        f"There is no model '{name_or_folder}'; name one of {', '.join(model_names())}, "
        "a folder written by save_pretrained, or user/name on the Hugging Face Hub."
    )


def load(
    name_or_folder: Any, settings: str | None = None, device: str | torch.device = "cpu"
) -> PretrainedModel:
    """A pretrained model, in evaluation mode.

    Decoding a codebook takes seconds, so the images of one of 16 MiB or more are kept, 4 GiB of them at most,
    in the folder ``codebooks`` of the cache (see :func:`absynth.data.fetch.cache_folder`) and read from there
    the next time, verified by their SHA-256. The environment variable ``ABSYNTH_CODEBOOK_CACHE=0`` turns this
    off.

    Args:
        name_or_folder: A name of the zoo, a folder written by ``save_pretrained``, or ``user/name`` of a
            model that ``push_to_hub`` stored on the Hugging Face Hub, with ``@`` and a branch, tag or commit
            if not the newest is wanted.
        settings: ``"paper"`` for the paper's inference (8000 latents, 50 Adam steps for each class) where
            the model's own default is faster.
        device: Where to put it.

    Raises:
        AbsynthError: If there is no such model, its files are damaged, or it has no such settings.

    >>> load("cnn")(torch.zeros(1, 1, 28, 28)).shape
    torch.Size([1, 10])
    """
    folder = model_folder(name_or_folder)
    changes: dict[str, Any] = {}
    if settings is not None:
        if settings != "paper":
            raise AbsynthError(f"There are no settings '{settings}'; the only named ones are 'paper'.")
        changes = _with_settings(read_config(folder), PAPER.to_json(), name_or_folder)
    return load_folder(folder, changes).to(device)


def _with_settings(config: dict[str, Any], settings: dict[str, Any], name: str | Path) -> dict[str, Any]:
    if config.get("type") == "abs":
        return config | {"settings": settings}
    if config.get("type") in (Binarized.type_name, Clamped.type_name):
        return config | {"model": _with_settings(config.get("model", {}), settings, name)}
    raise AbsynthError(f"The model '{name}' has no settings; only the ABS models search at inference.")
