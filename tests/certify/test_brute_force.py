"""The law: certified radius ≤ brute-force minimum, and equality where the certificate says it is exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from absynth.certify import certify
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.norms import NORMS, distance

GREY_EXACT = ("l2", "l1", "linf")
CLAMPED_EXACT = ("l2", "l1", "linf")
DIAMETER = {"l2": math.sqrt, "l1": float, "linf": lambda pixels: 1.0, "l0": float}


def expected(truth: float, norm: str, pixels: int) -> float:
    """The largest radius that may be claimed when the nearest other decision is at distance ``truth``."""
    return min(truth - 1 if norm == "l0" else truth, DIAMETER[norm](pixels))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_certified_is_at_most_the_exact_minimum(toolbox: Any, norm: str, seed: int) -> None:
    model = toolbox.random_codebook(seed, classes=3, count=4, pixels=8)
    images = toolbox.random_images(seed, 6, 2, 4)
    labels = model(images).argmax(1)
    oracle = toolbox.oracle(model)
    result = certify(model, images, labels, norm)
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        assert radius <= expected(oracle.exact(image, int(label), norm), norm, 8) + 1e-6


@pytest.mark.parametrize("norm", GREY_EXACT)
@pytest.mark.parametrize("seed", range(4))
def test_exact_equals_the_exact_minimum(toolbox: Any, norm: str, seed: int) -> None:
    model = toolbox.random_codebook(seed, classes=3, count=4, pixels=8)
    images = toolbox.random_images(seed + 10, 6, 2, 4)
    labels = model(images).argmax(1)
    oracle = toolbox.oracle(model)
    bound = certify(model, images, labels, norm)
    result = certify(model, images, labels, norm, exact=True)
    assert result.exact and result.method == "polytope"
    assert result.gap is not None and result.closed is not None and result.adversarials is not None
    assert bool((result.radius >= bound.radius).all())
    for index, image in enumerate(images.flatten(1).double().numpy()):
        truth = expected(oracle.exact(image, int(labels[index]), norm), norm, 8)
        assert float(result.radius[index]) <= truth + 1e-7
        assert float(result.radius[index]) == pytest.approx(truth, abs=1e-3)
    assert bool(result.closed.all())
    found = distance(result.adversarials, images, norm)
    assert torch.allclose(found - result.radius, result.gap)
    assert bool((model(result.adversarials).argmax(1) != labels).all())
    assert bool(((result.adversarials >= 0) & (result.adversarials <= 1)).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_no_grid_point_in_the_ball_is_decided_otherwise(toolbox: Any, norm: str, seed: int) -> None:
    levels = 9
    model = toolbox.random_codebook(seed + 20, classes=3, count=3, pixels=4)
    images = toolbox.random_images(seed, 4, 2, 2)
    labels = model(images).argmax(1)
    oracle = toolbox.oracle(model)
    result = certify(model, images, labels, norm, exact=norm != "l0")
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        on_grid = oracle.grid(image, int(label), norm, levels)
        assert radius <= expected(on_grid, norm, 4) + 1e-9
        if norm in GREY_EXACT and math.isfinite(on_grid):
            spacing = {"l2": 2.0, "l1": 4.0, "linf": 1.0}[norm] / (levels - 1)
            assert radius >= on_grid - 2 * spacing


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_binary_is_at_most_the_brute_force_minimum(toolbox: Any, norm: str, seed: int) -> None:
    model = toolbox.random_codebook(seed, classes=3, count=4, pixels=8)
    images = toolbox.random_images(seed, 8, 2, 4)
    labels = Binarized(model)(images).argmax(1)
    oracle = toolbox.oracle(model)
    result = certify(Binarized(model), images, labels, norm)
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        assert radius <= expected(oracle.binary(image, int(label), norm), norm, 8) + 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_exact_behind_a_threshold_equals_the_exact_minimum(toolbox: Any, norm: str, seed: int) -> None:
    count = (1, 4, 8, 3)[seed]
    model = toolbox.random_codebook(seed + 30, classes=3, count=count, pixels=8)
    if seed > 1:
        model.prototype_images.round_()
        model.index()
    images = toolbox.random_images(seed + 50, 6, 2, 4)
    labels = Binarized(model)(images).argmax(1)
    oracle = toolbox.oracle(model)
    bound = certify(Binarized(model), images, labels, norm)
    result = certify(Binarized(model), images, labels, norm, exact=True)
    assert result.exact and result.method == "polytope" and result.warning is None
    assert result.gap is not None and result.closed is not None and result.adversarials is not None
    assert bool((result.radius >= bound.radius).all())
    for index, image in enumerate(images.flatten(1).double().numpy()):
        truth = expected(oracle.binary(image, int(labels[index]), norm), norm, 8)
        assert float(result.radius[index]) <= max(truth, 0) + 1e-12
        assert float(result.radius[index]) == pytest.approx(max(truth, 0), abs=1e-3)
    assert bool(result.closed.all())
    found = result.gap > 0
    assert bool(found.any())
    away = distance(result.adversarials, images, norm) - result.radius
    assert torch.allclose(away[found], result.gap[found])
    assert bool((Binarized(model)(result.adversarials[found]).argmax(1) != labels[found]).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [0.5, 0.25, 0.75])
def test_a_pixel_flips_where_the_threshold_says(toolbox: Any, norm: str, value: float) -> None:
    """At ½ a pixel is black: a white one flips when it gets there, a black one has to pass it."""
    model = toolbox.codebook(torch.tensor([[[0.0]], [[1.0]]]), torch.zeros(2, 1))
    image, label = torch.full((1, 1, 1, 1), value), torch.tensor([int(value > 0.5)])
    result = certify(Binarized(model), image, label, norm, exact=True)
    assert result.adversarials is not None and result.closed is not None
    expected = torch.tensor(0.5) if value > 0.5 else torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    assert torch.equal(result.adversarials.flatten(), expected[None])
    assert bool(result.closed.all())
    away = 0.0 if norm == "l0" else abs(value - 0.5)
    assert float(result.radius) <= away and float(result.radius) == pytest.approx(away, abs=1e-3)


def test_pixels_of_several_channels_have_no_exact_number(toolbox: Any) -> None:
    model = toolbox.random_codebook(0, classes=2, count=2, pixels=8)
    images = toolbox.random_images(0, 2, 2, 2).repeat(1, 2, 1, 1)
    labels = Binarized(model)(images).argmax(1)
    result = certify(Binarized(model), images, labels, "l0", exact=True)
    assert not result.exact and result.warning is not None
    assert certify(Binarized(model), images, labels, "l1", exact=True).exact


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(5))
def test_behind_a_clamp_no_grid_point_in_the_ball_is_decided_otherwise(
    toolbox: Any, norm: str, seed: int
) -> None:
    levels, tail = 9, 0.1
    model = toolbox.random_codebook(seed + 60, classes=3, count=1 if seed % 2 else 3, pixels=4)
    classifier = Clamped(model, tail)
    images = toolbox.random_images(seed, 6, 2, 2)
    labels = classifier(images).argmax(1)
    oracle = toolbox.oracle(model)
    result = certify(classifier, images, labels, norm, exact=True)
    assert result.exact == (norm in CLAMPED_EXACT) and "0.1" in result.rule
    # With four pixels any one of them may be enough, and then L0 has nothing to prove.
    assert norm == "l0" or bool((result.radius > 0).any())
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        on_grid = oracle.grid(image, int(label), norm, levels, tail)
        assert radius <= expected(on_grid, norm, 4) + 1e-9
        if norm == "linf" and math.isfinite(on_grid) and seed % 2:
            assert radius >= on_grid - 2 / (levels - 1)


@pytest.mark.parametrize("norm", CLAMPED_EXACT)
@pytest.mark.parametrize("seed", range(3))
def test_exact_behind_a_clamp_equals_the_exact_minimum(toolbox: Any, norm: str, seed: int) -> None:
    tail = (0.1, 0.05, 0.3)[seed]
    model = toolbox.random_codebook(seed + 5, classes=3, count=3, pixels=6)
    classifier = Clamped(model, tail)
    images = toolbox.random_images(seed + 15, 5, 2, 3)
    labels = classifier(images).argmax(1)
    oracle = toolbox.oracle(model)
    bound = certify(classifier, images, labels, norm)
    result = certify(classifier, images, labels, norm, exact=True)
    assert result.exact and result.method == "polytope" and result.warning is None
    assert result.gap is not None and result.closed is not None and result.adversarials is not None
    assert bool((result.radius >= bound.radius).all())
    for index, image in enumerate(images.flatten(1).double().numpy()):
        truth = expected(oracle.clamped(image, int(labels[index]), norm, tail), norm, 6)
        assert float(result.radius[index]) <= truth + 2e-6
        assert float(result.radius[index]) == pytest.approx(truth, abs=1e-3)
    assert bool(result.closed.all())
    assert torch.allclose(distance(result.adversarials, images, norm) - result.radius, result.gap)
    assert bool((classifier(result.adversarials).argmax(1) != labels).all())
    assert bool(((result.adversarials >= 0) & (result.adversarials <= 1)).all())


@pytest.mark.parametrize("norm", CLAMPED_EXACT)
def test_a_clamp_without_width_changes_nothing(toolbox: Any, norm: str) -> None:
    model = toolbox.random_codebook(3, classes=3, count=4, pixels=8)
    images = toolbox.random_images(3, 6, 2, 4)
    labels = model(images).argmax(1)
    grey = certify(model, images, labels, norm, exact=True)
    clamped = certify(Clamped(model, 1e-9), images, labels, norm, exact=True)
    assert torch.allclose(clamped.radius, grey.radius, atol=1e-3)


@pytest.mark.parametrize(("norm", "binary"), [("l0", False), ("l0", True), ("linf", True)])
@pytest.mark.parametrize("seed", range(4))
def test_one_own_prototype_makes_the_bound_exact(toolbox: Any, norm: str, binary: bool, seed: int) -> None:
    model = toolbox.random_codebook(seed + 40, classes=4, count=1, pixels=8, offset=0.0)
    images = toolbox.random_images(seed, 6, 2, 4)
    classifier = Binarized(model) if binary else model
    labels = classifier(images).argmax(1)
    oracle = toolbox.oracle(model)
    result = certify(classifier, images, labels, norm)
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        find = oracle.binary if binary else oracle.exact
        arguments = (image, int(label), norm)
        assert float(radius) == pytest.approx(max(expected(find(*arguments), norm, 8), 0), abs=1e-9)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(NORMS),
    binary=st.booleans(),
    kind=st.sampled_from(["random", "duplicate", "prototype", "corner", "absent", "offsets"]),
)
def test_soundness_on_awkward_codebooks(toolbox: Any, seed: int, norm: str, binary: bool, kind: str) -> None:
    model = toolbox.random_codebook(
        seed, classes=3, count=3, pixels=6, offset=40.0 if kind == "offsets" else 0.3
    )
    images = toolbox.random_images(seed, 3, 2, 3)
    if kind == "duplicate":
        model.prototype_images[1, 0] = model.prototype_images[0, 1]
        model.prototype_offsets[1, 0] = model.prototype_offsets[0, 1]
    if kind in ("prototype", "duplicate"):
        images[0] = model.prototype_images[0, 1].view(1, 2, 3)
    if kind == "corner":
        images = images.round()
    if kind == "absent":
        model.prototype_offsets[0, 1:] = torch.inf
        model.prototype_offsets[2] = torch.inf
    model.index()
    classifier = Binarized(model) if binary else model
    labels = classifier(images).argmax(1)
    oracle = toolbox.oracle(model)
    result = certify(classifier, images, labels, norm)
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, result.radius, strict=True):
        arguments = (image, int(label), norm)
        truth = oracle.binary(*arguments) if binary else oracle.exact(*arguments)
        assert radius <= max(expected(truth, norm, 6), 0) + 1e-6
        assert radius >= 0


def test_oracles_agree_with_each_other(toolbox: Any) -> None:
    model = toolbox.random_codebook(7, classes=2, count=2, pixels=4)
    oracle = toolbox.oracle(model)
    image = np.array([0.2, 0.9, 0.5, 0.0])
    label = int(oracle.scores(image[None]).argmin())
    for norm in NORMS:
        exact, on_grid = oracle.exact(image, label, norm), oracle.grid(image, label, norm, 17)
        assert exact <= on_grid + 1e-9
        assert on_grid <= exact + (0 if norm == "l0" else 0.3)
