from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, SearchSettings, abs
from absynth.inference.codebook import draw_latents
from absynth.inference.latent import reconstruction_loss
from absynth.models import prototypes
from absynth.models.vae import Decoder

MakeABS = Callable[..., ABS]
MakeImages = Callable[..., Tensor]

ADAM = SearchSettings(steps=8)
QUASI_NEWTON = SearchSettings(method="quasi-newton", steps=8, fold_batch_norm=True)
METHODS = pytest.mark.parametrize("settings", [ADAM, QUASI_NEWTON], ids=["adam", "quasi-newton"])


@pytest.fixture
def make_abs(make_decoder: Callable[..., Decoder]) -> MakeABS:
    """Three classes, a codebook of 50 latents, float64 unless told otherwise."""

    def make(
        settings: SearchSettings,
        factors: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float64,
        latents: Tensor | None = None,
    ) -> ABS:
        decoders = [make_decoder(seed) for seed in range(3)]
        codebook = CodebookABS(decoders, draw_latents(50) if latents is None else latents)
        model = ABS(codebook, settings, factors).to(dtype)
        model.prepare()
        return model.eval()

    return make


@METHODS
def test_a_synthesis_agrees_with_itself(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings
) -> None:
    model, images = make_abs(settings), make_images(4).double()
    synthesis = model.infer(images)
    assert synthesis.reconstructions.shape == (4, 3, 1, 28, 28)
    assert synthesis.latents.shape == (4, 3, 8)
    for label, decoder in enumerate(model.codebook.decoders):
        latents = synthesis.latents[:, label]
        with torch.no_grad():
            decoded = decoder(latents)
        torch.testing.assert_close(synthesis.reconstructions[:, label], decoded)
        torch.testing.assert_close(synthesis.losses[:, label], reconstruction_loss(images, decoded, latents))
    torch.testing.assert_close(synthesis.logits, -synthesis.losses * 440 / 784)
    torch.testing.assert_close(model(images), synthesis.logits)
    likelihoods = (-synthesis.losses * 440 / 784).exp() + 3.9e-5
    torch.testing.assert_close(synthesis.probabilities, likelihoods / likelihoods.sum(1, keepdim=True))
    assert (synthesis.losses < model.codebook.losses(images)).all()
    assert synthesis.refined.all()


@METHODS
def test_what_a_class_synthesised_is_of_that_class(make_abs: MakeABS, settings: SearchSettings) -> None:
    model = make_abs(settings)
    latents = torch.randn(5, 8, dtype=torch.float64)
    for label, decoder in enumerate(model.codebook.decoders):
        synthesis = model.infer(decoder(latents).detach())
        assert (synthesis.logits.argmax(1) == label).all()


@METHODS
def test_a_search_that_starts_at_the_truth_explains_it_all(
    make_abs: MakeABS, settings: SearchSettings
) -> None:
    latents = draw_latents(50)
    model = make_abs(settings, latents=latents)
    images = model.codebook.decoders[1](latents[0, :6].double()).detach()
    losses = model.infer(images).losses[:, 1]
    assert (losses <= 0.5 * latents[0, :6].double().square().sum(1) + 1e-9).all()


CONVERGED = replace(QUASI_NEWTON, steps=40, margin=0.0)


def explainable(model: ABS, make_images: MakeImages, count: int) -> Tensor:
    """Noisy syntheses of class 1, whose minimum is so deep that no small change leads to another one."""
    images = model.codebook.prototypes().images[1, :count].view(count, 1, 28, 28)
    noisy = images + 0.3 * (make_images(count).to(images) - 0.5)
    return noisy.clamp(0.001, 0.999).requires_grad_()  # with room for finite differences


def test_the_envelope_gradient_is_that_of_finite_differences_at_the_minimum(
    make_abs: MakeABS, make_images: MakeImages
) -> None:
    model = make_abs(CONVERGED)
    images = explainable(model, make_images, 2)
    (gradient,) = torch.autograd.grad(model.infer(images).losses[:, 1].sum(), images)
    for seed in range(4):
        direction = make_images(2, seed=seed + 10).double() - 0.5
        with torch.no_grad():
            above = model.infer(images + 1e-4 * direction).losses[:, 1]
            below = model.infer(images - 1e-4 * direction).losses[:, 1]
        slope = (above - below) / 2e-4
        torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), slope, rtol=1e-4, atol=1e-4)


