"""Robust, provably robust image classification by analysis by synthesis.

>>> import absynth
>>> images, labels = absynth.load_dataset("mnist", "test")
>>> model = absynth.load("cnn")
>>> int(model(images[:1]).argmax()), int(labels[0])
(7, 7)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from absynth.attacks import attack
    from absynth.certify import certify
    from absynth.data import load_dataset
    from absynth.errors import AbsynthError
    from absynth.models.hub import push_to_hub
    from absynth.zoo import load, model_names

__version__ = "0.2.0"
__all__ = ["AbsynthError", "attack", "certify", "load", "load_dataset", "model_names", "push_to_hub"]

_HOMES = {
    "AbsynthError": "absynth.errors",
    "attack": "absynth.attacks",
    "certify": "absynth.certify",
    "load": "absynth.zoo",
    "load_dataset": "absynth.data",
    "model_names": "absynth.zoo",
    "push_to_hub": "absynth.models.hub",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then, so that ``absynth --help`` does not wait for PyTorch."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'absynth' has no attribute '{name}'")
