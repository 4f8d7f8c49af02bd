"""Bounds of networks, compared with radii that are known by other means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from absynth.certify import certify
from absynth.certify.bounds import ball, propagation
from absynth.certify.bounds.coefficients import Coefficients, single_values
from absynth.certify.bounds.lipschitz import operator_norm, pair_constants
from absynth.certify.bounds.reading import read_network
from absynth.certify.front import GREY
from absynth.certify.provers.bounds import AlphaCrown, Crown, Interval, Lipschitz
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.norms import NORMS, Norm

RELAXATIONS = ["interval", "crown", "alpha-crown"]
QUICK = {"interval": Interval(), "crown": Crown(), "alpha-crown": AlphaCrown(steps=6)}
PIXELS = 3


class Residual(nn.Module):
    """A network with a branch, a normalisation and any function of single numbers."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(PIXELS, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.bend = bend

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.bend(self.first((images.flatten(1) - 0.5) / 0.25))
        logits: Tensor = self.last(self.bend(self.second(hidden) + hidden))
        return logits


BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky": nn.LeakyReLU(0.2),
    "elu": nn.ELU(),
    "tanh": torch.tanh,
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(2.0),
    "clip": nn.Hardtanh(-0.5, 0.8),
    "abs": torch.abs,
}


def small_network(bend: str, seed: int) -> Residual:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Residual(BENDS[bend]).eval()
        with torch.no_grad():
            # so that decisions change within the box
            model.last.bias -= model(torch.full((1, 1, 1, PIXELS), 0.5))[0]
        return model


def some_images(seed: int) -> Tensor:
    """With some pixels at 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(4, 1, 1, PIXELS, generator=generator) * 1.6 - 0.3).clamp(0, 1)


@torch.no_grad()
def nearest_on_grid(model: nn.Module, image: Tensor, label: int, norm: Norm, levels: int = 31) -> float:
    """The distance to the nearest point of a grid, which holds the image's own values, of another class."""
    axes = [torch.cat([torch.linspace(0, 1, levels), value[None]]) for value in image.flatten()]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, PIXELS)
    wrong = model(points.view(-1, 1, 1, PIXELS)).argmax(1) != label
    moved = points[wrong] - image.flatten()
    if len(moved) == 0:
        return math.inf
    if norm == "l0":
        return float((moved != 0).sum(1).min())
    order = {"l2": 2.0, "l1": 1.0, "linf": math.inf}[norm]
    return float(torch.linalg.vector_norm(moved, ord=order, dim=1).min())


def violations(model: nn.Module, norm: Norm, relaxation: str, factor: float = 1.0) -> int:
    """How many radii reach an image of another class."""
    images = some_images(1)
    labels = model(images).argmax(1)
    radii = certify(model, images, labels, norm, method=relaxation).radius * factor
    nearest = [
        nearest_on_grid(model, image[None], int(label), norm)
        for image, label in zip(images, labels, strict=True)
    ]
    return sum(bool(radius >= one) for radius, one in zip(radii, nearest, strict=True))


@pytest.mark.parametrize("bend", BENDS)
def test_no_point_within_a_radius_is_decided_otherwise(bend: str) -> None:
    for norm in NORMS if bend == "relu" else ("linf", "l2"):
        assert violations(small_network(bend, 0), norm, "crown") == 0


@pytest.mark.parametrize("relaxation", ["interval", "alpha-crown"])
def test_nor_by_other_bounds(relaxation: str) -> None:
    assert violations(small_network("relu", 1), "linf", relaxation) == 0


@pytest.mark.parametrize("front", [Binarized, Clamped])
@pytest.mark.parametrize("norm", NORMS)
def test_fronts_belong_to_the_ball(norm: Norm, front: type[nn.Module]) -> None:
    assert violations(front(small_network("relu", 0)).eval(), norm, "crown") == 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_better_bounds_prove_no_less(norm: Norm) -> None:
    means = []
    for relaxation in RELAXATIONS:
        model, images = small_network("relu", 0), some_images(0)
        labels = model(images).argmax(1)
        method = replace(QUICK[relaxation], tolerance=5e-3)
        means.append(float(certify(model, images, labels, norm, method=method).radius.mean()))
    assert 0 < means[0] < 0.8 * means[1] and means[1] < means[2]


