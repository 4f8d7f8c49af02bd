from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.models.vae import VAE, Decoder, Encoder, elbo_losses


def described(layers: nn.Sequential) -> list[object]:
    """Each layer as (maps in, maps out, kernel, stride), (maps) or its name."""
    result: list[object] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.kernel_size[0] == layer.kernel_size[1]
            assert layer.stride[0] == layer.stride[1]
            result.append((layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]))
        elif isinstance(layer, nn.BatchNorm2d):
            result.append(layer.num_features)
        else:
            result.append(type(layer).__name__)
    return result


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_encoder_is_the_papers() -> None:
    encoder = Encoder()
    assert described(encoder.layers) == [
        *[(1, 32, 5, 1), 32, "ELU"],
        *[(32, 32, 4, 2), 32, "ELU"],
        *[(32, 64, 3, 2), 64, "ELU"],
        (64, 16, 5, 1),
    ]
    convolutions = (25 * 32 + 32) + (16 * 32 * 32 + 32) + (9 * 32 * 64 + 64) + (25 * 64 * 16 + 16)
    assert parameters(encoder) == convolutions + 2 * (32 + 32 + 64)


def test_the_decoder_is_the_papers() -> None:
    decoder = Decoder()
    assert described(decoder.layers) == [
        *[(8, 32, 4, 1), 32, "ELU"],
        *[(32, 16, 5, 2), 16, "ELU"],
        *[(16, 16, 5, 2), 16, "ELU"],
        *[(16, 1, 4, 1), "Sigmoid"],
    ]
    convolutions = (16 * 8 * 32 + 32) + (25 * 32 * 16 + 16) + (25 * 16 * 16 + 16) + (16 * 16 + 1)
    assert parameters(decoder) == convolutions + 2 * (32 + 16 + 16)


def test_images_and_latents_have_the_right_shapes(make_images: Callable[..., Tensor]) -> None:
    vae = VAE(latents=5)
    posterior = vae.encoder(make_images(3))
    assert posterior.mean.shape == posterior.log_variance.shape == (3, 5)
    decoded = vae.decoder(10 * torch.randn(7, 5))
    assert decoded.shape == (7, 1, 28, 28)
    assert 0 < decoded.min() < decoded.max() < 1


@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 3, 28, 28), (2, 1, 32, 32)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AbsynthError, match=r"takes \(batch, 1, 28, 28\)"):
        Encoder()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folding_batch_norm_changes_nothing(make_decoder: Callable[..., Decoder], dtype: torch.dtype) -> None:
    decoder = make_decoder(1).to(dtype)
    folded = decoder.folded()
    latents = torch.randn(20, 8, dtype=dtype)
    expected = decoder(latents)
    assert expected.std(dim=0).mean() > 0.02, "the decoder answers every latent alike, and shows nothing"
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(folded(latents), expected, rtol=0, atol=tolerance)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert folded.folded() is folded


def test_the_jacobian_is_the_slope_of_finite_differences(make_decoder: Callable[..., Decoder]) -> None:
    decoder = make_decoder(2).folded().double()
    latents = torch.randn(3, 8, dtype=torch.float64)
    images, jacobian = decoder.jacobian(latents)
    torch.testing.assert_close(images, decoder(latents))
    for coordinate, step in enumerate(1e-5 * torch.eye(8, dtype=torch.float64)):
        slope = (decoder(latents + step) - decoder(latents - step)) / 2e-5
        assert slope.abs().max() > 0.01
        torch.testing.assert_close(jacobian[:, coordinate], slope, rtol=1e-5, atol=1e-8)


def test_the_product_with_the_jacobian_is_that(make_decoder: Callable[..., Decoder]) -> None:
    decoder = make_decoder(2).folded().double()
    latents = torch.randn(3, 8, dtype=torch.float64)
    images, jacobian = decoder.jacobian(latents)
    decoded, pull_back = decoder.vjp(latents)
    torch.testing.assert_close(decoded, images)
    cotangents = torch.randn_like(images)
    torch.testing.assert_close(pull_back(cotangents), (jacobian * cotangents[:, None]).flatten(2).sum(2))


