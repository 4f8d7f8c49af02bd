"""Randomised ablation, against classifiers of so few pixels that every mask and image can be gone through."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from absynth.certify import Scope, certifiable, certify
from absynth.certify.provers import ablation, sampled
from absynth.certify.provers.ablation import Ablation, chances_to_see
from absynth.errors import AbsynthError

ALPHA = 0.01
CHANCE = 1e-4
MISSING = 0.5


def every_mask(pixels: int, kept: int) -> Tensor:
    chosen = torch.tensor(list(itertools.combinations(range(pixels), kept)))
    return torch.zeros(len(chosen), pixels).scatter(1, chosen, 1)


def majority(model: nn.Module, images: Tensor, kept: int) -> Tensor:
    """How many masks give each class, shape (image, class)."""
    masks = every_mask(images.shape[1], kept)
    copies = images[:, None] * masks + MISSING * (1 - masks)
    decisions = model(copies.flatten(0, 1)[:, None, None]).argmax(1).view(len(images), -1)
    return nn.functional.one_hot(decisions, 2).sum(1)


class Alarm(nn.Module):
    """Class 1 as soon as it sees a white pixel, or both of a false pair (both black); else class 0."""

    def __init__(self, false: int, pixels: int = 12) -> None:
        super().__init__()
        pairs = list(itertools.combinations(range(pixels - 1, 1, -1), 2))[:false]
        self.pairs = torch.zeros(len(pairs), pixels)
        for row, pair in enumerate(pairs):
            self.pairs[row, list(pair)] = 1

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        false = ((flat == 0).float() @ self.pairs.T == 2).any(1)
        alarm = ((flat == 1).any(1) | false).float()
        return torch.stack([1 - alarm, alarm], dim=1)


def exact_radius(model: nn.Module, image: Tensor, label: int, kept: int) -> int:
    """The most pixels that can be changed to black or white in any way without a change of the majority."""
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(image))))
    votes = majority(model, every, kept)
    others = votes[:, 1 - label] >= votes[:, label]
    changed = (every != image).sum(1)
    return int(changed[others].min()) - 1 if others.any() else len(image)


@pytest.mark.parametrize(("pixels", "kept"), [(784, 45), (12, 2), (6, 6), (5, 1)])
def test_the_chance_to_see_a_changed_pixel_is_that_of_the_binomials(pixels: int, kept: int) -> None:
    found = chances_to_see(pixels, kept)
    assert len(found) == pixels + 1
    for changed, chance in enumerate(found):
        assert chance == 1 - Fraction(comb(pixels - changed, kept), comb(pixels, kept))


@pytest.mark.parametrize(("false", "radius"), [(0, 3), (5, 2), (20, 1), (30, 0)])
def test_the_radius_is_exact_where_every_changed_pixel_is_seen(false: int, radius: int) -> None:
    model, black = Alarm(false), torch.zeros(1, 1, 3, 4)
    assert exact_radius(model, black.flatten(), 0, 2) == radius
    method = Ablation(kept=2, samples=20_000)
    assert certify(model, black, [0], "l0", method=method).radius.tolist() == [radius]


def too_many(model: nn.Module, exact: int, samples: int, seeds: int = 150) -> int:
    """How many of several runs give a black image more than its exact radius."""
    black = torch.zeros(1, 1, 3, 4)
    methods = (Ablation(kept=2, samples=samples, alpha=ALPHA, seed=seed) for seed in range(seeds))
    return sum(float(certify(model, black, [0], "l0", method=method).radius) > exact for method in methods)


def test_radii_hold_within_alpha_and_broken_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # 13 of 66 masks are false: two changed pixels bring 21 more and so the majority
    model = Alarm(13)
    assert exact_radius(model, torch.zeros(12), 0, 2) == 1
    assert binom.sf(too_many(model, 1, 200) - 1, 150, ALPHA) > CHANCE
    monkeypatch.setattr(sampled, "most_others", lambda votes, samples, alpha: 1 - votes / samples)
    assert binom.sf(too_many(model, 1, 200) - 1, 150, ALPHA) < CHANCE


def test_a_pixel_too_many_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert too_many(Alarm(5), 2, 5000, seeds=3) == 0
    honest = chances_to_see
    monkeypatch.setattr(ablation, "chances_to_see", lambda *given: (Fraction(0), *honest(*given)))
    assert too_many(Alarm(5), 2, 5000, seeds=3) == 3


def test_no_radius_exceeds_what_brute_force_finds() -> None:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    images = (torch.rand(60, 1, 2, 4, generator=generator) < 0.5).float()
    votes = majority(model, images.flatten(1), 2)
    labels = votes.argmax(1)
    found = certify(model, images, labels, "l0", method=Ablation(kept=2, samples=2000, alpha=ALPHA))
    pairs = zip(images.flatten(1), labels.tolist(), strict=True)
    exact = torch.tensor([exact_radius(model, image, label, 2) for image, label in pairs])
    violations = int((found.radius > exact).sum())
    assert binom.sf(violations - 1, len(images), ALPHA) > CHANCE
    assert set(found.radius.tolist()) >= {0.0, 1.0}


def test_every_set_of_pixels_is_as_likely() -> None:
    masks = Ablation(kept=2).draw((3, 2, 2), 6000, np.random.default_rng(0)).kept
    assert masks.shape == (6000, 1, 2, 2)
    sets, counts = masks.flatten(1).unique(dim=0, return_counts=True)
    assert sets.sum(1).tolist() == [2.0] * 6
    # 1000 each, give or take five standard deviations
    assert counts.sub(1000).abs().max() < 150


def test_a_colour_pixel_is_kept_as_a_whole() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return torch.stack([images.flatten(1).sum(1), images.flatten(1).sum(1) - 1], dim=1)

    image = torch.full((1, 3, 2, 4), 0.25)
    certify(Watching(), image, [0], "l0", method=Ablation(kept=3, samples=50, missing=1.0))
    copies = seen[-1]
    assert set(copies.unique().tolist()) == {0.25, 1.0}
    assert ((copies == 0.25).sum((2, 3)) == 3).all()
    assert copies.amax(1).equal(copies.amin(1))


def test_it_says_what_it_certifies() -> None:
    model = Alarm(0)
    scope = certifiable(model, "ablation")
    assert scope == Scope(norms=("l0",), confidence=0.999, at_once=10)
    found = certify(model, torch.zeros(1, 1, 3, 4), [0], "l0", method=Ablation(kept=2, samples=50))
    assert found.method == "ablation first=100 samples=50 alpha=0.001 seed=0 kept=2 missing=0.5"
    assert "2 random pixels as they are and all others at 0.5" in found.rule


def test_settings_out_of_their_range_are_told() -> None:
    with pytest.raises(AbsynthError, match=r"'kept' is 45; the images have 12 pixels, so keep at most those"):
        certify(Alarm(0), torch.zeros(1, 1, 3, 4), [0], "l0", method="ablation")
    with pytest.raises(AbsynthError, match=r"'missing' is 2; it must be a value in \[0, 1\]"):
        Ablation(missing=2)
    with pytest.raises(AbsynthError, match="'kept' is 0; it must be at least 1"):
        Ablation(kept=0)
    with pytest.raises(AbsynthError, match="gives no radii in l2; ask for l0"):
        certify(Alarm(0), torch.zeros(1, 1, 3, 4), [0], "l2", method=Ablation(kept=2))