def linear_model(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 16, generator=generator))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return nn.Sequential(nn.Flatten(), layer)


def exact_linear(model: Any, image: Tensor, label: int, norm: Norm) -> float:
    """Of a linear model, by bisection of the gain within ball and box in plain loops over sorted pixels."""
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    flat = image.flatten().double()
    best = math.inf
    for rival in set(range(3)) - {label}:
        slope = weight[rival] - weight[label]
        margin = float((weight[label] - weight[rival]) @ flat + bias[label] - bias[rival])
        room = torch.where(slope > 0, 1 - flat, flat)
        steep = slope.abs()

        def gain(size: float, steep: Tensor = steep, room: Tensor = room) -> float:
            if norm == "linf":
                return float((steep * room.clamp(max=size)).sum())
            if norm == "l0":
                return float((steep * room).sort(descending=True).values[: int(size)].sum())
            if norm == "l1":
                total, left = 0.0, size
                for one in steep.argsort(descending=True).tolist():
                    spent = min(left, float(room[one]))
                    total, left = total + spent * float(steep[one]), left - spent
                return total
            low, high = 0.0, 1e6
            for _ in range(70):
                middle = (low + high) / 2
                moved = (steep * middle).minimum(room)
                low, high = (middle, high) if float(moved.norm()) < size else (low, middle)
            return float((steep * (steep * low).minimum(room)).sum())

        if norm == "l0":
            sizes = [size for size in range(17) if gain(size) >= margin]
            best = min(best, float(min(sizes, default=17) - 1))
            continue
        low, high = 0.0, 16.0
        for _ in range(44):
            middle = (low + high) / 2
            low, high = (middle, high) if gain(middle) < margin else (low, middle)
        best = min(best, low)
    return best


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_has_its_exact_radius(norm: Norm, relaxation: str) -> None:
    model = linear_model(0)
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)).mul(1.4).sub(0.2).clamp(0, 1)
    labels = model(images).argmax(1)
    found = certify(model, images, labels, norm, method=replace(QUICK[relaxation], tolerance=1e-3)).radius
    for image, label, radius in zip(images, labels, found, strict=True):
        exact = exact_linear(model, image, int(label), norm)
        assert float(radius) <= exact * (1 + 1e-9)
        assert float(radius) == pytest.approx(exact, rel=3e-3)


def test_a_radius_that_is_too_large_by_a_tenth_is_caught() -> None:
    model, images = linear_model(0), torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    radii = certify(model, images, labels, "l2", method=Crown(tolerance=0.01)).radius
    exact = [
        exact_linear(model, image, int(label), "l2") for image, label in zip(images, labels, strict=True)
    ]
    assert all(float(radius) <= one < 1.1 * float(radius) for radius, one in zip(radii, exact, strict=True))


def test_bounds_that_are_broken_on_purpose_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    gain = ball.Ball.gain
    monkeypatch.setattr(ball.Ball, "gain", lambda self, *given: 0.7 * gain(self, *given))
    assert any(violations(small_network(bend, 0), "linf", "crown") for bend in ("relu", "elu", "leaky"))


def test_intervals_that_are_broken_on_purpose_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tightened = propagation._tightened

    def narrow(*given: Any, **options: Any) -> propagation.Interval:
        honest = tightened(*given, **options)
        middle, radius = (honest.low + honest.high) / 2, (honest.high - honest.low) / 2
        return propagation.Interval(middle - 0.2 * radius, middle + 0.2 * radius)

    monkeypatch.setattr(propagation, "_tightened", narrow)
    assert any(violations(small_network(bend, 0), "l2", "crown") for bend in BENDS)


