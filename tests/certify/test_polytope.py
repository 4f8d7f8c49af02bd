"""The solvers behind the exact radii."""

from __future__ import annotations

import numpy as np
import pytest

from absynth.certify.polytope import dual_ascent, linear_program, project


@pytest.mark.parametrize("seed", range(30))
def test_dual_ascent_finds_the_projection(seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.random(20).round(1)
    low, high = -image, 1 - image
    inside = generator.uniform(low, high)
    gradients = generator.normal(size=(12, 20))
    # Some constraints are copies of others, and some are met at the image already.
    gradients[4] = gradients[3]
    margins = gradients @ inside - generator.random(12) * generator.integers(0, 2, 12)
    weights, step = dual_ascent(gradients, margins, low, high, 100.0)
    assert (weights >= 0).all()
    assert (gradients @ step >= margins - 1e-6).all()
    pull = weights @ gradients
    bound = weights @ margins + (0.5 * step * step - pull * step).sum()
    assert step == pytest.approx(np.clip(pull, low, high))
    assert bound == pytest.approx(0.5 * step @ step, abs=1e-8)


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_no_point_is_told_by_multipliers(norm: str) -> None:
    image, rival = np.full(3, 0.5), np.ones(3)
    own = np.zeros((1, 3), dtype=np.float32)
    unreachable = np.array([3.1])
    found = project(image, rival, own, unreachable, norm, 0, 10.0)  # type: ignore[arg-type]
    assert found.weights.sum() > 0
    if norm == "l2":
        assert found.step is not None and np.linalg.norm(found.step) < 1
    else:
        assert found.step is None
        low, high = -image, 1 - image
        assert linear_program(2 * (rival - own), unreachable, low, high, norm) is None  # type: ignore[arg-type]


def test_a_rival_that_wins_already_needs_no_step() -> None:
    image, rival = np.full(3, 0.5), np.ones(3)
    own = np.zeros((2, 3), dtype=np.float32)
    found = project(image, rival, own, np.array([-1.0, -2.0]), "l2", 0, 10.0)
    assert found.step is not None and not found.step.any()
    assert found.weights.sum() == 1
