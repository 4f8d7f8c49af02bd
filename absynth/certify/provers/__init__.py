"""The methods of certifying, a module each.

To add one, write its :class:`~absynth.certify.prover.Prover` and enter it in :data:`METHODS`.
"""

from __future__ import annotations

from torch import nn

from absynth.certify.prover import Prover, Scope
from absynth.certify.provers.paper import PaperProver
from absynth.certify.provers.prototypes import PrototypeProver
from absynth.errors import AbsynthError

METHODS: dict[str, type[Prover]] = {"pairs": PrototypeProver, "paper": PaperProver}
"""By name, the better ones first: the first with a scope for a model certifies it."""


def certifiable(model: nn.Module) -> Scope | None:
    """What can be certified of a model; None if nothing. Nothing is computed for the answer.

    >>> from absynth.models.cnn import CNN
    >>> certifiable(CNN()) is None
    True
    """
    return next((scope for method in METHODS.values() if (scope := method.scope(model))), None)


def prover_for(model: nn.Module) -> Prover:
    """The method that certifies a model, ready for it.

    Raises:
        AbsynthError: If there is none, or something is wrong with the model.
    """
    for method in METHODS.values():
        if method.scope(model):
            return method(model)
    raise AbsynthError(
        f"A {type(model).__name__} cannot be certified; models that can are classifiers by prototypes "
        "(codebook-abs, nearest-neighbour, their binary forms), and abs has the paper's L2 estimate."
    )
