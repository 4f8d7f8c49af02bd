"""The exact search: what it applies to, and that nothing is nearer."""

from __future__ import annotations

import pytest
import torch

from absynth.attacks import find_attack
from absynth.certify import certify
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import Norm


@pytest.fixture
def model() -> NearestNeighbour:
    """A few random images of three classes."""
    torch.manual_seed(0)
    return NearestNeighbour(torch.rand(12, 1, 4, 4), torch.arange(12) % 3)


@pytest.mark.parametrize("clamped", [False, True], ids=["grey", "clamped"])
@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_nothing_is_nearer_and_the_certificate_says_so(
    model: NearestNeighbour | Clamped, norm: Norm, clamped: bool
) -> None:
    model = Clamped(model, 0.1) if clamped else model
    images = torch.rand(8, 1, 4, 4).mul(1.6).sub(0.3).clamp(0, 1)
    labels = model(images).argmax(dim=1)
    exact = find_attack("exact", norm, "extra")
    result = exact(model, images, labels)
    certificate = certify(model, images, labels, norm)
    assert result.success.all()
    assert torch.equal(model(result.adversarials).argmax(dim=1) != labels, result.success)
    assert (result.distances >= certificate.radius).all()
    for name in ("fmn", "bim"):
        other = find_attack(name, norm, "strong")(model, images, labels)
        assert (result.distances <= other.distances + 1e-3).all()
    assert (result.queries < 10).all()


def test_it_applies_to_prototypes_alone(model: NearestNeighbour) -> None:
    exact = find_attack("exact", "l2", "extra")
    assert exact.applies_to(model)
    assert exact.applies_to(Clamped(model, 0.1))
    assert exact.applies_to(Binarized(model))
    assert not exact.applies_to(torch.nn.Flatten())
