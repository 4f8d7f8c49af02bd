"""Codebooks large enough for pruning, the sieve and constraint generation to matter."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from absynth.certify import boxed, branching, certify, exact, search
from absynth.certify.codebook import find_prototypes, read_codebook
from absynth.certify.halfspace import halfspace_distance
from absynth.certify.provers.prototypes import Pairs
from absynth.errors import AbsynthError
from absynth.norms import NORMS, distance
from absynth.rounding import gamma

FRONTS = ["grey", "binary", "clamped"]
SIDE = 8
PIXELS = SIDE * SIDE


@pytest.fixture(scope="module")
def crowded(toolbox: Any) -> Any:
    """Three classes of 150 blurred blobs each."""
    generator = torch.Generator().manual_seed(0)
    centres = toolbox.random_codebook(3, classes=3, count=1, pixels=PIXELS).prototype_images
    noise = 0.35 * torch.randn(3, 150, PIXELS, generator=generator)
    return toolbox.codebook((centres + noise).clamp(0, 1), 0.5 * torch.rand(3, 150, generator=generator))


@pytest.fixture(scope="module")
def pictures(crowded: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = 0.3 * torch.randn(6, PIXELS, generator=generator)
    start = crowded.prototype_images[torch.arange(6) % 3, torch.arange(6)]
    return (start + noise).clamp(0, 1).view(6, 1, SIDE, SIDE)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_pruning_changes_nothing(
    toolbox: Any, crowded: Any, pictures: Tensor, monkeypatch: pytest.MonkeyPatch, norm: str, front: str
) -> None:
    classifier = toolbox.behind(front, crowded)
    labels = classifier(pictures).argmax(1)
    for counts in ((1, 4), (16, 64)):
        monkeypatch.setattr(search, "CANDIDATES", counts)
        pruned = certify(classifier, pictures, labels, norm)
        monkeypatch.setattr(search, "CANDIDATES", ())
        full = certify(classifier, pictures, labels, norm)
        assert bool((full.radius > 0).any())
        assert torch.allclose(pruned.radius, full.radius, rtol=1e-6)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_bound_is_at_least_that_of_one_own_prototype(
    toolbox: Any, crowded: Any, pictures: Tensor, norm: str, front: str
) -> None:
    classifier = toolbox.behind(front, crowded)
    labels = classifier(pictures).argmax(1)
    radius = certify(classifier, pictures, labels, norm).radius
    _, passed = find_prototypes(classifier)  # type: ignore[misc]
    seen = passed.see(pictures.double())
    tables = crowded.prototype_images.double(), crowded.prototype_offsets.double()
    for index in range(4):
        image, label = pictures[index].double().flatten(), int(labels[index])
        scores = (tables[0] - seen[index].flatten()).square().sum(-1) + tables[1]
        best = int(scores[label].argmin())
        others = torch.arange(3) != label
        gradient = 2 * (tables[0][others] - tables[0][label, best]).flatten(0, 1)
        margin = (scores[others] - scores[label, best]).flatten()
        bound = halfspace_distance(gradient, margin, image, norm, passed).min()  # type: ignore[arg-type]
        assert radius[index] >= (bound - 1 if norm == "l0" else bound * 0.999)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_exact_radii_are_closed_by_adversarials(
    toolbox: Any, crowded: Any, pictures: Tensor, norm: str, front: str
) -> None:
    classifier = toolbox.behind(front, crowded)
    labels = classifier(pictures).argmax(1)
    result = certify(classifier, pictures, labels, norm, exact=True)
    assert result.closed is not None and result.adversarials is not None and result.gap is not None
    assert bool(result.closed.all())
    assert bool((classifier(result.adversarials).argmax(1) != labels).all())
    assert bool((distance(pictures, result.adversarials, norm) >= result.radius).all())  # type: ignore[arg-type]
    assert bool((result.radius >= certify(classifier, pictures, labels, norm).radius).all())


@pytest.mark.parametrize("front", ["grey", "clamped"])
@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_wherever_the_time_ends_the_radius_is_proven(
    toolbox: Any, crowded: Any, pictures: Tensor, monkeypatch: pytest.MonkeyPatch, norm: str, front: str
) -> None:
    classifier, some = toolbox.behind(front, crowded), pictures[:2]
    labels = classifier(some).argmax(1)
    whole = certify(classifier, some, labels, norm, exact=True)
    pairwise = certify(classifier, some, labels, norm).radius
    assert whole.gap is not None
    for seconds in (1, 9, 60):
        clock = SimpleNamespace(monotonic=partial(next, itertools.count()))
        for module in (exact, branching, boxed):
            monkeypatch.setattr(module, "time", clock)
        result = certify(classifier, some, labels, norm, exact=True, method=Pairs(seconds=seconds))
        assert result.gap is not None and result.closed is not None and result.adversarials is not None
        assert bool((result.radius >= pairwise).all())
        assert bool((result.radius <= whole.radius + whole.gap).all())
        found = result.gap.isfinite()
        assert torch.equal(found, result.adversarials.flatten(1).isfinite().all(1))
        assert bool((classifier(result.adversarials[found]).argmax(1) != labels[found]).all())
        assert bool((result.radius + result.gap >= whole.radius).all())
        if seconds == 1:
            assert torch.allclose(result.radius, pairwise, rtol=1e-3) and not result.closed.any()


def test_an_exact_search_needs_some_time() -> None:
    with pytest.raises(AbsynthError, match="'seconds' is 0"):
        Pairs(seconds=0)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_points_of_the_ball_keep_the_class(
    toolbox: Any, crowded: Any, pictures: Tensor, norm: str, front: str
) -> None:
    classifier = toolbox.behind(front, crowded)
    labels = classifier(pictures).argmax(1)
    result = certify(classifier, pictures, labels, norm)
    generator = torch.Generator().manual_seed(2)
    rivals = crowded.prototype_images.flatten(0, 1)
    for image, label, radius in zip(pictures, labels, result.radius.tolist(), strict=True):
        picked = rivals[torch.randint(len(rivals), (300,), generator=generator)].view(-1, *image.shape)
        random = torch.randn(picked.shape, generator=generator)
        directions = torch.cat([picked - image, picked - image + 0.3 * random, random])
        points = on_sphere(image, directions, radius, norm)
        inside = distance(points, image.expand_as(points), norm) <= radius  # type: ignore[arg-type]
        assert int(inside.sum()) > len(points) / 2
        assert bool((classifier(points[inside]).argmax(1) == label).all())


def on_sphere(image: Tensor, directions: Tensor, radius: float, norm: str) -> Tensor:
    """Points of the box as far from the image as the certified radius allows, one in each direction."""
    flat = directions.flatten(1).double()
    if norm == "l0":
        keep = flat.abs().topk(int(radius), dim=1).indices
        ends = (flat > 0).double()
        start = image.flatten().double().expand_as(flat)
        points = start.scatter(1, keep, ends.gather(1, keep))
    else:
        order = {"l2": 2.0, "l1": 1.0, "linf": torch.inf}[norm]
        if norm == "linf":
            flat = flat.sign()
        length = torch.linalg.vector_norm(flat, ord=order, dim=1, keepdim=True)
        points = (image.flatten().double() + flat / length * radius * (1 - 1e-6)).clamp(0, 1)
    return points.float().view(-1, *image.shape)


def test_the_forward_slack_covers_the_forward(toolbox: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    for seed, offset in ((0, 0.5), (1, 50.0), (2, 5000.0)):
        model = toolbox.random_codebook(seed, classes=4, count=30, pixels=400, offset=offset)
        first, second = (model.prototype_images[index, torch.randint(30, (400,))] for index in (0, 1))
        images = torch.lerp(first, second, torch.rand(400, 1, generator=generator)).view(400, 1, 20, 20)
        exact = torch.stack(
            [
                (
                    (images.flatten(1).double()[:, None] - table.double()).square().sum(-1) + offsets.double()
                ).amin(1)
                for table, offsets in zip(model.prototype_images, model.prototype_offsets, strict=True)
            ],
            dim=1,
        )
        found = find_prototypes(model)
        assert found is not None
        book = read_codebook(*found)
        error = (model.losses(images).double() - exact).abs()
        ordered, order = exact.sort(dim=1)
        margin = ordered[:, 1] - ordered[:, 0]
        for label in range(4):
            slack = book.slack(exact[:, label])
            assert bool((error[:, label] <= slack).all())
            proven = (order[:, 0] == label) & (margin > slack)
            assert bool((model(images[proven]).argmax(1) == label).all())


def test_gamma_refuses_what_it_cannot_bound() -> None:
    with pytest.raises(AbsynthError, match="too large to certify"):
        gamma(2**23, torch.float32)
