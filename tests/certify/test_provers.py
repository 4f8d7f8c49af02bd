"""What can be certified of a model, and by which method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.certify import Certificate, Certifier, Scope, certifiable, certify, provers
from absynth.models.cnn import CNN, Binarized
from absynth.models.front import Clamped
from absynth.norms import NORMS, Norm


@pytest.mark.parametrize("front", ["grey", "binary", "clamped"])
def test_exactly_the_norms_that_are_said_to_be_exact_are(toolbox: Any, front: str) -> None:
    model = toolbox.behind(front, toolbox.random_codebook(0, classes=3, count=2, pixels=8))
    images = toolbox.random_images(0, 3, 2, 4)
    scope = certifiable(model)
    assert scope is not None and scope.proven and scope.norms == NORMS
    for norm in NORMS:
        result = certify(model, images, model(images).argmax(1), norm, exact=True)
        assert result.exact == (norm in scope.exact)
        assert (result.warning is None) == result.exact


def test_nothing_can_be_certified_of_a_network() -> None:
    for model in (CNN(), Binarized(CNN()), Clamped(CNN()), nn.Flatten()):
        assert certifiable(model) is None


class Constant:
    """Certifies flattening, which has one class: its first pixel is never out."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @staticmethod
    def scope(model: nn.Module) -> Scope | None:
        return Scope(norms=("l2",)) if isinstance(model, nn.Flatten) else None

    def prove(
        self, images: Tensor, labels: Tensor, norms: Sequence[Norm], **options: Any
    ) -> list[Certificate]:
        prediction, radius = self.model(images).argmax(1), torch.ones(len(images)).double()
        return [Certificate(norm, radius, prediction, "constant", False, "none") for norm in norms]


def test_a_method_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provers.METHODS, "constant", Constant)
    assert certifiable(nn.Flatten()) == Scope(norms=("l2",))
    images, labels = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    assert certify(nn.Flatten(), images, labels).method == "constant"
    found = Certifier(nn.Flatten()).certify_in(images, labels, ["l2", "l1"])
    assert [(one.norm, one.radius.tolist()) for one in found] == [("l2", [1.0, 1.0]), ("l1", [1.0, 1.0])]
