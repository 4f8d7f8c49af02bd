"""ABSClassifier among the tools of scikit-learn, which is imported where it is used: it is an extra."""

from __future__ import annotations

import inspect
import pickle
import sys
import unittest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from absynth.attacks import attack
from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS
from absynth.zoo import load

QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01, "codebook_size": 40, "random_state": 0}
AROUND_100 = ("check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in")
"""Checks whose pixels lie there; those of all others lie around 0."""

MUST_BE_RIGHT = ("check_classifiers_train", "check_classifiers_classes")
"""Checks that ask for more than random answers."""

Make = Callable[..., Any]


@pytest.fixture
def make() -> Make:
    """Makes classifiers that are trained in a second."""
    pytest.importorskip("sklearn")
    from absynth.estimator import ABSClassifier

    def make(**parameters: Any) -> Any:
        return ABSClassifier(**(QUICK | {"least_steps": 30, "value_range": (0, 16)} | parameters))

    return make


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 8 × 8 digits of scikit-learn, three classes of them, called by names."""
    data = pytest.importorskip("sklearn.datasets")
    images, labels = data.load_digits(n_class=3, return_X_y=True)
    return images, np.array(["none", "one", "two"])[labels]


@pytest.fixture(scope="module")
def fitted(digits: tuple[np.ndarray, np.ndarray]) -> Any:
    from absynth.estimator import ABSClassifier

    images, labels = digits
    return ABSClassifier(**QUICK, least_steps=60, value_range=(0, 16)).fit(images[:120], labels[:120])


def test_the_checks_of_scikit_learn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them pass; each is given the range that its pixels lie in, as a user gives it."""
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    estimator = make(codebook_size=20)
    # They give parameters of wrong types, which a constructor must not mind; the type checks of pytest do.
    kind = type(estimator)
    monkeypatch.setattr(kind, "__init__", inspect.unwrap(kind.__init__))
    failed, passed = {}, set()
    for one, check in checks.estimator_checks_generator(estimator):
        name = check.func.__name__
        one.set_params(
            value_range=(90, 110) if name in AROUND_100 else (-6, 6),
            least_steps=25 if name in MUST_BE_RIGHT else 1,
        )
        try:
            check(one)
            passed.add(name)
        except unittest.SkipTest:
            continue
        except Exception as error:
            failed[name] = error
    assert not failed
    assert passed >= {*AROUND_100, *MUST_BE_RIGHT}
    assert len(passed) >= 45


def test_cross_validation(make: Make, digits: tuple[np.ndarray, np.ndarray]) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    images, labels = digits
    scores = selection.cross_val_score(make(), images[:150], labels[:150], cv=3)
    assert scores.min() > 0.85


