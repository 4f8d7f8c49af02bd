"""The audit finds what breaks the law, and nothing where the law holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import suite_attacks
from absynth.certify import Certificate, Certifier, Method
from absynth.certify.provers.ablation import Ablation
from absynth.certify.provers.smoothing import Smoothing
from absynth.data import Dataset
from absynth.errors import AbsynthError
from absynth.evaluate import audit as module
from absynth.evaluate import certification
from absynth.evaluate.audit import audit
from absynth.evaluate.balls import ball_points, draw_directions
from absynth.models.cnn import Binarized
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import NORMS, Norm, distance
from absynth.progress import Progress
from absynth.report.certificates import audit_table


@pytest.mark.parametrize("norm", NORMS)
def test_points_lie_on_the_sphere_and_in_the_box(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 4, 5, generator=generator).round(decimals=1)
    directions = torch.randn(40, 20, generator=generator)
    radius = torch.tensor([0.05, 0.3, 0.5, 0.9] * 10, dtype=torch.float64)
    radius = (radius * 10).floor() if norm == "l0" else radius
    points = ball_points(images, directions, radius, norm)
    assert 0 <= points.min() < points.max() <= 1
    moved = distance(images, points, norm)
    assert bool((moved <= radius).all())
    if norm == "l0":
        # Pixels that are 0 or 1 already stay where they are.
        assert moved.mean() > 0.8 * radius.mean()
    else:
        assert bool((moved >= radius - 1e-5).all())


def test_a_ball_larger_than_the_box_ends_in_a_corner() -> None:
    image, direction = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[1.0, -2.0]])
    far = torch.tensor([9.0], dtype=torch.float64)
    assert ball_points(image, direction, far, "l2").flatten().tolist() == [1.0, 0.0]


@pytest.fixture
def run(make_images: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Audits a small model on 12 small images; its argument says what to audit."""
    images = make_images(40)
    labels = torch.arange(40) % 3
    images[torch.arange(40), 0, 0, labels] = 1
    dataset = Dataset(images, labels, ("0", "1", "2"))
    monkeypatch.setattr(module, "read_for", lambda *_: dataset)
    monkeypatch.setattr("absynth.evaluate.runner.read_for", lambda *_: dataset)

    def run(binary: bool, norm: Norm, network: nn.Module | None = None) -> list[module.Audit]:
        model = NearestNeighbour(images[:30], labels[:30])
        classifier = (Binarized(model) if binary else model).eval() if network is None else network
        return audit(
            "small",
            norms=[norm],
            suite="quick",
            count=12,
            points=100,
            out=tmp_path,
            progress=Progress(disable=True),
            load_model=lambda _: classifier,
        )

    return run


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("binary", [False, True])
def test_the_law_holds(run: Any, norm: Norm, binary: bool) -> None:
    (entry,) = run(binary, norm)
    assert entry.violations == ()
    assert entry.images == 12
    assert entry.points == 100
    assert entry.comparisons == 12 * len(entry.attacks)
    assert set(entry.attacks) <= {attack.name for attack in suite_attacks("quick", norm)}
    assert 0 < entry.tightest < 1
    assert audit_table([entry], "small").row_count == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_law_holds_for_a_network(run: Any, norm: Norm, make_images: Callable[..., Tensor]) -> None:
    images = make_images(40)
    labels = torch.arange(40) % 3
    images[torch.arange(40), 0, 0, labels] = 1
    layer = nn.Linear(images[0].numel(), 3)
    with torch.no_grad():
        # the pixel that says the class
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[torch.arange(3), torch.arange(3)] = 1
    (entry,) = run(False, norm, nn.Sequential(nn.Flatten(), layer, nn.ReLU()).eval())
    assert entry.violations == ()
    assert entry.points == 100
    assert 0 < entry.tightest <= 1


class Boaster(Certifier):
    factor = 3

    def certify_in(self, *arguments: Any, **options: Any) -> list[Certificate]:
        honest = super().certify_in(*arguments, **options)
        return [replace(one, radius=one.radius * self.factor) for one in honest]


