"""A model held still while it is asked: in evaluation mode, without gradients, and put back as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.memory import MEMORY_VARIABLE, STEPS_AT_ONCE, memory_limit
from absynth.models.held import comes_with, held_networks


@dataclass(frozen=True)
class _Kept:
    """A buffer as it was.

    Attributes:
        name: What its module calls it.
        tensor: The tensor itself.
        values: A copy; None where there is no memory for one.
        version: How often PyTorch had seen it written to.
        bytes: How much copies of it and of all smaller ones take.
    """

    name: str
    tensor: Tensor
    values: Tensor | None
    version: int
    bytes: int

    def put_back(self) -> bool:
        """Whether the tensor has the values that it had, which it gets again if there is a copy."""
        if self.values is None:
            return self.tensor._version == self.version
        if not torch.equal(self.tensor, self.values):
            self.tensor.copy_(self.values)
        return True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Holds a model in evaluation mode with parameters that collect no gradient, then puts all back.

    So are buffers put back, which a model may change in spite of the mode: counters, running means, a memory
    of past images. All that the model owns or reaches (:mod:`absynth.models.held`) is held.

    Args:
        model: The model to hold still.

    Raises:
        AbsynthError: If it wrote into a buffer that is too large to be copied: the copies may take a share of
            what :func:`absynth.memory.memory_limit` allows.
    """
    parts = [model, *held_networks(model)]
    modules = list({id(one): one for part in parts for one in part.modules()}.values())
    # an exported or frozen graph has no modes
    modes = [(module, module.training) for module in modules if hasattr(module, "training")]
    parameters = {parameter: parameter.requires_grad for part in parts for parameter in part.parameters()}
    # those of this package change none of their buffers
    changing = [module for module in modules if not comes_with({"absynth"}, type(module))]
    named = [(module, dict(module._buffers.items())) for module in changing]
    buffers = _keep(changing)
    try:
        for part in parts:
            with suppress(NotImplementedError, AttributeError):
                part.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, required in parameters.items():
            parameter.requires_grad_(required)
        for module, before in named:
            _name_again(module, before)
        with torch.no_grad():
            lost = [buffer for buffer in buffers if not buffer.put_back()]
    if lost:
        raise AbsynthError(
            f"The model writes into its buffer '{lost[0].name}' when it is asked, and there is no memory for "
            f"a copy to put back; let it write into a copy, or set {MEMORY_VARIABLE} to at least "
            f"{math.ceil(STEPS_AT_ONCE * lost[0].bytes / 1e6)} (megabytes)."
        )


def _name_again(module: nn.Module, before: dict[str, Tensor | None]) -> None:
    """Gives a module the very buffers that it had."""
    if isinstance(module, torch.jit.ScriptModule):
        for name, buffer in before.items():
            if getattr(module, name, None) is not buffer:
                setattr(module, name, buffer)
    else:
        module._buffers.clear()
        module._buffers.update(before)


def _keep(modules: list[nn.Module]) -> list[_Kept]:
    """All buffers as they are, the smallest first."""
    every = {id(one): (name, one) for module in modules for name, one in module.named_buffers(recurse=False)}
    sizes = [(one.numel() * one.element_size(), name, one) for name, one in every.values()]
    limit, taken, kept = memory_limit() // STEPS_AT_ONCE, 0, list[_Kept]()
    for size, name, buffer in sorted(sizes, key=lambda entry: entry[0]):
        # in standard surroundings nothing can write to one that was made in inference mode
        if not (buffer.is_inference() or buffer.is_meta):
            taken += size
            values = buffer.detach().clone() if taken <= limit and buffer.layout == torch.strided else None
            kept.append(_Kept(name, buffer, values, buffer._version, taken))
    return kept
