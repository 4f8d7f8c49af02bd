"""Saving and loading models as safetensors with a JSON config; never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from absynth.data.domain import DIGITS, Domain
from absynth.errors import AbsynthError, first_line
from absynth.files import write_bytes, write_text
from absynth.models.held import tensors_of
from absynth.surroundings import standard

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CPU = torch.device("cpu")

_TYPES: dict[str, type[PretrainedModel]] = {}
_Model = TypeVar("_Model", bound="type[PretrainedModel]")


class PretrainedModel(nn.Module):
    """A classifier that can be written to a folder and read back.

    A subclass says what its constructor needs (``config``, ``from_config``), and ``prepare`` derives what
    is not stored from what is.

    Attributes:
        domain: What the model is for; stored beside the config proper, as names change no decision.
    """

    type_name: ClassVar[str]
    domain: Domain = DIGITS

    def config(self) -> dict[str, Any]:
        """What ``from_config`` needs to build this model, as JSON values without the ``type``."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PretrainedModel:
        """The model that ``config`` describes, its weights not loaded yet."""
        raise NotImplementedError

    def prepare(self, cached: bool = False) -> None:
        """Computes whatever is derived from the stored weights; called once after loading them.

        Args:
            cached: Whether to keep what takes long on disk, and to read it from there.
        """

    def save_pretrained(self, folder: str | Path, training: dict[str, Any] | None = None) -> Path:
        """Writes ``config.json`` and ``model.safetensors`` into ``folder``.

        A tensor that half precision holds without loss (:func:`round_to_half`) is stored in it. The config
        has the SHA-256 of the weights, so that no others are taken for them.

        Args:
            folder: Made if needed; files of the same name are replaced at once, never half-written.
            training: How the weights came about (command, seed, metrics), kept in the config.

        Returns:
            The folder.

        Raises:
            UnwritableError: If a file cannot be written.
        """
        folder = Path(folder)
        state = {name: _compact(tensor.detach().cpu()) for name, tensor in self.state_dict().items()}
        config = full_config(self)
        config |= {} if self.domain == DIGITS else {"data": self.domain.to_json()}
        content = save(state)
        config["sha256"] = hashlib.sha256(content).hexdigest()
        config |= {"training": training} if training else {}
        write_bytes(folder / WEIGHTS_NAME, content)
        write_text(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
        return folder


def _compact(tensor: Tensor) -> Tensor:
    half = tensor.half() if tensor.is_floating_point() else tensor
    return (half if half.to(tensor.dtype).equal(tensor) else tensor).contiguous()


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Rounds every parameter and buffer to what half precision holds, so that its file is half as large.

    The model goes on computing in the precision that it had.

    Raises:
        AbsynthError: If a value is too large for half precision.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            half = tensor.half()
            if half.isinf().any():
                raise AbsynthError(f"{name} holds values too large for half precision; store it as it is.")
            tensor.copy_(half)


def domain_of(model: nn.Module) -> Domain | None:
    """What a model is for, if it is one of ours."""
    return model.domain if isinstance(model, PretrainedModel) else None


def device_of(model: nn.Module, otherwise: torch.device | str = "cpu") -> torch.device:
    """Where a model takes its images: where its tensors are, or ``otherwise`` if it has none."""
    return next((tensor.device for tensor in tensors_of(model)), torch.device(otherwise))


def register(model_type: _Model) -> _Model:
    """Class decorator: makes ``type_name`` known to :func:`build` and :func:`load_folder`."""
    _TYPES[model_type.type_name] = model_type
    return model_type


def full_config(model: PretrainedModel) -> dict[str, Any]:
    """The config of ``model`` with its type."""
    return {"type": model.type_name} | model.config()


def known_type(config: dict[str, Any]) -> str:
    """The type that a full config names.

    Raises:
        AbsynthError: If there is no such type.
    """
    name = str(config.get("type"))
    if name not in _TYPES:
        raise AbsynthError(f"The model config names the type '{name}'; known types: {', '.join(_TYPES)}.")
    return name


def build(config: dict[str, Any]) -> PretrainedModel:
    """The model that a full config describes, its weights not loaded yet.

    Raises:
        AbsynthError: If the config names no known type, or lacks what its type needs.
    """
    name = known_type(config)
    try:
        return _TYPES[name].from_config(config)
    except AbsynthError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise AbsynthError(
            f"The config of the '{name}' model lacks an entry or has a wrong one ({first_line(error)}); save "
            "it again."
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """The config stored in ``folder``.

    Raises:
        AbsynthError: If there is none, or it is not a JSON object.
    """
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AbsynthError(
            f"{folder} holds no {CONFIG_NAME}; name a folder written by save_pretrained."
        ) from None
    except OSError as error:
        raise AbsynthError(f"{path} cannot be read ({error.strerror}); see that it can be.") from None
    except (ValueError, RecursionError) as error:
        raise AbsynthError(f"{path} is not valid JSON ({first_line(error)}); save the model again.") from None
    if not isinstance(config, dict):
        raise AbsynthError(f"{path} must hold a JSON object; save the model again.")
    return config


def read_domain(config: dict[str, Any]) -> Domain:
    """What the model that a full config describes is for: MNIST's digits if it does not say.

    Raises:
        AbsynthError: If the entry is damaged.
    """
    return Domain.from_json(config["data"]) if "data" in config else DIGITS


def read_weights(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """The tensors stored in a safetensors file.

    Args:
        path: Of the file.
        digest: The SHA-256 that it must have; by default any.

    Raises:
        AbsynthError: If the file is missing, damaged or another one.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AbsynthError(f"The weights {path} are missing; save the model again.") from None
    except OSError as error:
        raise AbsynthError(f"{path} cannot be read ({error.strerror}); see that it can be.") from None
    try:
        tensors = dict(load(content))
    except (SafetensorError, LookupError, ValueError, RuntimeError) as error:
        raise AbsynthError(
            f"{path} is no intact safetensors file ({first_line(error)}); save the model again."
        ) from None
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise AbsynthError(
            f"{path} is not the file that the config is for, whose SHA-256 begins with {digest[:12]}; save "
            "the model again."
        )
    return tensors


def load_folder(folder: Path, changes: dict[str, Any] | None = None) -> PretrainedModel:
    """The model stored in ``folder``, in evaluation mode on the CPU.

    A config may name another weights file, relative to itself (``"weights": "../abs/model.safetensors"``),
    so that several models share one, or none (``"weights": null``) where the config says it all. ``"prefix"``
    is what the model's own names of its tensors begin with and those in the shared file do not. Tensors in
    the file that the model does not use are left alone. Where the config has the ``"sha256"`` of the file, it
    must be that of the file.

    Args:
        folder: A folder written by ``save_pretrained``.
        changes: Entries of the config to replace, such as ``{"settings": {...}}``.

    Raises:
        AbsynthError: If something is missing, damaged or does not fit.
    """
    # in standard surroundings, so that the program's default type and device do not become the model's; what
    # is drawn for weights that are then replaced is drawn from a copy of the program's generator
    with standard(device=CPU), torch.random.fork_rng(devices=[]):
        return _load_folder(folder, read_config(folder) | (changes or {}))


def _load_folder(folder: Path, config: dict[str, Any]) -> PretrainedModel:
    domain = read_domain(config)
    stored = {}
    if (name := config.get("weights", WEIGHTS_NAME)) is not None:
        weights, prefix = folder / str(name), str(config.get("prefix", ""))
        stored = {prefix + key: one for key, one in read_weights(weights, config.get("sha256")).items()}
        # Shapes alone at first, so that a config takes no memory for what the file does not hold.
        with torch.device("meta"):
            wanted = build(config).state_dict()
        if missing := [key for key in wanted if key not in stored]:
            raise AbsynthError(
                f"{weights} lacks the tensor '{missing[0]}' ({len(missing)} in all); save it again."
            )
        for key, tensor in wanted.items():
            if stored[key].shape != tensor.shape:
                raise AbsynthError(
                    f"'{key}' in {weights} has shape {tuple(stored[key].shape)}, "
                    f"the config asks for {tuple(tensor.shape)}; they belong to different models."
                )
    model = build(config)
    model.domain = domain
    if name is not None:
        model.load_state_dict({key: stored[key] for key in wanted})
        model.prepare(cached=True)
    return model.eval().requires_grad_(False)
