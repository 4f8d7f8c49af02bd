"""What a program has set around a call changes no result, and is as it was afterwards."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import absynth
from absynth import surroundings
from absynth.attacks import find_attack
from absynth.certify import Certifier, certifier, certify
from absynth.evaluate.models import load_classifier
from absynth.inference.decision import decide
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import NORMS, distance
from absynth.surroundings import standard


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AROUND: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_type(torch.float64),
    "half": lambda: default_type(torch.float16),
    "medium": lambda: precision("medium"),
    "deterministic": deterministic,
    "another device": lambda: torch.device("meta"),
}


def state() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
    )


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def prototypes() -> NearestNeighbour:
    generator = torch.Generator().manual_seed(1)
    return NearestNeighbour(torch.rand(12, 1, 6, 6, generator=generator), torch.arange(12) % 3)


@pytest.mark.parametrize("around", AROUND)
def test_attacks_find_the_same_whatever_is_around_them(around: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    network[4].weight.requires_grad_(False)
    labels = network.eval()(images()).argmax(1)
    network.train()
    for norm, name in (("l2", "deepfool"), ("l2", "ddn"), ("linf", "pgd"), ("l0", "fmn"), ("l2", "boundary")):
        attack = find_attack(name, norm, "quick")
        expected = attack(network, images(), labels, seed=1)
        with AROUND[around]():
            before = state()
            found = attack(network, images_here(), labels, seed=1)
            assert state() == before
        assert torch.equal(found.distances, expected.distances), name
        assert torch.equal(found.adversarials, expected.adversarials), name
    assert network.training and network[1].training
    assert [one.requires_grad for one in network.parameters()] == [True, True, False, True]
    assert all(one.grad is None for one in network.parameters())


def images_here() -> Tensor:
    """The images made where the call is: in inference mode they cannot be part of a graph."""
    return torch.from_numpy(images_of_numpy()).clone()


def images_of_numpy() -> np.ndarray:
    with torch.device("cpu"), default_type(torch.float32):
        return images().numpy()


@pytest.mark.parametrize("around", AROUND)
def test_certificates_and_decisions_are_the_same_whatever_is_around_them(around: str) -> None:
    model = prototypes()
    labels = model(images()).argmax(1)
    expected = [certify(model, images(), labels, norm, exact=True).radius for norm in NORMS]
    decided = decide(model, images())
    with AROUND[around]():
        before = state()
        one = Certifier(model)
        found = [one.certify(images_here(), labels, norm, exact=True).radius for norm in NORMS]
        again = decide(model, images_here())
        assert state() == before
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert again == decided


PRODUCTS = (
    torch.addmm,
    torch.mm,
    torch.bmm,
    torch.matmul,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    nn.functional.linear,
)


class Lowered(TorchFunctionMode):
    """A device whose matrix products keep eight bits where autocast or a lowered precision allow it."""

    rounded = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lowered = torch.is_autocast_enabled("cpu") or torch.get_float32_matmul_precision() != "highest"
        if func in PRODUCTS and lowered:
            self.rounded += 1
            args = [
                one.bfloat16().float() if isinstance(one, Tensor) and one.dtype == torch.float32 else one
                for one in args
            ]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("around", ["autocast", "medium"])
def test_certificates_are_sound_where_matrix_products_would_lose_their_digits(
    around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, many = prototypes(), images(30)
    labels = model(many).argmax(1)
    plain, solved = certify(model, many, labels), certify(model, many, labels, exact=True)
    assert solved.adversarials is not None
    nearest = distance(solved.adversarials, many, "l2")
    with AROUND[around](), Lowered() as mode:
        found = certify(model, many, labels)
        assert torch.equal(found.radius, plain.radius)
        assert (found.radius <= nearest).all()
        assert mode.rounded == 0
        # without standard surroundings the products are rounded, and it shows
        monkeypatch.setattr(certifier, "standard", lambda **_: nullcontext())
        certify(model, many, labels)
        assert mode.rounded > 0


def test_tf32_is_off_inside_certificates_alone() -> None:
    before = torch.backends.cudnn.allow_tf32
    with standard(exact=True):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
    with standard():
        assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("around", ["float64", "half", "inference_mode", "autocast", "no_grad"])
def test_a_model_that_is_loaded_has_the_type_and_the_answers_of_its_weights(around: str) -> None:
    picture = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = {name: absynth.load(name)(picture) for name in ("cnn", "madry")}
    with AROUND[around]():
        models = {name: absynth.load(name) for name in expected}
    for name, model in models.items():
        assert {one.dtype for one in model.state_dict().values() if one.is_floating_point()} == {
            torch.float32
        }
        assert torch.equal(model(picture), expected[name])
    labels = expected["cnn"].argmax(1)
    attack = find_attack("fgsm", "linf", "quick")
    found = attack(models["cnn"], picture, labels)
    assert torch.equal(found.distances, attack(absynth.load("cnn"), picture, labels).distances)


def test_surroundings_are_as_they_were_after_an_error() -> None:
    before = state()
    with (
        pytest.raises(ZeroDivisionError),
        torch.inference_mode(),
        default_type(torch.float64),
        precision("medium"),
        surroundings.standard(gradients=True),
    ):
        raise ZeroDivisionError
    assert state() == before


MEDDLER = """
import os, signal, sys, warnings
from torch import nn

os.environ["ABSYNTH_MEMORY"] = "1"
os.environ.pop("ABSYNTH_THERE")
os.environ["ABSYNTH_ELSE"] = "changed"
sys.stdout = sys.stderr = open(os.devnull, "w")
sys.stdin = None
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
warnings.simplefilter("ignore")

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_what_a_users_file_does_to_the_process_ends_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABSYNTH_THERE", "yes")
    monkeypatch.setenv("ABSYNTH_ELSE", "as it was")
    (tmp_path / "meddler.py").write_text(MEDDLER)

    def process() -> tuple[Any, ...]:
        handlers = [signal.getsignal(one) for one in signal.valid_signals()]
        streams = (sys.stdin, sys.stdout, sys.stderr)
        return dict(os.environ), handlers, streams, list(warnings.filters)

    before = process()
    load_classifier(f"{tmp_path / 'meddler.py'}:make")
    assert process() == before


def test_another_thread_can_load_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(MEDDLER.partition("os.environ")[0] + MEDDLER[MEDDLER.index("def") :])
    with ThreadPoolExecutor(1) as threads:
        model = threads.submit(load_classifier, f"{tmp_path / 'plain.py'}:make").result()
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
