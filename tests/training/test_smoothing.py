"""The consistency loss against its formula."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.training.smoothing import ConsistencyLoss, add_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).double().requires_grad_(False)


def test_the_loss_is_its_formula(network: nn.Module, make_images: Callable[..., Tensor]) -> None:
    images, labels = make_images(4).double(), torch.tensor([0, 2, 1, 2])
    loss = ConsistencyLoss(sigma=0.7, copies=3, weight=4.0, entropy=0.3)
    noisy = add_noise(images.repeat(3, 1, 1, 1), 0.7, generator(1)).view(3, 4, 1, 28, 28)
    expected = 0.0
    for image, label in enumerate(labels.tolist()):
        copies = [network(noisy[copy, image][None]).softmax(1)[0] for copy in range(3)]
        mean = sum(copies) / 3
        expected += sum(-float(p[label].log()) for p in copies) / 3
        expected += 4.0 * sum(float((mean * (mean / p).log()).sum()) for p in copies) / 3
        expected += 0.3 * -float((mean * mean.log()).sum())
    assert loss(network, images, labels, generator(1)).item() == pytest.approx(expected / 4)


def test_without_its_terms_it_is_cross_entropy_on_noise(
    network: nn.Module, make_images: Callable[..., Tensor]
) -> None:
    images, labels = make_images(4).double(), torch.tensor([0, 2, 1, 2])
    found = ConsistencyLoss(0.2, copies=1, weight=0.0, entropy=0.0)(network, images, labels, generator())
    noisy = add_noise(images, 0.2, generator())
    torch.testing.assert_close(found, functional.cross_entropy(network(noisy), labels))


def test_the_noise_has_its_size_is_not_clipped_and_goes_by_the_generator() -> None:
    images = torch.full((50, 1, 28, 28), 0.9)
    noisy = add_noise(images, 0.5, generator())
    assert (noisy - images).mean().abs() < 0.01
    assert (noisy - images).std() == pytest.approx(0.5, abs=0.01)
    assert noisy.max() > 2
    assert torch.equal(noisy, add_noise(images, 0.5, generator()))
    assert not torch.equal(noisy, add_noise(images, 0.5, generator(1)))


@pytest.mark.parametrize("change", [{"sigma": 0.0}, {"sigma": math.nan}, {"copies": 0}, {"weight": -1.0}])
def test_senseless_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(AbsynthError, match="needs a sigma above 0, at least 1 copy"):
        ConsistencyLoss(**change)  # type: ignore[arg-type]
