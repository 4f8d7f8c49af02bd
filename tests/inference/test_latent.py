import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.inference.latent import (
    PAPER,
    SearchSettings,
    _bfgs_update,
    descend,
    project,
    reconstruction_loss,
)
from absynth.models.vae import Decoder

ADAM = SearchSettings(steps=600)
QUASI_NEWTON = SearchSettings(method="quasi-newton", steps=40, fold_batch_norm=True)
METHODS = pytest.mark.parametrize("settings", [ADAM, QUASI_NEWTON], ids=["adam", "quasi-newton"])


def vjp_by_autograd(decoder: Decoder, latents: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    images, pull_back = torch.func.vjp(decoder.forward, latents)
    return images, lambda cotangents: pull_back(cotangents)[0]


class Toy(Decoder):
    """G(z) = f(W z + b), f the identity or the sigmoid, in float64."""

    def __init__(self, weight: Tensor, bias: Tensor, sigmoid: bool = False) -> None:
        super().__init__(weight.shape[1], batch_norm=False)
        self.weight, self.bias, self.sigmoid = torch.nn.Parameter(weight), bias, sigmoid

    def forward(self, latents: Tensor) -> Tensor:
        images = latents @ self.weight.T + self.bias
        return (images.sigmoid() if self.sigmoid else images).view(-1, 1, 28, 28)

    def jacobian(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        images = self(latents)
        slope = (images * (1 - images) if self.sigmoid else torch.ones_like(images)).flatten(1)
        return images, (slope[:, None] * self.weight.T).unflatten(-1, (1, 28, 28))

    def vjp(self, latents: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return vjp_by_autograd(self, latents)


def toy(sigmoid: bool = False, latents: int = 3) -> Toy:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(784, latents, generator=generator, dtype=torch.float64) / 10
    return Toy(weight, torch.randn(784, generator=generator, dtype=torch.float64) / 3, sigmoid)


def losses(decoder: Decoder, images: Tensor, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return reconstruction_loss(images, decoder(latents), latents)


def test_the_loss_is_the_formula() -> None:
    images, decoded = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.5)
    latents = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert reconstruction_loss(images, decoded, latents).tolist() == [1 + 12.5, 1]


def test_projection_keeps_direction_and_signs() -> None:
    latents = torch.tensor([[3.0, -4.0], [-30.0, 40.0], [0.0, -7.0], [0.0, 0.0]])
    expected = torch.tensor([[3.0, -4.0], [-3.0, 4.0], [0.0, -5.0], [0.0, 0.0]])
    torch.testing.assert_close(project(latents, 5.0), expected)


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=4), st.floats(0.1, 10))
def test_projection_gives_the_nearest_point_of_the_ball(values: list[float], max_norm: float) -> None:
    latents = torch.tensor([values], dtype=torch.float64)
    norm = math.hypot(*values)
    projected = project(latents, max_norm)
    expected = latents if norm <= max_norm else latents * max_norm / norm
    torch.testing.assert_close(projected, expected)
    assert projected.norm() <= max_norm * (1 + 1e-12)


def test_projection_has_a_finite_gradient_everywhere() -> None:
    latents = torch.tensor([[0.0, 0.0], [0.3, 0.4], [6.0, 8.0]], requires_grad=True)
    project(latents, 5.0).sum().backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.08, -0.06]]))


def test_the_papers_adam_is_that_of_torch(make_images: Callable[..., Tensor]) -> None:
    decoder, images = toy(), make_images(1).double()
    latents = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    variable = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([variable], lr=0.05)
    best, lowest = latents, torch.tensor(torch.inf)
    for step in range(51):
        loss = reconstruction_loss(images, decoder(variable), variable).sum()
        if loss < lowest:
            best, lowest = variable.detach().clone(), loss.detach()
        if step < 50:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(descend(decoder, images, latents, PAPER), best)