def test_the_envelope_gradient_is_the_formula(make_abs: MakeABS, make_images: MakeImages) -> None:
    model, images = make_abs(ADAM, [1.0, 0.9, 1.1]), make_images(3).double().requires_grad_()
    synthesis = model.infer(images)
    weights = torch.randn(3, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((synthesis.losses * weights).sum(), images)
    factors = weights * torch.tensor([1.0, 0.9, 1.1], dtype=torch.float64)
    differences = 2 * (images[:, None] - synthesis.reconstructions)
    torch.testing.assert_close(gradient, (factors[..., None, None, None] * differences).sum(1).detach())


def test_the_unrolled_gradient_meets_the_envelope_at_the_minimum(
    make_abs: MakeABS, make_images: MakeImages
) -> None:
    images = explainable(make_abs(CONVERGED), make_images, 1)
    (envelope,) = torch.autograd.grad(make_abs(CONVERGED).infer(images).losses[0, 1], images)
    settings = SearchSettings(learning_rate=0.02, margin=0.0, gradient="unrolled")
    errors = {}
    for steps in (4, 100):
        losses = make_abs(replace(settings, steps=steps)).infer(images).losses
        (unrolled,) = torch.autograd.grad(losses[0, 1], images)
        errors[steps] = (unrolled - envelope).norm() / envelope.norm()
    assert errors[100] < 0.02
    assert errors[4] > 10 * errors[100]


def test_the_unrolled_gradient_is_that_of_finite_differences_anywhere(
    make_abs: MakeABS, make_images: MakeImages
) -> None:
    model = make_abs(SearchSettings(steps=6, gradient="unrolled"))
    images = make_images(1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model.infer(images).losses[0, 0], images)
    for seed in range(3):
        step = 1e-5 * (make_images(1, seed=seed + 10).double() - 0.5)
        # The search must keep all its steps, as it does where a gradient is wanted.
        above, below = (model.infer(images + sign * step).losses[0, 0] for sign in (1, -1))
        torch.testing.assert_close((gradient * step).sum(), ((above - below) / 2).detach(), rtol=1e-3, atol=0)


@METHODS
def test_inference_leaves_no_trace(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings
) -> None:
    model = make_abs(settings, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_()
    images = make_images(3).requires_grad_()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    logits = model(images)
    logits.sum().backward()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert images.grad is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model(images), logits)


@METHODS
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_answers_the_same_without_gradients(
    make_abs: MakeABS,
    make_images: MakeImages,
    settings: SearchSettings,
    context: Callable[[], torch.autograd.grad_mode.no_grad],
) -> None:
    model, images = make_abs(settings), make_images(3).double()
    expected = model(images)
    with context():
        logits = model(images + 0)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    assert not logits.requires_grad


def test_without_gradients_the_unrolled_search_keeps_its_best(
    make_abs: MakeABS, make_images: MakeImages
) -> None:
    settings = SearchSettings(steps=8, learning_rate=3.0)
    images = make_images(3).double().requires_grad_()
    with torch.no_grad():
        unrolled = make_abs(replace(settings, gradient="unrolled"))(images)
        torch.testing.assert_close(unrolled, make_abs(settings)(images))


@METHODS
@pytest.mark.parametrize("factors", [None, [1.0, 0.9, 1.05]])
def test_a_class_beyond_the_margin_keeps_its_codebook_score(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings, factors: Sequence[float] | None
) -> None:
    images = make_images(8).double()
    everywhere = make_abs(settings, factors).infer(images)
    weights = torch.tensor([1.0, 1.0, 1.0] if factors is None else factors, dtype=torch.float64)
    scores = make_abs(settings).codebook.losses(images) * weights
    gaps = scores - scores.sort(dim=1).values[:, 1:2]
    margin = gaps.median().item() + 1e-6
    synthesis = make_abs(replace(settings, margin=margin), factors).infer(images)
    within = gaps <= margin
    assert torch.equal(synthesis.refined, within)
    assert 0 < within.sum() < within.numel()
    assert within.any(dim=1).all()
    torch.testing.assert_close(synthesis.losses[~within], scores[~within])
    torch.testing.assert_close(synthesis.losses[within], everywhere.losses[within])
    torch.testing.assert_close(synthesis.latents[within], everywhere.latents[within])


def test_no_margin_refines_the_best_class_and_the_runner_up_alone(
    make_abs: MakeABS, make_images: MakeImages
) -> None:
    model, images = make_abs(replace(ADAM, margin=0.0)), make_images(6).double()
    refined = model.infer(images).refined
    best = model.codebook.losses(images).topk(2, largest=False).indices
    assert (refined.sum(dim=1) == 2).all()
    assert refined.gather(1, best).all()


@METHODS
def test_class_factors_multiply_the_losses(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings
) -> None:
    images, factors = make_images(3).double(), [1.0, 0.96, 1.06]
    plain, weighted = make_abs(settings).infer(images), make_abs(settings, factors).infer(images)
    torch.testing.assert_close(weighted.losses, plain.losses * torch.tensor(factors, dtype=torch.float64))
    torch.testing.assert_close(weighted.latents, plain.latents)


def test_one_factor_for_each_class(make_abs: MakeABS) -> None:
    with pytest.raises(AbsynthError, match="3 classes but 2 class factors"):
        make_abs(ADAM, [1.0, 1.0])


@METHODS
def test_many_images_are_explained_in_pieces(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = make_abs(settings), make_images(5).double()
    whole = model.infer(images)
    monkeypatch.setattr(abs, "IMAGES_AT_ONCE", 2)
    pieces = model.infer(images)
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(pieces, name), value, rtol=0, atol=1e-6, msg=name)


def test_no_images_give_an_empty_synthesis(make_abs: MakeABS) -> None:
    synthesis = make_abs(ADAM).infer(torch.zeros(0, 1, 28, 28).double())
    assert synthesis.logits.shape == (0, 3)
    assert synthesis.reconstructions.shape == (0, 3, 1, 28, 28)


@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 1, 14, 56), (2, 3, 28, 28)])
def test_images_of_another_size_are_refused(make_abs: MakeABS, shape: tuple[int, ...]) -> None:
    with pytest.raises(AbsynthError, match=r"takes \(batch, 1, 28, 28\)"):
        make_abs(ADAM).infer(torch.zeros(shape).double())