def test_radii_that_are_too_large_are_caught(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification, "Certifier", Boaster)
    (entry,) = run(False, "l2")
    sources = {violation.source for violation in entry.violations}
    assert "ball" in sources
    assert len(sources) > 1
    assert entry.tightest > 1


MAJORITIES: list[tuple[Method, Norm]] = [
    (Smoothing(sigma=0.5, samples=1000), "l2"),
    (Smoothing(sigma=0.5, samples=1000, noise="laplace"), "l1"),
    (Ablation(kept=2, samples=1000), "l0"),
]


@pytest.fixture
def run_majority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Audits the majority of a linear model on 8 images of 16 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 4, 4, generator=generator).round()
    layer = nn.Linear(16, 2).requires_grad_(False)
    layer.weight.copy_(torch.randn(2, 16, generator=generator))
    layer.bias.copy_(-layer.weight.sum(1) / 2)
    model = nn.Sequential(nn.Flatten(), layer).eval()
    dataset = Dataset(images, model(images).argmax(1), ("0", "1"))
    monkeypatch.setattr(module, "read_for", lambda *_: dataset)

    def run(method: Method, norm: Norm) -> module.Audit:
        (entry,) = audit(
            "small",
            norms=[norm],
            suite="quick",
            count=8,
            points=60,
            out=tmp_path,
            progress=Progress(disable=True),
            load_model=lambda _: model,
            method=method,
        )
        return entry

    return run


@pytest.mark.parametrize(("method", "norm"), MAJORITIES, ids=["gaussian", "laplace", "ablation"])
def test_radii_of_a_majority_hold_and_larger_ones_are_caught(
    run_majority: Any, method: Method, norm: Norm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = run_majority(method, norm)
    assert entry.violations == () and not entry.refuted
    assert entry.images == 8 and entry.points == 60
    assert 0 < entry.comparisons <= entry.images
    assert 0 < entry.tightest < 1
    # Laplace noise has far smaller radii in L1 than a linear model of many weights
    monkeypatch.setattr(Boaster, "factor", 8 if norm == "l1" else 3)
    monkeypatch.setattr(certification, "Certifier", Boaster)
    shutil.rmtree(tmp_path / "certificates")
    entry = run_majority(method, norm)
    assert {violation.source for violation in entry.violations} >= {"gradient", "ball"}
    assert entry.tightest >= 1 and entry.refuted
    assert "by chance" in str(next(iter(audit_table([entry], "small").columns[-1].cells)))


def test_nothing_is_compared_where_nothing_is_certified(run_majority: Any) -> None:
    entry = run_majority(Smoothing(sigma=100.0, samples=10), "l2")
    assert (entry.comparisons, entry.points, entry.violations, entry.allowed) == (0, 0, (), 0)


def test_as_many_violations_as_chance_makes_refute_nothing() -> None:
    violations = tuple(module.Violation("l2", "ball", index, 1.0, 0.5) for index in (0, 0, 1))
    for allowed, refuted in ((0, True), (1, True), (2, False)):
        entry = module.Audit("l2", 100, (), 0, 10, 1.0, violations, allowed)
        assert entry.refuted == refuted


def test_without_prototypes_points_lie_at_random_and_towards_other_images() -> None:
    images, generator = torch.rand(6, 1, 2, 2), torch.Generator().manual_seed(0)
    directions = draw_directions(None, images, "l2", generator)
    flat = images.flatten(1)
    differences = flat[None] - flat[:, None]
    for row in (1, 3, 5):
        assert (directions[row] - differences[row]).norm(dim=1).min() < 1e-6


def test_only_models_with_certificates_are_audited(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="no certificates to check"):
        audit(
            "cnn",
            norms=["l2"],
            suite="quick",
            count=1,
            points=1,
            out=tmp_path,
            progress=Progress(disable=True),
            load_model=lambda _: nn.GELU(),
        )