@METHODS
def test_a_linear_decoder_has_a_closed_form(
    settings: SearchSettings, make_images: Callable[..., Tensor]
) -> None:
    decoder, images = toy(), make_images(4).double()
    weight = decoder.weight.detach()
    difference = images.flatten(1) - decoder.bias
    expected = torch.linalg.solve(2 * weight.T @ weight + torch.eye(3), 2 * difference @ weight, left=False)
    found = descend(decoder, images, torch.zeros(4, 3, dtype=torch.float64), settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@METHODS
def test_a_sigmoid_decoder_agrees_with_scipy(
    settings: SearchSettings, make_images: Callable[..., Tensor]
) -> None:
    decoder, images = toy(sigmoid=True), make_images(3).double()
    weight, bias = decoder.weight.detach().numpy(), decoder.bias.numpy()
    starts = torch.randn(3, 3, dtype=torch.float64)
    found = descend(decoder, images, starts, settings)
    for row in range(3):
        image = images[row].flatten().numpy()

        def objective(latent: np.ndarray, image: np.ndarray = image) -> float:
            decoded = 1 / (1 + np.exp(-(weight @ latent + bias)))
            return float(np.sum((image - decoded) ** 2) + 0.5 * latent @ latent)

        oracle = minimize(objective, starts[row].numpy(), tol=1e-10)
        loss = losses(decoder, images[row : row + 1], found[row : row + 1]).item()
        assert loss == pytest.approx(oracle.fun, abs=1e-6)
        np.testing.assert_allclose(found[row].numpy(), oracle.x, atol=1e-3)


@METHODS
def test_the_search_ends_on_the_sphere_where_the_minimum_lies_outside(settings: SearchSettings) -> None:
    weight, _ = torch.linalg.qr(torch.randn(784, 3, dtype=torch.float64))
    decoder = Toy(3 * weight, torch.zeros(784, dtype=torch.float64))
    # W'W = 9 I: the loss depends on the distance to its minimum alone, so the nearest point of the ball wins.
    wanted = torch.tensor([[4.0, -4.0, 4.0], [0.5, 0.1, -0.2]], dtype=torch.float64)
    images = decoder(wanted * (2 * 9 + 1) / (2 * 9)).detach()
    found = descend(decoder, images, torch.zeros_like(wanted), replace(settings, max_norm=2.0))
    expected = torch.stack([wanted[0] * 2 / wanted[0].norm(), wanted[1]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found.norm(dim=1) <= 2.0 + 1e-9).all()


@pytest.mark.parametrize(
    "settings",
    [
        SearchSettings(steps=20),
        SearchSettings(steps=20, learning_rate=3.0),
        SearchSettings(steps=1, learning_rate=1.0),
        replace(QUASI_NEWTON, steps=1),
        replace(QUASI_NEWTON, steps=15),
        replace(QUASI_NEWTON, steps=15, tolerance=0.1),
    ],
)
def test_the_search_never_ends_above_its_start(
    settings: SearchSettings, make_decoder: Callable[..., Decoder], make_images: Callable[..., Tensor]
) -> None:
    decoder = make_decoder(0).folded()
    starts = torch.randn(12, 8)
    images = make_images(12)
    images[:6] = decoder(starts[:6] + 0.05 * torch.randn(6, 8))  # Six that start close to their minimum.
    found = descend(decoder, images, starts, settings)
    before, after = losses(decoder, images, starts), losses(decoder, images, found)
    assert (after <= before + 1e-4).all()
    assert (after < before - 0.1).any()


@METHODS
def test_no_steps_leave_the_start(settings: SearchSettings, make_images: Callable[..., Tensor]) -> None:
    starts = torch.randn(2, 3, dtype=torch.float64)
    found = descend(toy(), make_images(2).double(), starts, replace(settings, steps=0))
    assert torch.equal(found, starts)


@pytest.mark.parametrize("settings", [SearchSettings(steps=5), replace(QUASI_NEWTON, steps=5)])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_search_leaves_no_gradient_behind_and_needs_no_grad_mode(
    settings: SearchSettings,
    context: Callable[[], torch.autograd.grad_mode.no_grad],
    make_decoder: Callable[..., Decoder],
    make_images: Callable[..., Tensor],
) -> None:
    decoder, images = make_decoder(0), make_images(2)
    if settings.method == "quasi-newton":
        decoder = decoder.folded().requires_grad_()
    starts = torch.zeros(2, 8)
    expected = descend(decoder, images, starts, settings)
    with context():
        found = descend(decoder, images + 0, starts + 0, settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, starts)
    assert not found.requires_grad
    assert all(parameter.requires_grad and parameter.grad is None for parameter in decoder.parameters())


@pytest.mark.parametrize("settings", [SearchSettings(steps=30), replace(QUASI_NEWTON, steps=10)])
def test_an_images_result_does_not_depend_on_the_others(
    settings: SearchSettings, make_decoder: Callable[..., Decoder], make_images: Callable[..., Tensor]
) -> None:
    decoder = make_decoder(0).double().folded()
    images, starts = make_images(6).double(), torch.randn(6, 8, dtype=torch.float64)
    together = descend(decoder, images, starts, settings)
    alone = [descend(decoder, images[row : row + 1], starts[row : row + 1], settings) for row in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


class Overshooting(Decoder):
    """One latent, all pixels h(z) = 0.1 z − 0.0152 z⁴ + 0.00272 z⁵.

    From 0 and for pixels of ½ the Gauss-Newton step leads to 4.7, where the loss is higher and its slope
    still points onwards, so that no curvature can be learnt there.
    """

    def __init__(self) -> None:
        super().__init__(1, batch_norm=False)

    def forward(self, latents: Tensor) -> Tensor:
        values = 0.1 * latents - 0.0152 * latents**4 + 0.00272 * latents**5
        return values[:, :, None, None].expand(-1, 1, 28, 28)

    def jacobian(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        slopes = 0.1 - 0.0608 * latents**3 + 0.0136 * latents**4
        return self(latents), slopes[:, :, None, None, None].expand(-1, 1, 1, 28, 28)

    def vjp(self, latents: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return vjp_by_autograd(self, latents)


def test_a_step_that_overshoots_is_shortened() -> None:
    decoder, images = Overshooting(), torch.full((1, 1, 28, 28), 0.5, dtype=torch.float64)
    found = descend(decoder, images, torch.zeros(1, 1, dtype=torch.float64), QUASI_NEWTON)
    grid = torch.linspace(0, 3, 30_001, dtype=torch.float64)[:, None]
    best = grid[losses(decoder, images.expand(len(grid), -1, -1, -1), grid).argmin()]
    torch.testing.assert_close(found[0], best, rtol=0, atol=1e-3)


def test_the_bfgs_update_learns_the_curvature_it_saw() -> None:
    factors = torch.randn(5, 4, 4, dtype=torch.float64)
    inverse = factors @ factors.mT + torch.eye(4)
    moved, bend = torch.randn(2, 5, 4, dtype=torch.float64)
    bend *= (moved * bend).sum(1, keepdim=True).sign()
    bend[4] *= -1  # Negative curvature cannot be learnt.
    updated = _bfgs_update(inverse, moved, bend, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close((updated @ bend[:, :, None])[:4, :, 0], moved[:4])
    torch.testing.assert_close(updated, updated.mT)
    assert (torch.linalg.eigvalsh(updated) > 0).all()
    assert torch.equal(updated[4], inverse[4])


def test_a_tolerance_stops_the_quasi_newton_search_early(
    make_decoder: Callable[..., Decoder], make_images: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(0).double().folded()
    images, starts = make_images(4).double(), torch.zeros(4, 8, dtype=torch.float64)
    calls = []
    vjp = decoder.vjp
    monkeypatch.setattr(decoder, "vjp", lambda latents: (calls.append(1), vjp(latents))[1])
    exact = descend(decoder, images, starts, replace(QUASI_NEWTON, steps=60))
    steps = len(calls)
    rough = descend(decoder, images, starts, replace(QUASI_NEWTON, steps=60, tolerance=0.1))
    assert len(calls) - steps < steps / 2
    before, after = losses(decoder, images, starts), losses(decoder, images, rough)
    least = losses(decoder, images, exact)
    assert (after - least < 0.2 * (before - least)).all()
    assert (after > least).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"learning_rate": 0.0},
        {"max_norm": 0.0},
        {"margin": -1.0},
        {"method": "quasi-newton"},
        {"method": "quasi-newton", "fold_batch_norm": True, "gradient": "unrolled"},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AbsynthError):
        SearchSettings(**wrong)


@pytest.mark.parametrize("settings", [PAPER, QUASI_NEWTON, SearchSettings(margin=3.0, gradient="unrolled")])
def test_settings_survive_json(settings: SearchSettings) -> None:
    values = settings.to_json()
    assert not any(isinstance(value, float) and math.isinf(value) for value in values.values())
    assert SearchSettings.from_json(values) == settings


def test_the_papers_settings() -> None:
    assert PAPER.to_json() == {
        "method": "adam",
        "steps": 50,
        "learning_rate": 0.05,
        "tolerance": 0.0,
        "max_norm": 5.0,
        "margin": None,
        "fold_batch_norm": False,
        "gradient": "envelope",
    }


@pytest.mark.parametrize("values", [{"walks": 3}, {"steps": "many"}])
def test_unknown_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(AbsynthError, match="no settings of the search"):
        SearchSettings.from_json(values)
