"""Checkpoints: an interrupted training goes on from the last one and ends with the very same weights."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.files import write_bytes

CHECKPOINT_ENTRIES = ("signature", "model", "optimizer", "schedule", "generator", "history")


@dataclass(frozen=True)
class Run:
    """What a training needs to go on from where it was interrupted, and end with the very same weights.

    Attributes:
        checkpoint: Where it is kept.
        signature: What tells this run from others.
        model: The network as it is.
        optimizer: Of its parameters.
        schedule: Of the learning rate.
        generator: Source of every draw.
    """

    checkpoint: Path
    signature: dict[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator

    def restore(self) -> list[float]:
        """Brings all back to how it was saved, if it was; the losses until then.

        Raises:
            AbsynthError: If the checkpoint is damaged or belongs to another run.
        """
        if not self.checkpoint.exists():
            return []
        state = _read_checkpoint(self.checkpoint, self.signature)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError:
            raise AbsynthError(
                f"The checkpoint {self.checkpoint} belongs to another network; "
                "train into another folder or delete it."
            ) from None
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if len(state["generator"]) == len(self.generator.get_state()):
                self.generator.set_state(state["generator"])
            else:  # of a GPU, and this is a CPU, or the other way round
                self.generator.manual_seed(int(fingerprint(state["generator"])[:12], 16))
            return [float(loss) for loss in state["history"]]
        except Exception:  # whatever torch may meet in states of other shapes
            raise _damaged(self.checkpoint) from None

    def save(self, history: list[float]) -> None:
        """Keeps how all is now, with the losses until now.

        Raises:
            UnwritableError: If the checkpoint cannot be written.
        """
        state = {
            "signature": self.signature,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "history": history,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_bytes(self.checkpoint, content.getvalue())


def fingerprint(*tensors: Tensor) -> str:
    """A digest of the values, to tell one run's data and weights from another's."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _read_checkpoint(path: Path, signature: dict[str, Any]) -> dict[str, Any]:
    try:
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as archive:  # whose checksums torch does not look at
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        content.seek(0)
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        stored = {name: state[name] for name in CHECKPOINT_ENTRIES}["signature"]
        # Only a run with such a part stores it; other entries that an older run did not know are not asked.
        asked = {*stored, "adversary", "loss"}
        changed = sorted(name for name in asked if signature.get(name) != stored.get(name))
    except Exception:  # whatever zipfile and torch may meet in a damaged file
        raise _damaged(path) from None
    if changed:
        raise AbsynthError(
            f"The checkpoint {path} belongs to a run with other {', '.join(changed)}; "
            "train into another folder or delete it."
        )
    return state


def _damaged(path: Path) -> AbsynthError:
    return AbsynthError(f"The checkpoint {path} is damaged; delete it to start again.")