def test_preparing_folds_batch_norm_and_changes_nothing(make_abs: MakeABS, make_images: MakeImages) -> None:
    images = make_images(3)
    plain = make_abs(ADAM, dtype=torch.float32)
    folded = make_abs(replace(ADAM, fold_batch_norm=True), dtype=torch.float32)
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded.infer(images).losses, plain.infer(images).losses, rtol=1e-4, atol=0)


@METHODS
def test_float32_is_close_to_float64(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings
) -> None:
    model = make_abs(settings, dtype=torch.float32)
    single = model.infer(make_images(3)).losses
    double = model.double().infer(make_images(3).double()).losses
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=0)


def test_latents_can_belong_to_each_class(make_abs: MakeABS, make_images: MakeImages) -> None:
    latents, images = torch.randn(3, 20, 8), make_images(3).double()
    own = make_abs(ADAM, latents=latents).infer(images)
    for label in range(3):
        shared = make_abs(ADAM, latents=latents[label : label + 1]).infer(images)
        torch.testing.assert_close(own.losses[:, label], shared.losses[:, label])


@METHODS
def test_every_tensor_is_made_on_the_device_of_the_images(
    make_abs: MakeABS, make_images: MakeImages, settings: SearchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prototypes, "SMALL_CODEBOOK", 10)
    model, images = make_abs(settings), make_images(3).double()
    # A tensor that is made without saying where would be on this device, and could not meet the others.
    with torch.device("meta"):
        synthesis = model.infer(images)
    assert {value.device.type for value in vars(synthesis).values()} == {"cpu"}


def test_everything_moves_with_the_module(make_abs: MakeABS) -> None:
    model = make_abs(QUASI_NEWTON)
    assert "codebook.latents" in model.state_dict()
    model.to("meta")
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}
    model.prepare()
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_form_of_images_is_explained_alike_in_the_models_own_type(
    make_abs: MakeABS, make_images: MakeImages, dtype: torch.dtype
) -> None:
    model, images = make_abs(QUASI_NEWTON, dtype=dtype), make_images(2).half().float()
    expected = model.infer(images.to(dtype))
    for given in (
        images,
        images.double(),
        images.half(),
        images.numpy(),
        images.double().numpy(),
        list(images),
    ):
        found = model.infer(given)
        assert found.losses.dtype == dtype
        assert torch.equal(found.losses, expected.losses)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.infer(images).losses, expected.losses)
    with pytest.raises(AbsynthError, match="outside"):
        model.infer(images + 0.1)
    with pytest.raises(AbsynthError, match="divide them by 255"):
        model.infer(images.mul(255).byte())


def test_a_synthesis_of_single_precision_images_is_differentiable_in_them(
    make_abs: MakeABS, make_images: MakeImages
) -> None:
    model, images = make_abs(QUASI_NEWTON), make_images(2)
    exact, given = images.double().requires_grad_(), images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model.infer(exact).losses.sum(), exact)
    (gradient,) = torch.autograd.grad(model.infer(given).losses.sum(), given)
    torch.testing.assert_close(gradient, expected.float())