@pytest.mark.parametrize("inference", ["codebook", "full"])
def test_labels_and_confidences(inference: str, make: Make, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    classifier = make(inference=inference).fit(images[:120], labels[:120])
    assert isinstance(classifier.model_, CodebookABS if inference == "codebook" else ABS)
    assert classifier.classes_.tolist() == ["none", "one", "two"]
    assert classifier.score(images[120:220], labels[120:220]) > 0.85
    probabilities = classifier.predict_proba(images[120:220])
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (classifier.classes_[probabilities.argmax(1)] == classifier.predict(images[120:220])).all()


def test_what_no_class_explains_is_near_uniform(fitted: Any, digits: tuple[np.ndarray, np.ndarray]) -> None:
    unsure = 1.05 / len(fitted.classes_)
    checkers = 16.0 * (np.indices((8, 8)).sum(0) % 2).reshape(1, 64)
    assert fitted.predict_proba(checkers).max() < unsure
    assert np.median(fitted.predict_proba(digits[0][120:]).max(1)) > 1.2 * unsure


def test_the_form_of_the_images_does_not_matter(make: Make, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    forms = [
        images,
        images.reshape(-1, 8, 8),
        torch.from_numpy(images).float().view(-1, 1, 8, 8),
        images.astype(np.uint8).tolist(),
    ]
    answers = [make(least_steps=2).fit(form[:60], labels[:60]).predict_proba(form[60:80]) for form in forms]
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


def test_pictures_become_blocks_on_black(make: Make) -> None:
    from absynth.estimator import _Canvas

    for picture, size, block in [((8, 8), (16, 16), 2), ((3, 5), (16, 16), 3), ((28, 20), (28, 20), 1)]:
        canvas = _Canvas(picture)
        height, width = picture
        rows = torch.rand(2, height * width)
        images = canvas.place(rows)
        assert canvas.size == size
        assert images.shape == (2, 1, *size)
        for index in range(2):
            expected = np.kron(rows[index].view(picture).numpy(), np.ones((block, block)))
            above, before = (size[0] - block * height) // 2, (size[1] - block * width) // 2
            found = images[index, 0].numpy().copy()
            np.testing.assert_array_equal(
                found[above : above + block * height, before : before + block * width], expected
            )
            assert np.isclose(found.sum(), expected.sum())
    # Six values on a 3 × 3 picture: the last row is black.
    assert _Canvas((3, 3)).place(torch.ones(1, 6)).sum() == 6 * 25


@pytest.mark.parametrize("norm", ["l2", "l1", "linf", "l0"])
def test_no_attack_on_the_pictures_gets_below_a_radius(
    norm: str, fitted: Any, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    """In the pixels and values of X, with the enlargement as part of the attacked model."""
    images, labels = digits[0][120:128], digits[1][120:128]
    radius = fitted.certify(images, labels, norm)
    right = fitted.predict(images) == labels
    assert radius.dtype == np.float64
    assert (radius[~right] == 0).all()
    assert np.median(radius[right]) > (0.5 if norm != "l0" else 0)

    class Pictures(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = fitted.model_(pictures.repeat_interleave(2, 2).repeat_interleave(2, 3))
            return logits

    pictures = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
    codes = torch.from_numpy(np.searchsorted(fitted.classes_, labels))
    result = attack(Pictures(), pictures, codes, norm=norm, suite="quick")
    unit = 1 if norm == "l0" else 16
    distances = result.distances.numpy()[right] * unit
    assert (radius[right] < distances).all()
    # A radius in the wrong unit, or of the enlarged picture, would not be below every attack's distance.
    assert (2 * radius[right] >= distances).any() or norm == "l0"


def test_a_radius_is_of_the_pixels_of_x(make: Make) -> None:
    """The exact radii of two prototypes, by hand: black against white, on a picture of 2 × 2."""
    from absynth.estimator import _Canvas

    canvas = _Canvas((2, 2))
    assert canvas.block == 8
    # The square of 16 × 16 flips at L2 distance 8 = √256 / 2 (half of white), the picture at 1 = √4 / 2.
    assert canvas.radius_of_picture(np.array([8.0]), "l2") == pytest.approx(1, abs=1e-5)
    assert canvas.radius_of_picture(np.array([128.0]), "l1") == pytest.approx(2, abs=1e-5)
    assert canvas.radius_of_picture(np.array([0.5]), "linf") == pytest.approx(0.5, abs=1e-5)
    assert canvas.radius_of_picture(np.array([127.0]), "l0") == 1
    for norm in ("l2", "l1", "linf"):
        assert canvas.radius_of_picture(np.array([8.0]), norm) < 8 / {"l2": 8, "l1": 64, "linf": 1}[norm]


def test_the_same_seed_gives_the_same_classifier(make: Make, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    first, same, other = (
        make(least_steps=10, random_state=seed).fit(images[:60], labels[:60]).predict_proba(images[60:70])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_a_classifier_is_pickled_and_its_model_saved(
    fitted: Any, digits: tuple[np.ndarray, np.ndarray], tmp_path: Any
) -> None:
    images = digits[0][:10]
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    model = load(fitted.model_.save_pretrained(tmp_path))
    assert model.domain.class_names == ("none", "one", "two")
    assert model.domain.size == (16, 16)
    enlarged = torch.from_numpy(np.kron(images.reshape(-1, 1, 8, 8) / 16, np.ones((2, 2)))).float()
    torch.testing.assert_close(model(enlarged), fitted.model_(enlarged), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "pixels", "message"),
    [
        ({"epochs": "3"}, (8, 64), "The epochs is '3', a str; give a whole number"),
        ({"epochs": 1.5}, (8, 64), "The epochs is 1.5, a float; give a whole number"),
        ({"learning_rate": "fast"}, (8, 64), "The learning_rate is 'fast'; give a number"),
        ({"inference": "best"}, (8, 64), "no inference 'best'; choose codebook or full"),
        ({"codebook_size": 0}, (8, 64), "size of at least 1"),
        ({"latents": 0}, (8, 64), "size of at least 1"),
        ({"epochs": 0}, (8, 64), "at least 1 epoch"),
        ({"value_range": "auto"}, (8, 64), r"value_range is 'auto'; give the values of black and white"),
        ({"value_range": None}, (8, 64), "value_range is None"),
        ({"value_range": (0, 1, 2)}, (8, 64), "give the values of black and white"),
        ({"value_range": (0, float("inf"))}, (8, 64), "give the values of black and white"),
        ({"value_range": (1, 1)}, (8, 64), "is empty; give black before white"),
        ({"value_range": (0, 0.5)}, (8, 64), r"go from 0 to 1, their range is \(0, 0\.5\)"),
        ({}, (8, 65, 65), "have 65 rows and 65 columns; scale them down to 64"),
        ({}, (8, 3, 16, 16), r"shape \(8, 3, 16, 16\); give \(n, pixels\)"),
    ],
)
def test_mistakes_are_told(
    make: Make, parameters: dict[str, Any], pixels: tuple[int, ...], message: str
) -> None:
    images = np.zeros(pixels)
    images[0] = 1
    with pytest.raises(AbsynthError, match=message):
        make().set_params(**parameters).fit(images, [0, 1] * 4)


def test_mistakes_after_the_training_are_told(
    make: Make, fitted: Any, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    with pytest.raises(AbsynthError, match=r"are \(4, 16\), those of the training were \(8, 8\)"):
        fitted.predict(images[:2].reshape(2, 4, 16))
    with pytest.raises(AbsynthError, match="'four' is none of the training's"):
        fitted.certify(images[:1], ["four"])
    with pytest.raises(AbsynthError, match="norm"):
        fitted.certify(images[:1], labels[:1], "l3")
    full = make(inference="full", least_steps=1).fit(images[:20], labels[:20])
    with pytest.raises(AbsynthError, match="Only the inference 'codebook' can be certified"):
        full.certify(images[:1], labels[:1])


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "absynth.estimator", raising=False)
    with pytest.raises(AbsynthError, match=r"pip install 'absynth\[sklearn\]'"):
        import absynth.estimator  # noqa: F401


def test_every_kind_of_randomness_of_numpy_is_taken(
    make: Make, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = digits[0][:40], digits[1][:40]
    expected: dict[str, np.ndarray] = {}
    for kind in ("default_rng", "RandomState"):
        first, again = (
            make(least_steps=6, random_state=getattr(np.random, kind)(3)).fit(x, y) for _ in range(2)
        )
        expected[kind] = first.predict_proba(x)
        assert np.array_equal(again.predict_proba(x), expected[kind])
    assert not np.array_equal(*expected.values())


def test_pixels_outside_by_rounding_are_clipped_and_others_told_in_full(
    make: Make, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = digits[0][:40] / 16, digits[1][:40]
    outside = x.copy()
    outside[x == 1] = 1 + 1e-9
    outside[x == 0] = -1e-9
    assert (x == 1).any() and (x == 0).any()
    given = {"least_steps": 6, "value_range": (0, 1)}
    expected = make(**given).fit(x, y).predict_proba(x)
    assert np.array_equal(make(**given).fit(outside, y).predict_proba(outside), expected)
    with pytest.raises(AbsynthError, match=r"from 0 to 1\.0001, their range"):
        make(value_range=(0, 1)).fit(x * 1.0001, y)


def test_tensors_and_what_a_program_has_set_change_nothing(
    make: Make, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = digits[0][:40], np.unique(digits[1][:40], return_inverse=True)[1]
    plain = make(least_steps=6).fit(x, y)
    expected, radius = plain.predict_proba(x), plain.certify(x, y)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            tensors = torch.from_numpy(x), torch.from_numpy(y)
            found = make(least_steps=6).fit(*tensors)
            assert np.array_equal(found.predict_proba(tensors[0]), expected)
            assert np.array_equal(found.certify(*tensors, norm=2), radius)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_fit_leaves_the_generator_of_torch_and_takes_no_default_device(
    make: Make, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = digits[0][:60], digits[1][:60]
    expected = make(least_steps=10).fit(x, y).predict_proba(x)
    before = torch.get_rng_state()
    with torch.device("meta"):
        found = make(least_steps=10).fit(x, y).predict_proba(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(found, expected)
