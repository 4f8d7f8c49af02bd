"""Brendel-Bethge: what it needs, where it begins, and how close it comes on a linear model if installed."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import find_attack
from absynth.attacks.base import Attack
from absynth.attacks.brendel_bethge import BrendelBethge
from absynth.attacks.target import Target
from absynth.errors import AbsynthError
from absynth.norms import Norm


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


class Bright(nn.Module):
    """Class 1 where enough pixels are bright enough; of the first three, the middle one weighs most."""

    def forward(self, images: Tensor) -> Tensor:
        weighted = images.flatten(1) @ torch.tensor([1.0, 3.0, 2.0] + 6 * [1.0])
        return torch.stack([torch.full_like(weighted, 0.9), weighted], dim=1)


@dataclass(frozen=True)
class Given(Attack):
    """Sets a pixel of the first image to white, in every repetition another one, and none of the second."""

    name: str = "given"
    norm: Norm = "l0"
    repetition: Any = field(default_factory=count)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def run(self, target: Target, images: Tensor) -> Tensor:
        points = images.clone()
        points[0, 0, 0, next(self.repetition)] = 1
        return points


def test_walks_begin_at_what_the_first_attack_finds_and_the_closest_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[Tensor] = []

    class Stays:
        """In place of foolbox's attack: goes nowhere."""

        def __call__(self, model: object, images: Tensor, labels: Tensor, **options: Any) -> Any:
            points = options["starting_points"]
            begun.append(points)
            return None, points, None

    monkeypatch.setattr("absynth.attacks.brendel_bethge.require", lambda package, attack: None)
    monkeypatch.setattr("absynth.attacks.brendel_bethge.foolbox_class", lambda *_, **__: Stays)
    images, labels = torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64)
    attack = BrendelBethge("walk", "l2", start=Given(), repetitions=3)
    result = attack(Bright(), images, labels)
    assert [points[0].flatten().nonzero().flatten().tolist() for points in begun] == [[0], [1], [2]]
    assert all(Bright()(points).argmax(1).tolist() == [1, 1] for points in begun)
    assert result.success.all()
    # pulled to the boundary, the second is the nearest
    assert result.adversarials[0].flatten().nonzero().flatten().tolist() == [1]
    assert result.distances[0] == pytest.approx(0.3, abs=1e-2)
    assert attack.settings["start"] == {"name": "given"}
    assert attack.settings["repetitions"] == 3
    assert "start" not in BrendelBethge("walk", "l2").settings
