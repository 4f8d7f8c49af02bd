"""A model of this package is a plain PyTorch classifier: the attacks of other libraries take it as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import absynth
from absynth.inference import ABS, FAST, CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import Binarized
from absynth.models.pretrained import WEIGHTS_NAME, PretrainedModel, build, read_config, read_weights
from absynth.zoo import load, model_folder

IMAGES = 3
LINF = 0.48
MODELS = ("codebook", "binary codebook", "abs", "cnn")


def small_codebook() -> CodebookABS:
    """The decoders of the shipped ABS with few latents, which are decoded in no time."""
    shipped = build(read_config(model_folder("abs")))
    shipped.load_state_dict(read_weights(model_folder("abs") / WEIGHTS_NAME))
    assert isinstance(shipped, ABS)
    return CodebookABS(list(shipped.codebook.decoders), draw_latents(60))


MAKERS: dict[str, Callable[[], PretrainedModel]] = {
    "codebook": small_codebook,
    "binary codebook": lambda: Binarized(small_codebook()),
    "abs": lambda: ABS(small_codebook(), replace(FAST, steps=3)),
    "cnn": lambda: load("cnn"),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    made = MAKERS[request.param]()
    made.prepare()
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def digits(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Test images that the model classifies right."""
    images, labels = absynth.load_dataset("mnist", "test")
    right = (model(images[:60]).argmax(1) == labels[:60]).nonzero()[:IMAGES, 0]
    assert len(right) == IMAGES
    return images[right], labels[right]


@pytest.fixture
def _their_warnings() -> Iterator[None]:
    """Other libraries warn about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(model: nn.Module, images: Tensor, labels: Tensor, changed: Tensor) -> None:
    """What an attack of size ``LINF`` found: in box and ball, some fooled, none where it is proven."""
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    distances = (changed - images).abs().flatten(1).amax(1)
    assert distances.max() <= LINF + 1e-5
    fooled = model(changed).argmax(1) != labels
    assert fooled.any()
    if not isinstance(model, ABS) and hasattr(getattr(model, "model", model), "prototypes"):
        proven = absynth.certify(model, images, labels, "linf").radius
        assert bool((proven[fooled] < distances[fooled]).all())
        assert proven.max() > 0


@pytest.mark.usefixtures("_their_warnings")
def test_foolbox(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    images, labels = digits
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    torch.testing.assert_close(wrapped(images), model(images))
    attack = foolbox.attacks.LinfPGD(steps=6, rel_stepsize=0.3, random_start=False)
    _, changed, success = attack(wrapped, images, labels, epsilons=LINF)
    assert torch.equal(success, model(changed).argmax(1) != labels)
    check(model, images, labels, changed)


@pytest.mark.usefixtures("_their_warnings")
def test_the_adversarial_robustness_toolbox(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    estimators = pytest.importorskip("art.estimators.classification", exc_type=ImportError)
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    images, labels = digits
    wrapped = estimators.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(1, 28, 28), nb_classes=10, clip_values=(0, 1)
    )
    array, one_hot = images.numpy(), np.eye(10, dtype=np.float32)[labels.numpy()]
    np.testing.assert_allclose(wrapped.predict(array), model(images).numpy(), rtol=1e-5, atol=1e-4)
    variable = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(variable), labels)
    (expected,) = torch.autograd.grad(loss, variable)
    found = wrapped.loss_gradient(array, one_hot)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)
    attack = ProjectedGradientDescentPyTorch(wrapped, eps=LINF, eps_step=0.15, max_iter=6, verbose=False)
    check(model, images, labels, torch.from_numpy(attack.generate(array, one_hot)))


@pytest.mark.usefixtures("_their_warnings")
def test_autoattack(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    library: Any = pytest.importorskip("pyautoattack")
    images, labels = digits
    attack = library.AutoAttack(model, norm="Linf", eps=LINF, version="custom", attacks=["apgd-ce"], seed=0)
    attack.apgd.n_iter, attack.apgd.n_restarts = 6, 1
    changed, decisions = attack.run_standard_evaluation(images, labels, batch_size=IMAGES)
    assert torch.equal(decisions, model(changed).argmax(1))
    check(model, images, labels, changed)
