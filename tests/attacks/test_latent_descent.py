"""Latent Descent on models whose boundary is known: between two prototypes it is a hyperplane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from absynth.attacks.latent_descent import LatentDescent, explain, prototypes_at
from absynth.attacks.target import Target
from absynth.certify import certify
from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.models.prototypes import NearestNeighbour
from absynth.models.vae import Decoder
from absynth.norms import distance

SIDE = 6
FAST = SearchSettings(method="quasi-newton", steps=4, tolerance=0.02, margin=15.0, fold_batch_norm=True)
DESCENTS = [LatentDescent("latent-descent", "l2"), LatentDescent("latent-descent", "linf", step=0.01)]


def two_prototypes(low: float = 0.0, high: float = 1.0) -> tuple[NearestNeighbour, Tensor]:
    """One prototype for each of two classes, of values drawn between ``low`` and ``high``."""
    prototypes = low + (high - low) * torch.rand(2, 1, SIDE, SIDE)
    return NearestNeighbour(prototypes, torch.tensor([0, 1])), prototypes


def check(model: nn.Module, images: Tensor, labels: Tensor, attack: LatentDescent) -> Tensor:
    """Attacks, sees that the result is sound, and returns the distances."""
    result = attack(model, images, labels)
    assert torch.equal(model(result.adversarials).argmax(dim=1) != labels, result.success)
    measured = distance(images, result.adversarials, attack.norm)
    assert torch.equal(result.distances[result.success], measured[result.success])
    assert (result.queries >= 2).all()
    return result.distances


def test_from_a_prototype_the_walk_is_the_shortest_way() -> None:
    model, prototypes = two_prototypes()
    distances = check(model, prototypes, torch.tensor([0, 1]), DESCENTS[0])
    half = distance(prototypes[:1], prototypes[1:], "l2") / 2
    torch.testing.assert_close(distances, half.expand(2), rtol=2e-3, atol=0)


@pytest.mark.parametrize("attack", DESCENTS, ids=lambda attack: attack.norm)
def test_it_ends_on_the_boundary_and_never_within_the_true_minimum(attack: LatentDescent) -> None:
    model, prototypes = two_prototypes()
    images = (prototypes[:1] + 0.2 * torch.randn(8, 1, SIDE, SIDE)).clamp(0, 1)
    labels = model(images).argmax(dim=1)
    difference = (prototypes[1] - prototypes[0]).flatten()
    logits = model.losses(images).double()
    slope = 2 * (difference.norm() if attack.norm == "l2" else difference.abs().sum())
    minimum = (logits[:, 1] - logits[:, 0]).abs() / slope
    ratios = check(model, images, labels, attack) / minimum
    assert ratios.amin() >= 1 - 1e-4
    assert ratios.median() <= (1.3 if attack.norm == "l2" else 2.2)


@pytest.mark.parametrize("attack", DESCENTS, ids=lambda attack: attack.norm)
def test_behind_a_threshold_only_needed_pixels_move_and_just_across(attack: LatentDescent) -> None:
    inner, prototypes = two_prototypes()
    model = Binarized(inner)
    images = torch.where(torch.rand(6, 1, SIDE, SIDE) < 0.9, prototypes[:1], torch.rand(6, 1, SIDE, SIDE))
    labels = model(images).argmax(dim=1)
    result = attack(model, images, labels)
    assert result.success.all()
    moved = result.adversarials != images
    assert ((result.adversarials[moved] - 0.5).abs() <= 1e-6).all()
    assert ((result.adversarials > 0.5) != (images > 0.5))[moved].all()


@pytest.mark.parametrize("attack", DESCENTS, ids=lambda attack: attack.norm)
def test_behind_a_clamp_it_goes_beyond_the_certified_radius(attack: LatentDescent) -> None:
    inner, prototypes = two_prototypes()
    model = Clamped(inner, 0.1)
    images = (prototypes[:1] + 0.2 * torch.randn(8, 1, SIDE, SIDE)).clamp(0, 1)
    labels = model(images).argmax(dim=1)
    radius = certify(model, images, labels, attack.norm).radius
    distances = check(model, images, labels, attack)
    assert bool((radius > 0).all())
    assert bool((distances >= radius).all())
    assert float((distances / radius).median()) <= (1.3 if attack.norm == "l2" else 2.2)


def test_a_rival_is_the_best_class_but_the_label() -> None:
    prototypes = torch.rand(3, 1, SIDE, SIDE)
    model = NearestNeighbour(prototypes, torch.arange(3))
    images = 0.9 * prototypes[[0, 1]] + 0.1 * prototypes[[2, 2]]
    target = Target(model, torch.tensor([0, 1]))
    explanation = explain(target, images)
    assert torch.equal(explanation.own, prototypes[:2])
    closest = model(images).scatter(1, target.labels[:, None], -torch.inf).argmax(dim=1)
    assert torch.equal(explanation.rival, prototypes[closest])
    assert torch.equal(explanation.logits, model(images))
    assert target.queries.tolist() == [1, 1]


def test_the_nearest_prototype_of_every_class() -> None:
    prototypes = torch.rand(6, 1, SIDE, SIDE)
    model = NearestNeighbour(prototypes, torch.tensor([0, 1, 0, 1, 0, 1]))
    found = prototypes_at(model, model.nearest(prototypes), prototypes)
    assert found.shape == (6, 2, 1, SIDE, SIDE)
    for row in range(6):
        assert torch.equal(found[row, row % 2], prototypes[row])


@pytest.fixture(scope="module")
def synthesiser(make_decoder: Callable[[int], Decoder]) -> ABS:
    codebook = CodebookABS([make_decoder(seed) for seed in range(3)], draw_latents(30))
    model = ABS(codebook, FAST)
    model.prepare()
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("attack", DESCENTS, ids=lambda attack: attack.norm)
@pytest.mark.parametrize("binary", [False, True])
def test_abs_is_fooled_by_its_own_syntheses(synthesiser: ABS, binary: bool, attack: LatentDescent) -> None:
    model: nn.Module = Binarized(synthesiser) if binary else synthesiser
    with torch.no_grad():
        images = synthesiser.codebook.prototype_images[:, :1].reshape(3, 1, 28, 28)
    labels = model(images).argmax(dim=1)
    quick = replace(attack, bisections=2)
    assert check(model, images, labels, quick).isfinite().all()


@pytest.mark.parametrize("attack", DESCENTS, ids=lambda attack: attack.norm)
def test_every_tensor_is_made_on_the_device_of_the_images(synthesiser: ABS, attack: LatentDescent) -> None:
    images, labels = synthesiser.codebook.prototype_images[:, :1].reshape(3, 1, 28, 28), torch.arange(3)
    quick = replace(attack, steps=2, bisections=2)
    # A tensor that is made without saying where would be on this device, and could not meet the others.
    with torch.device("meta"):
        result = quick.search(synthesiser, images, labels)
    found = (result.adversarials, result.distances, result.success, result.queries)
    assert {value.device.type for value in found} == {"cpu"}


def test_an_image_out_of_steps_is_given_up() -> None:
    model, prototypes = two_prototypes()
    result = LatentDescent("latent-descent", "l2", step=1e-4, steps=2)(
        model, prototypes, torch.tensor([0, 1])
    )
    assert not result.success.any()
    assert result.queries.tolist() == [7, 7]


def test_it_applies_only_where_something_is_synthesised(synthesiser: ABS) -> None:
    attack, (prototypes, images) = DESCENTS[0], two_prototypes()
    for model in (synthesiser, Binarized(synthesiser), synthesiser.codebook, Clamped(prototypes), prototypes):
        assert attack.applies_to(model)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))
    for model in (network, Binarized(network)):
        assert not attack.applies_to(model)
        with pytest.raises(AbsynthError, match="'latent-descent' uses what"):
            attack(model, images, torch.tensor([0, 1]))
