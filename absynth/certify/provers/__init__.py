"""The methods of certifying, a module each.

To add one, write its :class:`~absynth.certify.prover.Method` and enter it in :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from torch import nn

from absynth.certify.prover import Method, Prover, Scope
from absynth.certify.provers.ablation import Ablation
from absynth.certify.provers.bounds import AlphaCrown, Crown, Interval, Lipschitz
from absynth.certify.provers.paper import Paper
from absynth.certify.provers.prototypes import Pairs
from absynth.certify.provers.smoothing import Smoothing
from absynth.errors import AbsynthError

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Pairs, Paper, Crown, AlphaCrown, Interval, Lipschitz, Smoothing, Ablation)
}
"""By name, the better ones first: the first automatic one with a scope for a model certifies it."""


def certifiable(model: nn.Module, method: Method | str | None = None) -> Scope | None:
    """What can be certified of a model; None if nothing. Nothing is computed for the answer.

    Args:
        model: Any classifier.
        method: As for :func:`absynth.certify.certify`.

    >>> from absynth.models.cnn import CNN
    >>> certifiable(CNN(), "pairs") is None, certifiable(CNN()).proven
    (True, True)
    """
    found = certifying_method(model, method)
    return None if found is None else found[1]


def certifying_method(model: nn.Module, method: Method | str | None = None) -> tuple[Method, Scope] | None:
    """The method that certifies a model, and what it can certify of it; None if there is none.

    Args:
        model: Any classifier.
        method: As for :func:`absynth.certify.certify`.

    >>> from absynth.models.cnn import CNN
    >>> certifying_method(CNN())[0].name
    'crown'
    """
    bare = _bare(model)
    return next(((one, scope) for one in _asked_for(method) if (scope := one.scope(bare))), None)


def prover_for(model: nn.Module, method: Method | str | None = None) -> Prover:
    """The method that certifies a model, ready for it.

    Args:
        model: Any classifier.
        method: As for :func:`absynth.certify.certify`.

    Raises:
        AbsynthError: If there is none, or something is wrong with the model.
    """
    bare, methods = _bare(model), _asked_for(method)
    for one in methods:
        if one.scope(bare):
            return one.prover(bare)
    reasons = [reason for one in methods if (reason := _why_not(one, bare))]
    if reasons:
        raise AbsynthError(reasons[0])
    raise AbsynthError(
        f"A {type(model).__name__} cannot be certified by the method '{methods[0].name}'; "
        "leave the method out, or choose another."
    )


def _bare(model: nn.Module) -> nn.Module:
    """A model without what PyTorch puts around it to run it faster, which changes no answer."""
    while isinstance(model, nn.DataParallel) or hasattr(model, "_orig_mod"):
        inner = model.module if isinstance(model, nn.DataParallel) else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    return model


def _why_not(method: Method, model: nn.Module) -> str:
    """What a method that explains itself says of a model that it has no scope for."""
    explain = getattr(method, "why_not", None)
    return "" if explain is None else str(explain(model))


def _asked_for(method: Method | str | None) -> list[Method]:
    """The methods that may certify."""
    if method is None or method == "auto":
        return [one() for one in METHODS.values() if one.automatic]
    return [make_method(method) if isinstance(method, str) else method]


def make_method(name: str, settings: Mapping[str, str] | None = None) -> Method:
    """A method by its name.

    Args:
        name: One of :data:`METHODS`.
        settings: Its fields as text; those that are left out are as they are by default.

    Raises:
        AbsynthError: If there is no such method or setting, or a value cannot be read.
    """
    if name not in METHODS:
        raise AbsynthError(f"There is no method '{name}'; choose one of {', '.join(METHODS)}.")
    kind = METHODS[name]
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for setting, text in (settings or {}).items():
        if setting not in known:
            has = f"its settings are {', '.join(sorted(known))}" if known else "it has none"
            raise AbsynthError(f"The method '{name}' has no setting '{setting}'; {has}.")
        values[setting] = _read_setting(setting, text, types[setting])
    return kind(**values)


def _read_setting(setting: str, text: str, kind: Any) -> Any:
    """A value as the type of its field says.

    Raises:
        AbsynthError: If it cannot be read.
    """
    kinds = [one for one in get_args(kind) or (kind,) if one in (int, float, str)]
    if not kinds:
        return text
    try:
        return kinds[0](text)
    except ValueError:
        raise AbsynthError(f"The setting '{setting}' is '{text}'; it must be a number.") from None
