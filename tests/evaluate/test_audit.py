"""The audit finds what breaks the law, and nothing where the law holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from absynth.attacks import suite_attacks
from absynth.certify import Certificate, Certifier
from absynth.data import Dataset
from absynth.errors import AbsynthError
from absynth.evaluate import audit as module
from absynth.evaluate import certification
from absynth.evaluate.audit import audit, ball_points
from absynth.models.cnn import CNN, Binarized
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

    def run(binary: bool, norm: Norm) -> list[module.Audit]:
        model = NearestNeighbour(images[:30], labels[:30])
        classifier = (Binarized(model) if binary else model).eval()
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


def test_radii_that_are_too_large_are_caught(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Boaster(Certifier):
        def certify_in(self, *arguments: Any, **options: Any) -> list[Certificate]:
            honest = super().certify_in(*arguments, **options)
            return [Certificate(**(vars(one) | {"radius": one.radius * 3})) for one in honest]

    monkeypatch.setattr(certification, "Certifier", Boaster)
    (entry,) = run(False, "l2")
    sources = {violation.source for violation in entry.violations}
    assert "ball" in sources
    assert len(sources) > 1
    assert entry.tightest > 1


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
            load_model=lambda _: CNN(),
        )
