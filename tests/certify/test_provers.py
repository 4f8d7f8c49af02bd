"""What can be certified of a model, and by which method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from absynth.certify import Certificate, Certifier, Scope, certifiable, certify, make_method, provers
from absynth.errors import AbsynthError
from absynth.models.cnn import CNN, Binarized
from absynth.models.front import Clamped
from absynth.norms import NORMS, Norm


@pytest.mark.parametrize("front", ["grey", "binary", "clamped"])
def test_exactly_the_norms_that_are_said_to_be_exact_are(toolbox: Any, front: str) -> None:
    model = toolbox.behind(front, toolbox.random_codebook(0, classes=3, count=2, pixels=8))
    images = toolbox.random_images(0, 3, 2, 4)
    scope = certifiable(model)
    assert scope is not None and scope.proven and scope.norms == NORMS
    for norm in NORMS:
        result = certify(model, images, model(images).argmax(1), norm, exact=True)
        assert result.exact == (norm in scope.exact)
        assert (result.warning is None) == result.exact


def test_a_network_of_known_operations_has_bounds_and_no_exact_radii() -> None:
    for model in (CNN(), Binarized(CNN()), Clamped(CNN()), nn.Flatten()):
        scope = certifiable(model)
        assert scope is not None and scope.proven and scope.norms == NORMS and scope.exact == ()
    assert certifiable(nn.GELU()) is None
    assert certifiable(Binarized(CNN()), "lipschitz") is None


def test_what_cannot_be_bounded_is_named() -> None:
    images, labels = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.GELU())
    for method in (None, "interval", "crown", "alpha-crown", "lipschitz"):
        with pytest.raises(
            AbsynthError, match=r"^The operation 'GELU' \(2\) cannot be bounded, .* 'smoothing'"
        ):
            certify(model, images, labels, method=method)
    with pytest.raises(AbsynthError, match=r"^The operation 'mul' cannot .* used: it multiplies two values"):
        certify(lambda given: (given * given).flatten(1), images, labels)
    with pytest.raises(AbsynthError, match=r"cannot be followed without images \(TraceError: "):
        certify(lambda given: given.flatten(1) if given.sum() > 0 else -given.flatten(1), images, labels)
    for setting, value, words in (("steps", "-1", "at least 0"), ("tolerance", "2", "between")):
        with pytest.raises(AbsynthError, match=words):
            make_method("alpha-crown", {setting: value})


def test_a_function_and_an_answer_of_two_can_be_certified() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
    labels = model(images).argmax(1)
    expected = certify(model, images, labels, "linf").radius
    ended = nn.Sequential(model, nn.LogSoftmax(1))
    for other in (lambda given: (model(given), given), ended):
        assert torch.equal(certify(other, images, labels, "linf").radius, expected)


@dataclass(frozen=True)
class Constant:
    """Certifies flattening, which has one class: its first pixel is never out."""

    name: ClassVar[str] = "constant"
    automatic: ClassVar[bool] = True
    size: float = 1.0

    def scope(self, model: nn.Module) -> Scope | None:
        return Scope(norms=("l2",)) if isinstance(model, nn.Flatten) else None

    def prover(self, model: nn.Module) -> ConstantProver:
        return ConstantProver(model, self.size)


class ConstantProver:
    def __init__(self, model: nn.Module, size: float) -> None:
        self.model, self.size = model, size

    def prove(
        self, images: Tensor, labels: Tensor, norms: Sequence[Norm], **options: Any
    ) -> list[Certificate]:
        prediction = self.model(images).argmax(1)
        radius = torch.full((len(images),), self.size, dtype=torch.float64)
        return [Certificate(norm, radius, prediction, "constant", False, "none") for norm in norms]


def test_a_method_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provers, "METHODS", {"constant": Constant, **provers.METHODS})
    assert certifiable(nn.Flatten()) == Scope(norms=("l2",))
    images, labels = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    assert certify(nn.Flatten(), images, labels).method == "constant"
    found = Certifier(nn.Flatten()).certify_in(images, labels, ["l2", "l1"])
    assert [(one.norm, one.radius.tolist()) for one in found] == [("l2", [1.0, 1.0]), ("l1", [1.0, 1.0])]


def test_a_method_can_be_asked_for_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provers.METHODS, "constant", Constant)
    images, labels = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    assert make_method("constant", {"size": "0.5"}) == Constant(0.5)
    for method, size in (("constant", 1.0), (Constant(0.25), 0.25), (make_method("constant"), 1.0)):
        assert certify(nn.Flatten(), images, labels, method=method).radius.tolist() == [size, size]
    assert certifiable(nn.Flatten(), "pairs") is None


def test_what_runs_a_model_faster_is_taken_off(toolbox: Any) -> None:
    model, images = (
        toolbox.random_codebook(0, classes=3, count=2, pixels=8),
        toolbox.random_images(0, 3, 2, 4),
    )
    labels = model(images).argmax(1)
    expected = certify(model, images, labels).radius
    compiled = nn.Module()
    compiled._orig_mod = model  # as in what torch.compile returns, which takes seconds
    for wrapped in (nn.DataParallel(model), compiled, nn.DataParallel(nn.DataParallel(model))):
        assert certifiable(wrapped) == certifiable(model)
        assert torch.equal(certify(wrapped, images, labels).radius, expected)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        (
            "nothing",
            {},
            f"There is no method 'nothing'; choose one of {', '.join(provers.METHODS)}, constant.",
        ),
        ("paper", {"sigma": "1"}, "The method 'paper' has no setting 'sigma'; it has none."),
        ("constant", {"sigma": "1"}, "The method 'constant' has no setting 'sigma'; its settings are size."),
        ("constant", {"size": "big"}, "The setting 'size' is 'big'; it must be a number."),
    ],
)
def test_a_wrong_method_or_setting_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, str], sentence: str
) -> None:
    monkeypatch.setitem(provers.METHODS, "constant", Constant)
    with pytest.raises(AbsynthError, match=f"^{re.escape(sentence)}$"):
        make_method(name, settings)


def test_a_method_that_does_not_suit_the_model_is_told() -> None:
    sentence = "A Flatten cannot be certified by the method 'pairs'; leave the method out, or choose another."
    with pytest.raises(AbsynthError, match=f"^{re.escape(sentence)}$"):
        Certifier(nn.Flatten(), "pairs")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_told(value: float) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight[0, 0] = value
    with pytest.raises(AbsynthError, match="logits for these images are NaN or infinite"):
        certify(network, torch.full((1, 1, 2, 2), 0.5), torch.tensor([1]), "linf")
