"""What goes in and what comes out of ``certify``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from absynth.certify import SIZES, Certifier, certified_accuracy, certify, scan, search, summarise
from absynth.certify.codebook import find_prototypes, read_codebook
from absynth.certify.provers import prototypes
from absynth.errors import AbsynthError
from absynth.models.cnn import CNN, Binarized
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import NORMS, Norm
from absynth.progress import Progress

FRONTS = ["grey", "binary", "clamped"]


@pytest.fixture
def model(toolbox: Any) -> Any:
    return toolbox.random_codebook(0, classes=3, count=4, pixels=8)


@pytest.fixture
def images(toolbox: Any) -> Any:
    return toolbox.random_images(0, 5, 2, 4)


def test_bad_arguments_are_told_in_a_sentence(model: Any, images: Tensor) -> None:
    labels = model(images).argmax(1)
    nan, outside = images.clone(), images.clone()
    nan[0, 0, 0, 0] = torch.nan
    outside[0, 0, 0, 0] = 1.01
    for arguments, words in (
        ((nan, labels), "NaN"),
        ((outside, labels), "outside"),
        ((images.mul(255).byte(), labels), "divide them by 255"),
        ((images[:, :, :1], labels), "4 pixels"),
        ((images[0], labels), "shape"),
        ((images[:0], labels[:0]), "at least one"),
        ((images, labels[:2]), "5 images take whole numbers"),
        ((images, labels.float() + 0.5), "5 images take whole numbers"),
        ((images, labels + 3), "0 to 2"),
        ((images, labels - 3), "0 to 2"),
        ((images, labels, "l3"), "no norm"),
    ):
        with pytest.raises(AbsynthError, match=words):
            certify(model, *arguments)


def test_models_that_cannot_be_certified(toolbox: Any, images: Tensor) -> None:
    digits, labels = torch.rand(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    for classifier in (CNN().eval(), Binarized(CNN().eval())):
        with pytest.raises(AbsynthError, match="cannot be certified by the method 'pairs'"):
            certify(classifier, digits, labels, method="pairs")
    for broken, words in (
        (toolbox.codebook(torch.full((2, 1, 8), 1.5), torch.zeros(2, 1)), "outside"),
        (toolbox.codebook(torch.zeros(2, 1, 8), torch.full((2, 1), torch.nan)), "finite"),
        (toolbox.codebook(torch.zeros(2, 1, 8), torch.full((2, 1), torch.inf)), "no prototypes"),
        (toolbox.random_codebook(0, 2, 1, 8).double(), "float32"),
    ):
        with pytest.raises(AbsynthError, match=words):
            certify(broken, images, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("front", FRONTS)
def test_a_certifier_says_the_same_and_reads_the_prototypes_once(
    toolbox: Any, model: Any, images: Tensor, front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = toolbox.behind(front, model)
    labels = classifier(images).argmax(1)
    expected = [certify(classifier, images, labels, norm, exact=True) for norm in NORMS]
    certifier = Certifier(classifier)
    monkeypatch.delattr(prototypes, "read_codebook")
    for norm, certified in zip(NORMS, expected, strict=True):
        again = certifier.certify(images, labels, norm, exact=True)
        assert torch.equal(again.radius, certified.radius)
        assert (again.rule, again.method, again.warning) == (
            certified.rule,
            certified.method,
            certified.warning,
        )
        if certified.adversarials is not None:
            assert again.adversarials is not None
            assert torch.equal(again.adversarials.nan_to_num(), certified.adversarials.nan_to_num())


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_tensor_is_made_on_the_device_of_the_images(
    toolbox: Any, model: Any, images: Tensor, norm: str, front: str
) -> None:
    classifier = toolbox.behind(front, model)
    labels = classifier(images).argmax(1)
    expected = certify(classifier, images, labels, norm, exact=True)
    # A tensor that is made without saying where would be on this device, and could not meet the others.
    with torch.device("meta"):
        certified = certify(classifier, images, labels, norm, exact=True)
    assert torch.equal(certified.radius, expected.radius)


def test_images_asked_about_again_are_not_scanned_again(
    model: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = model(images).argmax(1)
    certifier = Certifier(model)
    certifier.certify(images, labels, "l0")
    expected = certify(model, images, labels, "l2").radius
    with monkeypatch.context() as patched:
        patched.delattr(prototypes, "scan")
        assert torch.equal(certifier.certify(images, labels, "l2").radius, expected)
    # Neither other images in the same place nor other labels get the answers of the first.
    images.copy_(images.flip(0))
    for wanted in (labels.flip(0), labels):
        expected = certify(model, images, wanted, "l2").radius
        assert torch.equal(certifier.certify(images, wanted, "l2").radius, expected)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_several_norms_share_one_comparison_and_say_the_same(
    model: Any, images: Tensor, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = model(images).argmax(1)
    expected = [certify(model, images, labels, norm, exact=True) for norm in NORMS]
    scanned: list[int] = []

    def counting(codebook: Any, image: Tensor, label: int) -> Any:
        scanned.append(len(image))
        return scan.scan(codebook, image, label)

    monkeypatch.setattr(prototypes, "scan", counting)
    found = Certifier(model).certify_in(images, labels, NORMS, exact=True, batch_size=batch_size)
    assert sum(scanned) == len(images)
    assert max(scanned) <= batch_size
    for one, other in zip(found, expected, strict=True):
        assert (one.norm, one.method, one.exact) == (other.norm, other.method, other.exact)
        assert torch.equal(one.radius, other.radius)


def test_fewer_images_are_compared_at_once_where_memory_is_short(
    model: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = model(images).argmax(1)
    expected = certify(model, images, labels, "linf").radius
    monkeypatch.setattr(prototypes, "at_once", lambda size, most: 1)
    assert torch.equal(certify(model, images, labels, "linf").radius, expected)


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_what_another_norm_left_behind_changes_no_bound(model: Any, images: Tensor, norm: Norm) -> None:
    found = find_prototypes(model)
    assert found is not None
    codebook = read_codebook(*found)
    batch, slack = scan.scan(codebook, images.flatten(1), 0), torch.zeros(len(images), dtype=torch.float64)
    after = replace(batch, length=scan.lengths_from(codebook, batch.own_rows[:, 0]))
    first = search.Search(codebook, 0, norm, 1)._first_bounds
    assert torch.equal(first(after, slack), first(batch, slack))


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_wrong_label_and_ties_have_radius_zero(toolbox: Any, norm: str, front: str) -> None:
    model = toolbox.random_codebook(1, classes=3, count=3, pixels=8)
    model.prototype_images[1, 0] = model.prototype_images[0, 0].round()
    model.prototype_images[0, 0] = model.prototype_images[1, 0]
    model.prototype_offsets[:2, 0] = -1.0
    model.index()
    images = model.prototype_images[0, 0].view(1, 1, 2, 4).repeat(2, 1, 1, 1)
    classifier = toolbox.behind(front, model)
    result = certify(classifier, images, torch.tensor([0, 2]), norm, exact=True)
    assert result.prediction.tolist() == [0, 0]
    assert result.radius.tolist() == [0, 0]
    if result.exact:
        assert result.closed is not None and result.adversarials is not None
        assert torch.equal(result.adversarials[1], images[1])
        assert bool(result.closed[1])


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_equal_to_a_lone_prototype(toolbox: Any, norm: str) -> None:
    images = torch.zeros(2, 1, 8)
    images[1] = 1
    model = toolbox.codebook(images, torch.zeros(2, 1))
    result = certify(model, images[:1].view(1, 1, 2, 4), torch.tensor([0]), norm)
    # The bisector of black and white: ½ in every pixel, or four of the eight pixels all the way.
    truth = {"l2": 2**0.5, "l1": 4.0, "linf": 0.5, "l0": 3.0}[norm]
    assert float(result.radius) == pytest.approx(truth, rel=1e-4)
    assert float(result.radius) <= truth


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_without_a_rival_the_radius_is_the_diameter(toolbox: Any, norm: str, exact: bool) -> None:
    model = toolbox.random_codebook(0, classes=2, count=2, pixels=8)
    model.prototype_offsets[1] = torch.inf
    model.index()
    images = toolbox.random_images(3, 2, 2, 4)
    result = certify(model, images, torch.zeros(2, dtype=torch.int64), norm, exact=exact)
    assert result.radius.tolist() == pytest.approx([{"l2": 8**0.5, "l1": 8, "linf": 1, "l0": 8}[norm]] * 2)
    if result.exact:
        assert result.gap is not None and result.gap.tolist() == [0, 0]


def test_nearest_neighbour_with_ragged_classes_and_channels(toolbox: Any) -> None:
    images = toolbox.random_images(5, 12, 2, 6).view(12, 3, 2, 2)
    labels = torch.tensor([0] * 6 + [1] * 5 + [2])
    model = NearestNeighbour(images, labels)
    radii = {norm: certify(model, images, labels, norm).radius for norm in NORMS}
    assert bool((radii["l2"] > 0).any())
    assert bool((radii["l0"] <= 4).all())
    assert bool((radii["linf"] <= radii["l2"] + 1e-9).all())
    assert bool((radii["l2"] <= radii["l1"] + 1e-9).all())


def test_results_do_not_depend_on_the_batches(model: Any, toolbox: Any, progress: Progress) -> None:
    images = toolbox.random_images(8, 11, 2, 4)
    labels = model(images).argmax(1)
    whole = certify(model, images, labels, "linf", exact=True)
    parts = certify(model, images, labels, "linf", exact=True, batch_size=2, progress=progress)
    assert torch.allclose(whole.radius, parts.radius)
    assert progress.tasks[0].completed == 11


def test_summary(model: Any, toolbox: Any) -> None:
    images = toolbox.random_images(8, 9, 2, 4)
    labels = torch.zeros(9, dtype=torch.int64)
    result = certify(model, images, labels, "l2", exact=True)
    figures = summarise(result, labels)
    correct = result.prediction == labels
    assert figures.images == 9 and figures.accuracy == pytest.approx(float(correct.double().mean()))
    assert figures.mean == pytest.approx(float(result.radius.mean())) and figures.closed == 1
    assert tuple(figures.certified) == SIZES["l2"]
    assert summarise(result, labels, [1e-9]).certified[1e-9] <= figures.accuracy
    assert certified_accuracy(torch.tensor([0.0, 1.0, 2.0, 3.0]).double(), 2.0) == 0.5
    with pytest.raises(AbsynthError, match="above 0"):
        certified_accuracy(result.radius, 0.0)
