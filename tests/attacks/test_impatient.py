"""Images whose adversarials come no nearer leave an attack that walks by decisions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from absynth.attacks import find_attack
from absynth.attacks.adapter import FoolboxAttack, _Impatient, foolbox_class
from absynth.attacks.target import Target


class Limits(nn.Module):
    """Class 1 from a mean of 0.3 on; keeps how many images it was asked about each time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(len(images))
        mean = images.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(mean), mean - 0.3], dim=1)


def test_what_comes_no_nearer_is_asked_about_no_more() -> None:
    model, images = Limits(), torch.zeros(3, 1, 2, 2)
    target = Target(model, torch.tensor([0, 0, 0]))
    impatient = _Impatient(target, images, patience=2)

    def ask(*means: float) -> list[int]:
        points = torch.tensor(means)[:, None, None, None].expand(3, 1, 2, 2)
        return list(impatient(points).argmax(1).tolist())

    assert ask(0.9, 0.8, 0.2) == [1, 1, 0]
    # The third has not been adversarial yet: it has nothing to lose, and is let go.
    assert ask(0.7, 0.9, 0.2) == [1, 1, 0]
    assert ask(0.6, 0.8, 0.9) == [1, 1, 0]
    # The first comes nearer, the second stays where it is.
    assert ask(0.9, 0.9, 0.9) == [1, 1, 0]
    assert ask(0.5, 0.4, 0.9) == [1, 0, 0]
    assert ask(0.9, 0.9, 0.9) == [1, 0, 0]
    assert ask(0.5, 0.5, 0.5) == [1, 0, 0]
    assert ask(0.5, 0.5, 0.5) == [1, 0, 0]
    assert ask(0.4, 0.4, 0.4) == [0, 0, 0]
    assert model.asked == [3, 3, 2, 2, 1, 1, 1, 1]
    assert target.queries.tolist() == [8, 4, 2]


def test_boundary_ends_where_it_did_with_fewer_queries() -> None:
    boundary = find_attack("boundary", "l2", "strong")
    assert isinstance(boundary, FoolboxAttack)
    assert boundary.settings["patience"] == 1500
    parameters = boundary.parameters | {"steps": 900}
    images, labels = torch.rand(4, 1, 4, 4) * 0.2, torch.zeros(4, dtype=torch.int64)
    short = find_attack("boundary", "l2", "quick")
    assert isinstance(short, FoolboxAttack)
    assert "patience" not in short.settings
    del parameters["foolbox"]
    patient = replace(boundary, make=foolbox_class("BoundaryAttack", **parameters), patience=None)
    whole = patient(Limits(), images, labels, seed=0)
    some = replace(patient, patience=200)(Limits(), images, labels, seed=0)
    assert bool((some.queries < whole.queries).all())
    assert bool((some.distances <= 1.02 * whole.distances).all())