def test_a_codebook_is_a_network_and_its_radius_no_larger_than_the_exact_one(toolbox: Any) -> None:
    codebook = toolbox.random_codebook(3, classes=3, count=4, pixels=8)
    images = toolbox.random_images(3, 6, 2, 4)
    stored = codebook.prototypes()
    layer = nn.Linear(8, 12)
    with torch.no_grad():
        layer.weight.copy_(2 * stored.images.flatten(0, 1))
        layer.bias.copy_(-(stored.images.square().sum(2) + stored.offsets).flatten())
    network = nn.Sequential(nn.Flatten(), layer, nn.MaxPool1d(4)).eval()
    labels = codebook(images).argmax(1)
    assert torch.equal(network(images).argmax(1), labels)
    for norm in ("l2", "l1", "linf"):
        exact = certify(codebook, images, labels, norm, exact=True)
        assert exact.gap is not None
        found = certify(network, images, labels, norm).radius
        # the exact radius is rounded down, and as much below the truth as the gap
        assert bool((found <= exact.radius + exact.gap + 1e-6).all())
        assert float(found.mean()) > 0.5 * float(exact.radius.mean())


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 0, 3), (1, 2, 3), (2, 1, 4), (3, 1, 5)])
def test_the_constant_of_a_convolution_is_above_its_largest_singular_value(
    stride: int, padding: int, kernel: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding)
    shape = (2, 9, 9)
    model = nn.Sequential(layer, nn.Flatten())
    network = read_network(model, shape, torch.device("cpu"))
    basis = torch.eye(162, dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        matrix = nn.functional.conv2d(
            basis, layer.weight.double(), None, stride=stride, padding=padding
        ).flatten(1)

    bound = operator_norm(network, network.nodes[1])  # type: ignore[arg-type]
    truth = float(torch.linalg.matrix_norm(matrix, ord=2))
    assert truth <= bound < 1.35 * truth


def test_lipschitz_radii_are_below_those_of_crown_and_those_of_a_linear_model_are_exact() -> None:
    model, images = small_network("relu", 0), some_images(0)
    labels = model(images).argmax(1)
    bound = certify(model, images, labels, "l2", method=Lipschitz())
    assert bound.method == "lipschitz" and bool((bound.radius > 0).all())
    assert bool((bound.radius <= certify(model, images, labels, "l2").radius).all())
    linear = linear_model(2)
    constants = pair_constants(read_network(linear, (1, 4, 4), torch.device("cpu")))
    weight = linear[1].weight.detach().double()  # type: ignore[index]
    assert float(constants[1, 0].detach()) == pytest.approx(float((weight[1] - weight[0]).norm()))


def test_a_small_convolutional_network_holds_what_is_proven() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 3, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d((1, 2), stride=1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ).eval()
        with torch.no_grad():
            model[1].running_mean.uniform_(-0.3, 0.3)
            model[1].running_var.uniform_(0.05, 0.2)
            model[-1].bias -= model(torch.full((1, 1, 1, PIXELS), 0.5))[0]
    for norm in NORMS:
        assert violations(model, norm, "crown") == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_patches_bound_what_whole_maps_do(norm: Norm) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 3, 2, stride=2),
            nn.Flatten(),
        )
    network = read_network(model, (2, 15, 15), torch.device("cpu"))
    images = torch.rand(2, 2, 15, 15, generator=torch.Generator().manual_seed(0)).double()
    size = torch.tensor([0.02, 0.1], dtype=torch.float64)
    found = propagation.propagate(network, ball.Ball(images, GREY, norm, size), straight=True, largest=10**6)
    shape = network.nodes[5].shape
    patched = single_values(shape, torch.arange(shape[0]), images)
    whole = Coefficients.of_rows(torch.eye(math.prod(shape)).double().view(1, -1, *shape))
    first = found.lower_bound(5, patched, straight=True).view(2, -1, shape[0]).transpose(1, 2).flatten(1)
    assert patched.patches != whole.patches
    assert torch.allclose(first, found.lower_bound(5, whole, straight=True), atol=1e-9)
