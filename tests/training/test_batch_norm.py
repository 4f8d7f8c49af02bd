"""Batch norm put in and folded: the layers stay, and so does what they compute."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from absynth.models.cnn import IntervalCNN, SmoothedCNN
from absynth.training.batch_norm import fold_batch_norm, with_batch_norm


def names(layers: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in layers.children()]


def test_every_layer_but_the_last_gets_one() -> None:
    chain = with_batch_norm([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2)])
    assert names(chain) == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear", "BatchNorm1d", "Linear"]


@pytest.mark.parametrize("kind", [IntervalCNN, SmoothedCNN])
def test_folded_a_trained_chain_computes_the_same(
    kind: type[IntervalCNN | SmoothedCNN], make_images: Callable[..., Tensor]
) -> None:
    network = kind(4)
    trained = with_batch_norm(network.layers)
    for layer in trained:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    for seed in range(3):
        trained(make_images(12, seed=seed))
    trained.double().eval()
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    folded = fold_batch_norm(trained)
    assert names(folded) == names(network.layers)
    images = make_images(5, seed=7).double()
    torch.testing.assert_close(folded(images), trained(images), rtol=1e-9, atol=1e-9)
    assert (folded(images) - network.layers(images)).abs().max() > 1e-3, "the norms do something"
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
