"""Runs jobs in this process, on a device of this machine."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import nn

from absynth.engine.jobs import Job, Outcome, attempt
from absynth.errors import AbsynthError


class LocalEngine:
    """Runs jobs in this process, one after the other; the next is asked for when the last has ended.

    Args:
        device: Where models are moved to; by default they stay where they are.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    def share(self, model: nn.Module) -> nn.Module:
        """The model itself, on the device."""
        return model if self._device is None else place(model, self._device)

    def run(self, next_job: Callable[[], Job | None]) -> Generator[tuple[Job, Outcome]]:
        """Yields the jobs in their order."""
        while (job := next_job()) is not None:
            yield job, attempt(job.work, job.model, *job.arguments)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves a model to a device, where it then computes in single precision as on the processor.

    On a GPU, PyTorch otherwise lets convolutions round their factors to the ten bits of TensorFloat-32, which
    moves losses in their third digit.

    Args:
        model: Any model.
        device: Where it goes.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return model.to(device)


def find_device(name: str) -> torch.device:
    """The device of a name, such as "cpu", "cuda" or "cuda:1".

    Raises:
        AbsynthError: If PyTorch knows no such device or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        known = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise AbsynthError(f"There is no device '{name}' here; choose one of {known}.") from None
    return device
