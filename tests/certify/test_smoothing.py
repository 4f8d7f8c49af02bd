"""Randomised smoothing, against linear models and a codebook whose smoothed forms are known exactly."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from absynth.certify import Certificate, Certifier, Scope, certifiable, certify
from absynth.certify.provers import sampled, smoothing
from absynth.certify.provers.sampled import most_others
from absynth.certify.provers.smoothing import Smoothing
from absynth.errors import AbsynthError
from absynth.models.cnn import CNN, Binarized
from absynth.norms import Norm

IMAGES = 1000
ALPHA = 0.01
CHANCE = 1e-4
"""How seldom a sound method may fail a test of a share: seeds are fixed, so it fails always or never."""

GENERAL, ONE, EVEN = [0.9, -0.5, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0]


class Linear(nn.Module):
    """Class 1 where w · x > t, else class 0."""

    def __init__(self, weights: list[float], threshold: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        margin = images.flatten(1) @ self.weights.to(images) - self.threshold
        return torch.stack([-margin, margin], dim=1)

    def exact(self, images: Tensor, norm: Norm) -> Tensor:
        """How far the boundary is: that of the smoothed model is the same, as the noise is symmetric."""
        dual = {"l2": 2.0, "l1": torch.inf, "linf": 1.0}[norm]
        weights = self.weights.double()
        margin = images.double().flatten(1) @ weights - self.threshold
        return margin.abs() / torch.linalg.vector_norm(weights, ord=dual)


CASES: list[tuple[str, Norm, list[float]]] = [
    ("gaussian", "l2", GENERAL),
    ("gaussian", "l1", ONE),
    ("gaussian", "linf", EVEN),
    ("uniform", "l1", ONE),
    ("laplace", "l1", ONE),
]
"""Weights for which the certificate of an exact probability is the exact radius."""


def certified(noise: str, kind: Norm, weights: list[float], samples: int = 2000) -> tuple[Tensor, Tensor]:
    """The certified and the exact radii of 1,000 images."""
    images = torch.rand(IMAGES, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    model = Linear(weights, float(torch.tensor(weights).sum() / 2))
    labels = model(images).argmax(1)
    method = Smoothing(sigma=0.3, noise=noise, samples=samples, alpha=ALPHA)
    found = certify(model, images, labels, kind, method=method)
    assert found.confidence == 1 - ALPHA and found.norm == kind
    return found.radius, model.exact(images, kind)


def improbable(violations: int) -> bool:
    """Whether so many violations are too many for a method that is sound."""
    return bool(binom.sf(violations - 1, IMAGES, ALPHA) < CHANCE)


@pytest.mark.parametrize(("noise", "kind", "weights"), CASES)
def test_radii_hold_within_alpha_and_come_close(noise: str, kind: Norm, weights: list[float]) -> None:
    radius, exact = certified(noise, kind, weights)
    assert not improbable(int((radius > exact).sum()))
    assert improbable(int((1.1 * radius > exact).sum()))
    # Far from the boundary and right beside it a probability cannot be told well enough from 1 or 1/2.
    middle = (exact > exact.quantile(0.25)) & (exact < 2 * 0.3) & (exact < exact.quantile(0.9))
    assert (radius / exact)[middle].median() > 0.85
    assert (radius / exact)[middle].quantile(0.1) > 0.6


def test_the_estimated_probability_in_place_of_its_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "most_others", lambda votes, samples, alpha: 1 - votes / samples + 1e-12)
    radius, exact = certified("gaussian", "l2", GENERAL, samples=500)
    assert improbable(int((radius > exact).sum()))


def test_a_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    formula = smoothing.largest_shift
    # the scale of Laplace noise is not its standard deviation
    monkeypatch.setattr(
        smoothing, "largest_shift", lambda noise, sigma, others: formula(noise, 2**0.5 * sigma, others)
    )
    radius, exact = certified("laplace", "l1", ONE, samples=500)
    assert improbable(int((radius > exact).sum()))


@pytest.mark.parametrize("noise", smoothing.NOISES)
def test_the_noise_has_its_standard_deviation(noise: str) -> None:
    generator = np.random.default_rng(0)
    method = Smoothing(sigma=0.3, noise=noise)
    drawn = method.draw((1, 10, 10), 2000, generator).added
    assert float(drawn.std()) == pytest.approx(0.3, abs=0.003)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.003)


def test_a_codebook_on_a_line_by_quadrature(toolbox: Any) -> None:
    """The smoothed codebook of one pixel is a sum of integrals of the normal density over intervals."""
    sigma, model = 0.1, toolbox.random_codebook(3, classes=3, count=3, pixels=1, offset=0.02)
    images = torch.rand(200, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    line = np.linspace(-1, 2, 6001)
    decisions = toolbox.oracle(model).scores(line[:, None]).argmin(1)
    points = np.linspace(0, 1, 1001)
    edges = np.concatenate([[-np.inf], (line[1:] + line[:-1]) / 2, [np.inf]])
    masses = np.diff(norm.cdf((edges[None] - points[:, None]) / sigma), axis=1)
    smoothed = np.stack([masses[:, decisions == label].sum(1) for label in range(3)], axis=1).argmax(1)
    assert len(set(smoothed.tolist())) > 1
    labels = torch.from_numpy(smoothed[(images.flatten().numpy() * 1000).round().astype(int)])
    found = certify(model, images, labels, method=Smoothing(sigma=sigma, samples=2000, alpha=ALPHA))
    other = smoothed[None] != labels.numpy()[:, None]
    away = np.abs(points[None] - images.flatten().numpy()[:, None])
    exact = np.where(other, away, np.inf).min(1) + 2e-3  # for the steps of the grid
    violations = (found.radius.numpy() > exact).sum()
    assert binom.sf(violations - 1, len(images), ALPHA) > CHANCE
    assert (1.2 * found.radius.numpy() > exact).sum() > 10
    assert (found.radius > 0).double().mean() > 0.7


@pytest.mark.parametrize("samples", [1, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999, 1.0])
def test_the_bound_is_clopper_and_pearsons(samples: int, share: float) -> None:
    votes = round(share * samples)
    bound = most_others(votes, samples, ALPHA)
    if votes == 0:
        assert bound == 1
        return
    # if others were as probable as that, so few of them would come up with probability alpha
    assert ALPHA * (1 - 1e-3) < binom.cdf(samples - votes, samples, bound) < ALPHA


def make(count: int = 6) -> tuple[Linear, Tensor, Tensor]:
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    model = Linear(GENERAL, 0.45)
    return model, images, model(images).argmax(1)


def test_an_image_has_the_same_radius_whatever_the_others_and_the_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images, labels = make()
    method = Smoothing(sigma=0.3, samples=1000)
    whole = certify(model, images, labels, method=method)
    turned = certify(model, images.flip(0), labels.flip(0), method=method)
    monkeypatch.setattr(sampled, "COPIES_AT_ONCE", 7)
    alone = [certify(model, images[row : row + 1], labels[row], method=method).radius for row in range(6)]
    torch.testing.assert_close(turned.radius.flip(0), whole.radius, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat(alone), whole.radius, rtol=0, atol=0)
    assert len(set(whole.radius.tolist())) == 6
    other = certify(model, images, labels, method=Smoothing(sigma=0.3, samples=1000, seed=1))
    assert not torch.equal(other.radius, whole.radius)


def test_several_norms_share_their_copies() -> None:
    model, images, labels = make()
    method = Smoothing(sigma=0.3, samples=1000)
    l2, l1, linf = Certifier(model, method).certify_in(images, labels, ["l2", "l1", "linf"])
    torch.testing.assert_close(l1.radius, l2.radius, rtol=0, atol=0)
    torch.testing.assert_close(linf.radius, l2.radius / 2, rtol=1e-8, atol=0)


def test_a_wrong_prediction_and_an_abstention_have_radius_0() -> None:
    model, images, labels = make()
    method = Smoothing(sigma=0.3, samples=1000)
    wrong = certify(model, images, 1 - labels, method=method)
    assert wrong.radius.tolist() == [0.0] * 6
    assert wrong.prediction.tolist() == labels.tolist()
    # right on the boundary no class has a majority
    tie = torch.full((1, 1, 2, 2), 0.5)
    undecided = certify(model, tie, torch.tensor([0]), method=method)
    assert undecided.radius.tolist() == [0.0]


def test_no_radius_exceeds_the_box() -> None:
    model = Linear([1.0], -100.0)
    found = certify(model, torch.zeros(1, 1, 1, 1), torch.tensor([1]), method=Smoothing(sigma=2.0))
    assert found.radius.tolist() == [1.0]


def test_it_says_what_it_certifies() -> None:
    model, images, labels = make()
    found = certify(model, images, labels, exact=True, method=Smoothing(sigma=0.3, samples=500, seed=7))
    assert found.method == "smoothing first=100 samples=500 alpha=0.001 seed=7 sigma=0.3 noise=gaussian"
    assert "gaussian noise of standard deviation 0.3" in found.rule
    assert not found.exact and "no exact radius" in str(found.warning)
    for classifier in (model, CNN(), Binarized(CNN())):
        assert certifiable(classifier, "pairs") is None
        assert certifiable(classifier, "smoothing") == Scope(
            norms=("l2", "l1", "linf"), confidence=0.999, at_once=10
        )


class Trained(Linear):
    def config(self) -> dict[str, Any]:
        return {"smoothing": {"sigma": 0.25}}


def test_the_noise_is_that_of_training_unless_another_is_asked_for() -> None:
    _, images, labels = make()
    for model, method, said in (
        (Trained(GENERAL, 0.45), Smoothing(samples=200), "sigma=0.25"),
        (Trained(GENERAL, 0.45), Smoothing(samples=200, sigma=0.3), "sigma=0.3"),
        (Linear(GENERAL, 0.45), Smoothing(samples=200), "sigma=0.5"),
    ):
        found = certify(model, images, labels, method=method)
        assert said in found.method
        assert found.radius.equal(
            certify(
                model, images, labels, method=Smoothing(samples=200, sigma=float(said.split("=")[1]))
            ).radius
        )


class Undecided(Linear):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).log()


class Random(Linear):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + torch.rand(len(images), 1, 1, 1))


class Company(Linear):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0) + 0.5)


@pytest.mark.parametrize(
    ("model", "words"),
    [(Undecided, "answers NaN for random copies"), (Random, "at random or by"), (Company, "at random or by")],
)
def test_models_without_a_decision_of_their_own_are_refused(model: type[Linear], words: str) -> None:
    _, images, labels = make()
    with pytest.raises(AbsynthError, match=words):
        certify(model(GENERAL, 0.45), images, labels, method="smoothing")


def test_a_model_is_asked_in_evaluation_mode_and_left_as_it_was() -> None:
    _, images, labels = make()
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Dropout(0.5)).train()
    certify(model, images, labels, method=Smoothing(samples=10))
    assert model.training and model[2].training


def test_a_model_in_double_precision_is_asked_in_it() -> None:
    model, images, labels = make()
    seen = set()

    class Double(Linear):
        def forward(self, images: Tensor) -> Tensor:
            seen.add(images.dtype)
            return super().forward(images)

    method = Smoothing(sigma=0.3, samples=1000)
    found = certify(Double(GENERAL, 0.45).double(), images, labels, method=method)
    assert seen == {torch.float64}
    torch.testing.assert_close(
        found.radius, certify(model, images, labels, method=method).radius, rtol=0, atol=0.02
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": 0.0}, "The setting 'sigma' is 0.0; it must be above 0."),
        ({"noise": "pink"}, "There is no noise 'pink'; choose one of gaussian, uniform, laplace."),
        ({"alpha": 0.5}, "The setting 'alpha' is 0.5; it must lie between 0 and 0.5."),
        ({"samples": 0}, "The setting 'samples' is 0; it must be at least 1."),
        ({"seed": -1}, "The setting 'seed' is -1; it must be at least 0."),
    ],
)
def test_a_setting_out_of_its_range_is_told(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AbsynthError, match=f"^{re.escape(sentence)}$"):
        Smoothing(**settings)


def test_a_norm_that_the_noise_does_not_serve_is_told() -> None:
    model, images, labels = make()
    for method, kind, norms in (
        (Smoothing(noise="uniform"), "l2", "l1"),
        (Smoothing(), "l0", "l2, l1, linf"),
    ):
        with pytest.raises(AbsynthError, match=rf"gives no radii in {kind}; ask for {norms}\.$"):
            certify(model, images, labels, kind, method=method)


def test_labels_must_be_classes() -> None:
    model, images, labels = make()
    with pytest.raises(AbsynthError, match="the classes 0 to 1"):
        certify(model, images, labels + 1, method="smoothing")


def test_images_that_are_rounded_get_smaller_radii() -> None:
    model, images, labels = make()
    method = Smoothing(sigma=0.3, samples=1000)
    seen: Certificate = certify(model, images, labels, method=method)
    given = certify(model, images.double() + 1e-12, labels, method=method)
    assert given.confidence == seen.confidence
    assert (given.radius < seen.radius).equal(seen.radius > 0)
    assert (seen.radius > 0).sum() > 3
    torch.testing.assert_close(given.radius, seen.radius, rtol=0, atol=1e-6)
