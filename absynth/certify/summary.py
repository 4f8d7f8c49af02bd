"""A certificate in a few figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from absynth.certify.certificate import Certificate
from absynth.errors import AbsynthError
from absynth.norms import Norm

SIZES: dict[Norm, tuple[float, ...]] = {
    "l2": (0.3, 0.5, 1.0, 1.5, 1.58, 2.0, 2.5, 3.0),
    "l1": (1.0, 2.0, 4.0, 8.0),
    "linf": (0.05, 0.1, 0.2, 0.3),
    "l0": (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0),
}
"""Perturbation sizes that certified accuracy is reported at."""

UNION: dict[Norm, float] = {"l1": 1.0, "l2": 0.3, "linf": 0.1}
"""Sizes that robustness to a union of norms is commonly reported at on MNIST (Maini et al. 2020)."""


@dataclass(frozen=True)
class Summary:
    """How robust a model is proven to be on a set of images.

    Attributes:
        images: How many images.
        accuracy: Share of correct predictions.
        mean: Mean radius, misclassified images counting 0.
        median: Median radius, likewise.
        certified: Share of images that are correct and proven to stay so, by size of the perturbation.
        closed: Share of closed gaps; None where the certificate is not exact.
    """

    images: int
    accuracy: float
    mean: float
    median: float
    certified: dict[float, float]
    closed: float | None


def certified_accuracy(radius: Float[Tensor, "batch"], size: float) -> float:
    """The share of images whose decision is right and proven for every perturbation of up to ``size``.

    Raises:
        AbsynthError: If the size is not positive; at 0 it would count misclassified images.
    """
    if not size > 0:
        raise AbsynthError(f"The perturbation size is {size}; certified accuracy is for sizes above 0.")
    return float((radius >= size).double().mean())


def union_accuracy(radius: Mapping[Norm, Float[Tensor, "batch"]]) -> float:
    """The share of images that are right and proven for every perturbation within any size of :data:`UNION`.

    Args:
        radius: Of the same images in each of the norms.
    """
    proven = [radius[norm] >= size for norm, size in UNION.items()]
    return float(torch.stack(proven).all(dim=0).double().mean())


def summarise(certificate: Certificate, labels: Tensor, sizes: Sequence[float] | None = None) -> Summary:
    """The figures of a certificate.

    Args:
        certificate: What :func:`absynth.certify.certify` returned.
        labels: The true classes.
        sizes: Perturbation sizes, by default :data:`SIZES` of the norm.
    """
    radius = certificate.radius
    chosen = SIZES[certificate.norm] if sizes is None else sizes
    return Summary(
        len(radius),
        float((certificate.prediction == labels).double().mean()),
        float(radius.mean()),
        float(radius.quantile(0.5)),
        {size: certified_accuracy(radius, size) for size in chosen},
        None if certificate.closed is None else float(certificate.closed.double().mean()),
    )
