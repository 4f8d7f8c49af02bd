from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, codebook
from absynth.inference.codebook import draw_latents
from absynth.models.pretrained import load_folder
from absynth.models.vae import Decoder


@pytest.fixture(scope="module")
def decoders(make_decoder: Callable[..., Decoder]) -> Sequence[Decoder]:
    return [make_decoder(seed) for seed in range(3)]


def brute_force(model: CodebookABS, images: Tensor) -> Tensor:
    """min_k ‖x − G_c(z_k)‖² + ½‖z_k‖² + b_c in float64, one class after the other."""
    columns = []
    for label, (decoder, bias) in enumerate(zip(model.decoders, model.biases, strict=True)):
        latents = model.latents[label % len(model.latents)]
        with torch.no_grad():
            decoded = decoder(latents).double()
        distances = (images.double()[:, None] - decoded[None]).square().sum((2, 3, 4))
        scores = distances + 0.5 * latents.double().square().sum(1) + bias
        columns.append(scores.min(dim=1).values)
    return torch.stack(columns, dim=1)


def per_class_latents(count: int) -> Tensor:
    return torch.randn(3, count, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("latents", [draw_latents(40), per_class_latents(40)], ids=["shared", "per class"])
@pytest.mark.parametrize("biases", [None, [0.0, -8.0, 3.5]])
def test_losses_are_those_of_brute_force(
    decoders: Sequence[Decoder],
    make_images: Callable[..., Tensor],
    latents: Tensor,
    biases: Sequence[float] | None,
) -> None:
    model = CodebookABS(decoders, latents, biases)
    model.prepare()
    images = torch.cat([make_images(5), model.prototypes().images[1, :3].view(3, 1, 28, 28)])
    expected = brute_force(model, images)
    torch.testing.assert_close(model.losses(images).double(), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(model(images).double(), -expected * 440 / 784, rtol=1e-5, atol=1e-3)
    assert model(images).argmax(1).tolist() == expected.argmin(1).tolist()
    assert (model(images)[-3:].argmax(1) == 1).all() or biases is None


def test_the_published_prototypes_are_what_decides(
    decoders: Sequence[Decoder], make_images: Callable[..., Tensor]
) -> None:
    model = CodebookABS(decoders, draw_latents(30), [1.0, 2.0, 3.0])
    model.prepare()
    prototypes, images = model.prototypes(), make_images(4)
    assert prototypes.images.shape == (3, 30, 784)
    assert prototypes.offsets.shape == (3, 30)
    distances = (images.flatten(1)[:, None, None] - prototypes.images).square().sum(-1)
    torch.testing.assert_close((distances + prototypes.offsets).amin(-1), model.losses(images))


def test_a_codebook_decoded_in_pieces_is_the_same(
    decoders: Sequence[Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CodebookABS(decoders, draw_latents(25))
    model.prepare()
    whole = model.prototypes()
    monkeypatch.setattr(codebook, "DECODED_AT_ONCE", 10)
    model.prepare()
    torch.testing.assert_close(model.prototypes().images, whole.images)
    torch.testing.assert_close(model.prototypes().offsets, whole.offsets)


def test_the_prior_may_weigh_less(decoders: Sequence[Decoder], tmp_path: Path) -> None:
    latents = per_class_latents(20)
    whole, less = (CodebookABS(decoders, latents, [1.0, 2.0, 3.0], prior_weight=w) for w in (1.0, 0.25))
    for model in (whole, less):
        model.prepare()
    biases = torch.tensor([1.0, 2.0, 3.0])[:, None]
    torch.testing.assert_close(less.prototype_offsets - biases, 0.25 * (whole.prototype_offsets - biases))
    assert "prior_weight" not in whole.config()
    loaded = load_folder(less.save_pretrained(tmp_path))
    assert isinstance(loaded, CodebookABS)
    assert loaded.prior_weight == 0.25
    assert torch.equal(loaded.prototype_offsets, less.prototype_offsets)
    with pytest.raises(AbsynthError, match=r"weighs the prior by 0\.25"):
        ABS(less)


def test_one_bias_for_each_class(decoders: Sequence[Decoder]) -> None:
    with pytest.raises(AbsynthError, match="3 classes but 2 biases"):
        CodebookABS(decoders, draw_latents(5), [0.0, 1.0])


def test_latents_are_a_buffer_and_prototypes_are_not_stored(decoders: Sequence[Decoder]) -> None:
    model = CodebookABS(decoders, draw_latents(5))
    model.prepare()
    stored = [name for name in model.state_dict() if not name.startswith("decoders.")]
    assert stored == ["latents"]
    derived = {name for name, _ in model.named_buffers() if not name.startswith("decoders.")}
    assert derived == {"latents", "prototype_images", "prototype_offsets", "_energies", "_errors"}


@pytest.mark.parametrize("count", [1, 90, 8000])
def test_the_least_likely_tenth_of_the_draw_is_dropped(count: int) -> None:
    drawn = torch.randn(round(count / 0.9), 8, generator=torch.Generator().manual_seed(4))
    limit = drawn.norm(dim=1).sort().values[count - 1]
    assert torch.equal(draw_latents(count, seed=4), drawn[drawn.norm(dim=1) <= limit][None])


def test_a_draw_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second, other = draw_latents(9, 3, seed=1), draw_latents(9, 3, seed=1), draw_latents(9, 3, seed=2)
    assert first.shape == (1, 9, 3)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_empty_codebook_is_refused() -> None:
    with pytest.raises(AbsynthError, match="0 prototypes"):
        draw_latents(0)