@pytest.mark.parametrize("method", ["jacobian", "vjp"])
def test_derivatives_want_folded_batch_norm(make_decoder: Callable[..., Decoder], method: str) -> None:
    with pytest.raises(AbsynthError, match="folded"):
        getattr(make_decoder(0), method)(torch.zeros(1, 8))


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_the_losses_are_the_formula(make_images: Callable[..., Tensor], beta: float) -> None:
    vae, images = VAE(), make_images(6)
    losses = elbo_losses(vae, images, beta, torch.Generator().manual_seed(5))

    noise = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
    mean, log_variance = vae.encoder(images)
    posterior = Normal(mean, log_variance.exp().sqrt())
    decoded = vae.decoder(mean + posterior.stddev * noise)
    divergence = kl_divergence(posterior, Normal(0.0, 1.0))
    for row in range(6):
        expected = ((images[row] - decoded[row]) ** 2).sum() + beta * divergence[row].sum()
        torch.testing.assert_close(losses[row], expected)


def test_fully_connected_layers_take_the_place_of_the_convolutions() -> None:
    vae = VAE(latents=5, image_size=(20, 16), hidden=(30, 24))
    linear = [layer for layer in vae.encoder.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(320, 30), (30, 24), (24, 10)]
    assert vae.encoder(torch.rand(3, 1, 20, 16)).mean.shape == (3, 5)
    decoder, latents = vae.decoder.double(), torch.randn(4, 5, dtype=torch.float64)
    convolutions = [layer for layer in decoder.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(5, 24), (24, 30), (30, 1)]
    hidden = latents
    for layer in convolutions:
        assert layer.bias is not None
        weight = layer.weight.flatten(1)
        hidden = hidden @ weight + layer.bias.repeat_interleave(weight.shape[1] // len(layer.bias))
        hidden = hidden.sigmoid() if layer is convolutions[-1] else functional.elu(hidden)
    torch.testing.assert_close(decoder(latents), hidden.view(4, 1, 20, 16))
    assert decoder.folded() is decoder


def test_fully_connected_layers_keep_the_size_of_what_passes_through() -> None:
    torch.manual_seed(0)
    vae = VAE(hidden=(384, 384))
    for module in vae.modules():
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            inputs = module.in_features if isinstance(module, nn.Linear) else module.in_channels
            assert float(module.weight.detach().std()) == pytest.approx(inputs**-0.5, rel=0.05)
            assert module.bias is not None
            assert not module.bias.any()
    with torch.no_grad():
        before = torch.logit(vae.decoder(torch.randn(200, 8)))
    assert 0.3 < float(before.std()) < 1.2


def test_nothing_is_drawn_where_there_is_nothing_to_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(nn.init, "normal_", lambda weight, **_: drawn.append(weight))
    with torch.device("meta"):
        Decoder(hidden=(5,))
    assert not drawn
    Decoder(hidden=(5,))
    assert len(drawn) == 2


def test_a_fully_connected_decoder_has_the_same_derivatives_and_config() -> None:
    decoder = Decoder(3, image_size=(16, 20), hidden=(12,)).double()
    latents = torch.randn(1, 3, dtype=torch.float64)
    images, jacobian = decoder.jacobian(latents)
    expected = torch.autograd.functional.jacobian(lambda z: decoder(z[None])[0], latents[0])
    torch.testing.assert_close(jacobian[0].permute(1, 2, 3, 0), expected)
    cotangents = torch.randn_like(images)
    decoded, pull_back = decoder.vjp(latents)
    torch.testing.assert_close(decoded, images)
    torch.testing.assert_close(pull_back(cotangents), torch.einsum("bchw,blchw->bl", cotangents, jacobian))
    again = Decoder(**decoder.config()).double()
    again.load_state_dict(decoder.state_dict())
    assert torch.equal(again(latents), decoder(latents))
