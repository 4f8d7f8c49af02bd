"""Brendel-Bethge: what it needs, and that it comes close on a linear model where that is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from absynth.attacks import find_attack
from absynth.attacks.brendel_bethge import BrendelBethge
from absynth.errors import AbsynthError


def test_without_numba_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("absynth.attacks.base.find_spec", lambda name: None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    images = torch.rand(2, 1, 3, 3)
    with pytest.raises(AbsynthError, match=r"pip install 'absynth\[attacks\]'"):
        find_attack("brendel-bethge", "l2", "extra")(model, images, model(images).argmax(dim=1))


@pytest.mark.skipif(find_spec("numba") is None, reason="needs absynth[attacks]")
def test_it_comes_close_on_a_linear_model() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(25, 2)), 0.4 + 0.2 * torch.rand(4, 1, 5, 5)
    weight = model[1].weight.detach()
    with torch.no_grad():
        model[1].bias.copy_(-weight.sum(dim=1) / 2 + torch.tensor([0.3, 0.0]))
        logits = model(images)
    slope = (weight[1] - weight[0]).abs().sum()
    minimum = (logits[:, 0] - logits[:, 1]).abs().double() / slope
    result = BrendelBethge("brendel-bethge", "linf", steps=60)(model, images, logits.argmax(dim=1))
    ratios = result.distances / minimum
    assert ratios.amin() >= 1 - 1e-4
    assert ratios.median() <= 1.2
