import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.models import projection, prototypes
from absynth.models.pretrained import load_folder
from absynth.models.prototypes import NearestNeighbour, PrototypeClassifier

MakeImages = Callable[..., Tensor]


class Codebook(PrototypeClassifier):
    """Prototypes and offsets as they are given."""

    def __init__(self, images: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototype_images", images)
        self.register_buffer("prototype_offsets", offsets)
        self.index()


def brute_force(images: Tensor, members: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The smallest squared distance to each class, one pair at a time, in float64."""
    losses = torch.full((len(images), classes), torch.inf, dtype=torch.float64)
    for row, image in enumerate(images.double()):
        for member, label in zip(members.double(), labels.tolist(), strict=True):
            losses[row, label] = min(losses[row, label], ((image - member) ** 2).sum())
    return losses


UNBALANCED = torch.tensor([0, 3, 3, 0, 1, 3, 0, 3, 3, 1, 3, 0])
"""Classes of 4, 2, 0 and 6 images."""


@pytest.fixture
def neighbours(make_images: MakeImages) -> NearestNeighbour:
    return NearestNeighbour(make_images(12), UNBALANCED)


def test_losses_are_those_of_brute_force(make_images: MakeImages, neighbours: NearestNeighbour) -> None:
    queries = torch.cat([make_images(8, seed=1), make_images(12)[:3]])
    expected = brute_force(queries, make_images(12), UNBALANCED, 4)
    torch.testing.assert_close(neighbours.losses(queries).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(neighbours(queries).double(), -expected * 440 / 784, rtol=1e-5, atol=1e-5)
    assert neighbours(queries).argmax(1).tolist() == expected.argmin(1).tolist()
    assert neighbours(queries)[-3:].argmax(1).tolist() == UNBALANCED[:3].tolist()


def test_offsets_are_added(make_images: MakeImages) -> None:
    offsets = 60 * torch.rand(3, 5)
    model = Codebook(make_images(15).view(3, 5, 784), offsets)
    queries = make_images(9, seed=1)
    distances = (
        (queries.flatten(1).double()[:, None, None] - model.prototypes().images.double()).square().sum(-1)
    )
    scores = distances + model.prototypes().offsets.double()
    assert not torch.equal(scores.argmin(-1), distances.argmin(-1)), "the offsets change nothing"
    assert torch.equal(model.nearest(queries), scores.argmin(-1))
    torch.testing.assert_close(model.losses(queries).double(), scores.amin(-1), rtol=1e-5, atol=0)


def test_padding_never_wins(neighbours: NearestNeighbour) -> None:
    black = torch.zeros(1, 1, 28, 28)  # The very image that fills up the shorter classes.
    losses = neighbours.losses(black)
    assert (losses > 200).all()
    assert neighbours.nearest(black)[0, 1] < 2


def test_a_class_without_an_image_is_never_answered(
    make_images: MakeImages, neighbours: NearestNeighbour
) -> None:
    queries = make_images(5, seed=1).requires_grad_()
    logits = neighbours(queries)
    assert logits.isinf()[:, 2].all()
    assert not logits.isnan().any()
    assert (logits.argmax(1) != 2).all()
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 0, 1, 3, 3])).backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    assert queries.grad.abs().max() > 0


def test_classes_can_be_counted_by_the_caller(make_images: MakeImages) -> None:
    model = NearestNeighbour(make_images(2), torch.tensor([0, 1]), classes=4)
    assert model(make_images(3)).shape == (3, 4)


def test_the_gradient_is_that_of_finite_differences(make_images: MakeImages) -> None:
    model = NearestNeighbour(make_images(9).double(), torch.arange(9) % 3)
    images = make_images(4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.losses(torch.cat([x, images[1:]])), images[:1])


def test_a_chunked_search_finds_the_same(
    make_images: MakeImages, neighbours: NearestNeighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = make_images(7, seed=1)
    at_once = neighbours.nearest(queries)
    for scores in (1, 13):  # One image at a time, and two with one left over.
        monkeypatch.setattr(prototypes, "SCORES_AT_ONCE", scores)
        assert torch.equal(neighbours.nearest(queries), at_once)


@pytest.fixture
def sieved(monkeypatch: pytest.MonkeyPatch) -> Codebook:
    """A codebook near a plane, with equal prototypes, an empty class, and few enough axes to leave a rest."""
    monkeypatch.setattr(prototypes, "SMALL_CODEBOOK", 10)
    monkeypatch.setattr(projection, "DIMENSIONS", 6)
    axes = torch.rand(5, 49)
    images = (torch.rand(3, 200, 5) @ axes / 5 + 0.05 * torch.rand(3, 200, 49)).clamp(0, 1)
    images[1, 100:] = images[1, :100]
    offsets = 0.1 * torch.rand(3, 200)
    offsets[1, 100:] = offsets[1, :100]
    offsets[2] = torch.inf
    return Codebook(images, offsets)


def test_the_sieve_finds_what_the_scan_finds(sieved: Codebook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sieved.projection is not None
    images = torch.cat([sieved.prototype_images[:2, ::7].flatten(0, 1), torch.rand(30, 49)])
    images[:20] += 0.05 * torch.rand(20, 49)
    expected = sieved._scan_all(images)
    assert torch.equal(sieved.nearest(images.view(-1, 1, 7, 7)), expected)
    for scores in (50, 200 * 20, 200 * 50 * 2):  # one image, some with one class, all with two classes
        monkeypatch.setattr(prototypes, "SCORES_AT_ONCE", scores)
        assert torch.equal(sieved.nearest(images.view(-1, 1, 7, 7)), expected)
    monkeypatch.setattr(prototypes, "MOST_CANDIDATES", 3)
    assert torch.equal(sieved.nearest(images.view(-1, 1, 7, 7)), expected)


def test_the_bounds_lie_below_the_scores_and_leave_few(sieved: Codebook) -> None:
    assert sieved.projection is not None
    images = sieved.prototype_images[0, :40] * 0.98
    query = sieved.projection(images)
    bounds = sieved.projection.bounds(query, slice(0, 1))[:, 0].double()
    slack = sieved.projection.slack(query, slice(0, 1)).double() + 2 * sieved._errors[0]
    own = sieved.prototype_images[0].double()
    scores = own.square().sum(1) + sieved.prototype_offsets[0] - 2 * images.double() @ own.T
    assert (bounds <= scores + slack).all()
    assert (bounds <= scores.amin(1, keepdim=True)).double().mean() < 0.2
    assert (slack < 0.01).all()


def test_near_ties_of_the_search_are_decided_by_the_losses(make_images: MakeImages) -> None:
    # An offset of 2²⁰ leaves the search's scores steps of 1/16, in which these distances are all alike.
    base = make_images(1).flatten()
    steps = torch.arange(1, 9).flip(0) * 0.01
    images = base.expand(1, 8, 784).clone()
    images[0, :, 100] += torch.where(base[100] > 0.5, -steps, steps)
    model = Codebook(images, torch.full((1, 8), 2.0**20))
    losses = (base.double() - images[0].double()).square().sum(-1)
    assert int(model.nearest(base.view(1, 1, 28, 28))) in ((losses + 2.0**20).float() <= 2.0**20).nonzero()
    shifted = Codebook(images.flip(1), torch.full((1, 8), 300.0))
    assert int(shifted.nearest(base.view(1, 1, 28, 28))) == 0


def test_no_images_give_no_logits(neighbours: NearestNeighbour) -> None:
    assert neighbours(torch.zeros(0, 1, 28, 28)).shape == (0, 4)


@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 3, 28, 28)])
def test_images_of_another_size_are_refused(neighbours: NearestNeighbour, shape: tuple[int, ...]) -> None:
    with pytest.raises(AbsynthError, match="takes 784 pixels"):
        neighbours(torch.zeros(shape))


def test_saved_and_loaded_it_answers_the_same(
    make_images: MakeImages, neighbours: NearestNeighbour, tmp_path: Path
) -> None:
    loaded = load_folder(neighbours.save_pretrained(tmp_path))
    queries = make_images(6, seed=1)
    torch.testing.assert_close(loaded(queries), neighbours(queries), rtol=0, atol=0)


def test_prototypes_are_indexed_once(
    neighbours: NearestNeighbour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed: list[int] = []
    index = PrototypeClassifier.index

    def count(model: PrototypeClassifier) -> None:
        indexed.append(model.prototype_offsets.numel())
        index(model)

    neighbours.save_pretrained(tmp_path)
    monkeypatch.setattr(PrototypeClassifier, "index", count)
    load_folder(tmp_path)
    size = neighbours.prototype_offsets.numel()
    assert indexed.count(size) == 1
    config = {"type": "nearest-neighbour", "dataset": "mnist", "split": "test", "weights": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    indexed.clear()
    load_folder(tmp_path)
    assert len(indexed) == 1


def test_prototypes_move_with_the_module(neighbours: NearestNeighbour) -> None:
    moved = neighbours.to("meta")
    assert {tensor.device.type for tensor in moved.buffers()} == {"meta"}
    assert len(list(moved.buffers())) == 4
