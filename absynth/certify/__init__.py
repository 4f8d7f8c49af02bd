"""Certificates: proven lower bounds on how far an image can change before a decision does."""

import sys
from types import ModuleType
from typing import Any

from absynth.certify.certificate import Certificate
from absynth.certify.certifier import Certifier, certify
from absynth.certify.prover import Method, Prover, Scope
from absynth.certify.provers import certifiable, certifying_method, make_method
from absynth.certify.summary import (
    SIZES,
    UNION,
    Summary,
    certified_accuracy,
    summarise,
    union_accuracy,
)

__all__ = [
    "SIZES",
    "UNION",
    "Certificate",
    "Certifier",
    "Method",
    "Prover",
    "Scope",
    "Summary",
    "certifiable",
    "certified_accuracy",
    "certify",
    "certifying_method",
    "make_method",
    "summarise",
    "union_accuracy",
]


class _CallableModule(ModuleType):
    """Lets ``absynth.certify`` be both this package and the function in it, whichever is imported first."""

    def __call__(self, *arguments: Any, **options: Any) -> Certificate:
        """Calls :func:`certify`."""
        return certify(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
