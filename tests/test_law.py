"""The law of this project: certified radius ≤ distance of any attack, whatever the codebook and the image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from absynth.attacks import suite_attacks
from absynth.certify import certifiable, certify
from absynth.models.cnn import Binarized
from absynth.models.prototypes import PrototypeClassifier
from absynth.norms import NORMS, Norm


class Codebook(PrototypeClassifier):
    """Eight-pixel prototypes as they are given."""

    def __init__(self, images: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototype_images", images)
        self.register_buffer("prototype_offsets", offsets)
        self.index()


@st.composite
def codebooks(draw: st.DrawFn) -> Codebook:
    """Of 2 to 3 classes with 1 to 4 prototypes each; coarse values make ties and duplicates common."""
    classes, count = draw(st.integers(2, 3)), draw(st.integers(1, 4))
    pixel = st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])
    size = classes * count
    images = draw(st.lists(st.lists(pixel, min_size=8, max_size=8), min_size=size, max_size=size))
    offsets = draw(st.lists(st.sampled_from([-0.5, 0.0, 0.1, 1.0]), min_size=size, max_size=size))
    return Codebook(torch.tensor(images).view(classes, count, 8), torch.tensor(offsets).view(classes, count))


@st.composite
def pictures(draw: st.DrawFn) -> Tensor:
    pixel = st.sampled_from([0.0, 0.1, 0.49, 0.5, 0.51, 0.8, 1.0])
    values = draw(st.lists(st.lists(pixel, min_size=8, max_size=8), min_size=3, max_size=3))
    return torch.tensor(values).view(3, 1, 2, 4)


@pytest.mark.parametrize("binary", [False, True], ids=["grey", "binary"])
@pytest.mark.parametrize("norm", NORMS)
@given(codebook=codebooks(), images=pictures(), seed=st.integers(0, 9))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_attack_gets_below_a_radius(
    norm: Norm, binary: bool, codebook: Codebook, images: Tensor, seed: int
) -> None:
    model = (Binarized(codebook) if binary else codebook).eval()
    labels = model(images).argmax(1)
    radii = [certify(model, images, labels, norm).radius]
    scope = certifiable(model)
    assert scope is not None
    if norm in scope.exact:
        radii.append(certify(model, images, labels, norm, exact=True).radius)
    for attack in suite_attacks("quick", norm):
        if not attack.applies_to(model):
            continue
        result = attack(model, images, labels, seed=seed)
        for radius in radii:
            certified = radius > 0
            assert bool((radius[certified] < result.distances[certified]).all()), attack.name
