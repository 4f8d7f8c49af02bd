"""The state of the process that a computation of this package runs in, and what a user's code does to it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of device that autocast can be on for."""


@contextmanager
def standard(
    dtype: torch.dtype = torch.float32,
    *,
    gradients: bool | None = None,
    device: torch.device | None = None,
    exact: bool = False,
) -> Iterator[None]:
    """Standard surroundings for a computation; afterwards all is as it was.

    Inside, autocast and inference mode are off, float32 matrix products have the precision "highest", and
    new tensors have the type ``dtype``. What is changed is asked about first, so that this takes microseconds
    where the surroundings are standard already. The default type and the precision belong to the whole
    process, so that another thread sees them change.

    Args:
        dtype: Of tensors that are made without naming one.
        gradients: Whether gradients can be taken; None for as it was.
        device: Where tensors are made that name none; None for as it was.
        exact: Also keep cuDNN from using TF32, in which float32 has ten bits of precision.

    >>> with torch.inference_mode(), standard(gradients=True):
    ...     torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    (False, True)
    """
    with ExitStack() as stack:
        before = torch.is_grad_enabled()
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(before if gradients is None else gradients))
        for kind in DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if (default := torch.get_default_dtype()) != dtype:
            stack.callback(torch.set_default_dtype, default)
            torch.set_default_dtype(dtype)
        if (precision := torch.get_float32_matmul_precision()) != "highest":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        if exact and torch.backends.cudnn.allow_tf32:
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
            torch.backends.cudnn.allow_tf32 = False
        if device is not None and torch.get_default_device() != device:
            stack.enter_context(device)
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Puts back what a user's code may set for the whole process, so that it alters nobody else's figures.

    That is the working folder, the environment, the standard streams, what signals do, NumPy's treatment of
    floating-point errors, Python's filters of warnings, and PyTorch's default type and device, gradient mode,
    number of threads, and precision and algorithms.

    >>> with kept():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    cudnn, folder, device = torch.backends.cudnn, Path.cwd(), torch.get_default_device()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(np.errstate())
        stack.callback(os.chdir, folder)
        stack.callback(_restore_environment, dict(os.environ))
        stack.callback(_restore_handlers, {one: signal.getsignal(one) for one in signal.valid_signals()})
        for stream in ("stdin", "stdout", "stderr"):
            stack.callback(setattr, sys, stream, getattr(sys, stream))
        stack.callback(_set_default_device, device)
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        stack.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        for flag in ("enabled", "benchmark", "deterministic"):
            stack.callback(setattr, cudnn, flag, getattr(cudnn, flag))
        yield


def _restore_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def _restore_handlers(before: dict[int, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # where Python sets no handlers
    for number, handler in before.items():
        # None stands for a handler that Python did not set and cannot set again
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_default_device(device: torch.device) -> None:
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)
