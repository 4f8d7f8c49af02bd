"""The smallest adversarials of a classifier by prototypes, from its certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from absynth.attacks.base import Attack
from absynth.attacks.target import Target
from absynth.norms import Norm
from absynth.shapes import Images


@dataclass(frozen=True)
class ExactSearch(Attack):
    """The adversarials that exact certificates come with: no others are nearer by more than their gap.

    They are found from the prototypes, not from answers of the model, so that one query is counted for what
    is a geometric search; it takes up to some seconds an image. See :func:`absynth.certify.certify`.

    Attributes:
        name: Name in suites and records.
        norm: L2, L1 or Linf.
    """

    name: str
    norm: Norm

    @property
    def settings(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def applies_to(self, model: nn.Module) -> bool:
        """Whether the model has exact certificates: prototypes decide."""
        from absynth.certify import certifiable

        scope = certifiable(model, "pairs")
        return scope is not None and self.norm in scope.exact

    def run(self, target: Target, images: Images) -> Images:
        """Certifies the images."""
        from absynth.certify import certify

        target.count()
        adversarials = certify(target.model, images, target.labels, self.norm, exact=True).adversarials
        assert adversarials is not None
        return torch.where(adversarials.isfinite(), adversarials, images)
