"""AutoAttack: what it needs, how it counts, and that it is as good as its strongest part."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import find_attack
from absynth.attacks.auto_attack import AutoAttack
from absynth.errors import AbsynthError


def small_network(classes: int) -> nn.Sequential:
    """A small network of random weights."""
    torch.manual_seed(classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 16), nn.ReLU(), nn.Linear(16, classes))


def test_without_its_package_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("absynth.attacks.base.find_spec", lambda name: None)
    model, images = small_network(2), torch.rand(2, 1, 5, 5)
    with pytest.raises(AbsynthError, match=r"pip install 'absynth\[attacks\]'"):
        find_attack("auto-attack", "l2", "extra")(model, images, model(images).argmax(dim=1))


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_it_attacks_any_number_of_classes(classes: int) -> None:
    model, images = small_network(classes), torch.rand(3, 1, 5, 5)
    labels = model(images).argmax(dim=1)
    nearest = find_attack("ddn", "l2", "strong")(model, images, labels)
    largest = float(nearest.distances[nearest.success].max())
    result = AutoAttack("auto-attack", "l2", sizes=(1.05 * largest,))(model, images, labels)
    assert result.success[nearest.success].all()
    assert (result.distances[result.success] <= 1.06 * largest).all()


@pytest.mark.usefixtures("short_auto_attack")
def test_smaller_sizes_are_tried_first() -> None:
    model, images = small_network(4), torch.rand(6, 1, 5, 5)
    labels = model(images).argmax(dim=1)
    small = AutoAttack("auto-attack", "linf", sizes=(0.02,))(model, images, labels)
    both = AutoAttack("auto-attack", "linf", sizes=(0.5, 0.02))
    assert both.settings == {"sizes": [0.02, 0.5], "bisections": 10}
    result = both(model, images, labels)
    assert (small.distances[small.success] <= 0.02 + 1e-6).all()
    assert (result.distances[small.success] <= 0.02 + 1e-6).all()
    assert (result.distances[~small.success] > 0.02).all()


class Counted(nn.Module):
    """A model that counts the images that it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        logits: Tensor = self.model(images)
        return logits


@pytest.mark.usefixtures("short_auto_attack")
def test_all_queries_are_counted() -> None:
    model, images = Counted(small_network(4)), torch.rand(2, 1, 5, 5)
    labels = model(images).argmax(dim=1)
    model.seen = 0
    result = AutoAttack("auto-attack", "l2", sizes=(0.1, 0.2))(model, images, labels)
    # shared out in whole numbers, and one image alone is asked for the number of classes at each size
    assert int(result.queries.sum()) == pytest.approx(model.seen, abs=2 * len(images))


@pytest.mark.usefixtures("short_auto_attack")
def test_its_remarks_are_kept_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    class Guessing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.rand(len(images), 4) + torch.tensor([5.0, 0.0, 0.0, 0.0])

    AutoAttack("auto-attack", "l2", sizes=(0.1,))(Guessing(), torch.rand(2, 1, 5, 5), torch.zeros(2).long())
    assert not caplog.records
    assert not logging.getLogger("auto-attack").disabled
