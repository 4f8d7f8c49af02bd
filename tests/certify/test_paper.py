"""The paper's estimate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.certify import Scope, certifiable, certify
from absynth.certify.provers.paper import paper_bound
from absynth.errors import AbsynthError


class Inferring(nn.Module):
    """A stand-in for continuous ABS."""

    def __init__(self, distances: bool) -> None:
        super().__init__()
        if distances:
            self.distances = lambda images: self.infer(images).errors / 2

    def infer(self, images: Tensor) -> Any:
        reconstructions = torch.stack([torch.zeros_like(images), torch.ones_like(images)], dim=1)
        errors = (images[:, None] - reconstructions).flatten(2).norm(dim=2)
        losses = errors.square() + 0.1
        return SimpleNamespace(losses=losses, logits=-losses, reconstructions=reconstructions, errors=errors)


@pytest.mark.parametrize("distances", [False, True])
def test_paper_estimate(distances: bool) -> None:
    images = torch.full((3, 1, 2, 2), 0.1)
    images[2] = 0.9
    result = certify(Inferring(distances).eval(), images, torch.tensor([0, 1, 1]), batch_size=2)
    assert result.method == "paper" and not result.exact
    assert result.warning is not None and "not a proof" in result.warning
    own, other = 0.2, 1.8 / (2 if distances else 1)
    expected = max(0.0, (other**2 - own**2 - 0.1) / (2 * (own + other)))
    assert result.radius.tolist() == pytest.approx([expected, 0, expected], rel=1e-5)
    with pytest.raises(AbsynthError, match="is for l2"):
        certify(Inferring(distances), images, torch.tensor([0, 1, 1]), "l1")
    with pytest.raises(AbsynthError, match="0 to 1"):
        certify(Inferring(distances), images, torch.tensor([0, 1, 2]))


def test_paper_bound_is_zero_where_a_rival_is_nearer() -> None:
    labels = torch.tensor([0])
    losses, distances = torch.tensor([[4.0, 1.0, 9.0]]), torch.tensor([[2.0, 1.0, 3.0]])
    assert paper_bound(losses, distances, torch.tensor([2.0]), labels).tolist() == [0.0]


def test_it_is_an_estimate_and_no_proof() -> None:
    assert certifiable(Inferring(False)) == Scope(proven=False, norms=("l2",), exact=())
