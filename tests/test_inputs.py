"""Images and labels in every form that people have them give the numbers of the plain call, or a sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import absynth
from absynth.attacks import Attack, attack, find_attack, suite_attacks
from absynth.certify import Certificate, certify
from absynth.errors import AbsynthError
from absynth.inputs import (
    ALLOWED,
    as_mask,
    check_layout,
    check_type,
    is_channel_last,
    take_images,
    take_labels,
)
from absynth.models.prototypes import NearestNeighbour
from absynth.norms import NORMS, Norm, distance, parse_norm

SIDE = 6


def pictures(count: int = 5, seed: int = 0) -> Tensor:
    """Grey images whose values are eighths, which every floating type has."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(9, (count, 1, SIDE, SIDE), generator=generator) / 8


def prototypes() -> NearestNeighbour:
    """A classifier that can be attacked and certified."""
    return NearestNeighbour(pictures(6, seed=1), torch.arange(6) % 3)


def fast(norm: Norm) -> Attack:
    """One attack that takes a few queries."""
    return find_attack(
        {"l2": "fgm", "linf": "fgsm", "l1": "bim", "l0": "salt-and-pepper"}[norm], norm, "quick"
    )


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, which can no longer be written to."""
    array.flags.writeable = False
    return array


FORMS: dict[str, Any] = {
    "float64": lambda x: x.double(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "array": lambda x: x.numpy(),
    "float64 array": lambda x: x.double().numpy(),
    "half array": lambda x: x.half().numpy(),
    "big-endian array": lambda x: x.numpy().astype(">f4"),
    "Fortran order": lambda x: np.asfortranarray(x.numpy()),
    "read-only": lambda x: frozen(x.numpy().copy()),
    "negative strides": lambda x: x.numpy()[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "a view": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "channels last in memory": lambda x: x.repeat(1, 1, 1, 1).to(memory_format=torch.channels_last),
    "list of tensors": list,
    "list of arrays": lambda x: list(x.numpy()),
    "nested lists": lambda x: x.tolist(),
    "requires a gradient": lambda x: x.clone().requires_grad_(),
    "parameter": nn.Parameter,
}
LABELS: dict[str, Any] = {
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "list of tensors": list,
    "list of NumPy's integers": lambda y: list(y.numpy()),
    "array": lambda y: y.numpy(),
    "negative strides": lambda y: y.numpy()[::-1].copy()[::-1],
    **{str(kind): (lambda y, kind=kind: y.to(kind)) for kind in (torch.uint8, torch.int8, torch.int16)},
    **{kind: (lambda y, kind=kind: y.numpy().astype(kind)) for kind in ("uint8", "uint16", "uint64", ">i4")},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_is_certified_alike(form: str) -> None:
    model, images = prototypes(), pictures()
    labels = model(images).argmax(1)
    for norm in ("linf", "l0"):
        expected = certify(model, images, labels, norm)
        assert torch.equal(certify(model, FORMS[form](images), labels, norm).radius, expected.radius)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_is_attacked_alike_and_left_as_it_was(form: str) -> None:
    model, images = prototypes(), pictures()
    labels = model(images).argmax(1)
    for norm in ("l2", "l0"):
        single = fast(norm)
        expected = single(model, images, labels)
        given = FORMS[form](images)
        result = single(model, given, labels)
        assert torch.equal(result.distances, expected.distances), norm
        assert torch.equal(result.adversarials.to(expected.adversarials), expected.adversarials)
        assert torch.equal(torch.as_tensor(np.array(as_lists(given))).float(), images)
        assert getattr(given, "grad", None) is None


def as_lists(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().float().tolist()
    return [as_lists(value) for value in values] if isinstance(values, list) else np.asarray(values).tolist()


@pytest.mark.parametrize("form", LABELS)
def test_every_form_of_labels_is_the_same(form: str) -> None:
    model, images = prototypes(), pictures()
    labels = model(images).argmax(1)
    assert torch.equal(take_labels(LABELS[form](labels), 5), labels)
    expected = certify(model, images, labels).radius
    assert torch.equal(certify(model, images, LABELS[form](labels)).radius, expected)


def test_one_number_is_the_label_of_one_image() -> None:
    model, image = prototypes(), pictures(1)
    label = model(image).argmax(1)
    expected = certify(model, image, label).radius
    for one in (int(label), label[0], np.int64(int(label)), label.numpy()[0]):
        assert torch.equal(certify(model, image, one).radius, expected)
    with pytest.raises(AbsynthError, match="2 images take whole numbers"):
        take_labels(3, 2)


@pytest.mark.parametrize(
    "kind", [torch.bool, torch.uint8, torch.int64, torch.int8, "bool", "uint16", "int32"]
)
def test_masks_are_taken(kind: Any) -> None:
    model, images = prototypes(), pictures().round()
    labels = model(images).argmax(1)
    mask = images.numpy().astype(kind) if isinstance(kind, str) else images.to(kind)
    expected = certify(model, images, labels).radius
    assert torch.equal(certify(model, mask, labels).radius, expected)
    result = fast("l2")(model, mask, labels)
    assert torch.equal(result.distances, distance(images, result.adversarials, "l2"))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (pictures().mul(255).byte(), "from 0 to 255; .*divide them by 255"),
        (pictures().mul(255).byte().numpy(), "uint8.*divide them by 255"),
        (255 * pictures(), r"value 255, .*divide them by 255"),
        (pictures().long() - 3, r"scale them to \[0, 1\]"),
        (2 * pictures() - 1, r"value -1, which is outside \[0, 1\]; scale"),
        (pictures().masked_fill(pictures() == 1, math.nan), "contain NaN"),
        (pictures().masked_fill(pictures() == 1, math.inf), "value inf"),
        (pictures() + 1e-5, "value 1.0000100135803223"),
        (pictures().double() + 2e-6, "value 1.000002,"),
        (pictures()[0, 0], r"\(6, 6\).*images\[None, None\]"),
        (pictures()[0], r"images\[None\] for one image"),
        (pictures()[:, 0], r"images\[:, None\]"),
        (pictures().flatten(1), r"images.reshape\(n, 1, height, width\)"),
        (pictures().flatten(), r"images.reshape\(n, 1, height, width\)"),
        (pictures()[None], r"\(1, 5, 1, 6, 6\); give \(batch, channel"),
        (torch.tensor(0.5), r"shape \(\); give \(batch, channel"),
        (pictures()[:0], "at least one image"),
        (pictures().numpy().astype(object), "The images are an array of objects; give a tensor"),
        ([[[[0.5], [0.5, 0.5]]]], "The images are rows of different lengths; give a tensor"),
        ([[[0.5]], [[0.5], [0.5]]], "The images are rows of different lengths; give a tensor"),
        (
            torch.nested.nested_tensor([pictures()[0, 0], pictures()[1, 0]], layout=torch.jagged),
            r"are a nested tensor; give images.to_padded_tensor\(0\)\.",
        ),
        (
            pictures().permute(0, 2, 3, 1),
            r"channels in the last place; .*images.permute\(0, 3, 1, 2\).contiguous\(\)\.",
        ),
        (pictures().permute(0, 2, 3, 1).numpy(), r"images.transpose\(0, 3, 1, 2\).copy\(\)\."),
        (pictures().repeat(1, 3, 1, 1).permute(0, 2, 3, 1), "channels in the last place"),
        (pictures().to(torch.complex64), "complex"),
        (pictures().to_sparse(), "to_dense"),
        (pictures().numpy().astype(str), "give a tensor, a NumPy array or a list of numbers"),
        (pictures().numpy().astype(object), "give a tensor, a NumPy array or a list of numbers"),
        ([torch.zeros(1, 2, 2), torch.zeros(1, 2, 3)], "different shapes"),
        ([[0.0, 1.0], [0.0]], "give a tensor, a NumPy array or a list of numbers"),
        (None, "NoneType"),
        ("digits.png", "give a tensor, a NumPy array or a list of numbers"),
    ],
)
def test_what_are_no_images_is_told_in_a_sentence_by_every_door(images: Any, sentence: str) -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    doors = (
        lambda: certify(prototypes(), images, labels),
        lambda: absynth.attack(prototypes(), images, labels, suite="quick"),
        lambda: take_images(images),
    )
    for door in doors:
        with pytest.raises(AbsynthError, match=sentence) as told:
            door()
        assert len(str(told.value)) < 250


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.zeros(5), r"type float32; they are whole numbers: give labels.long\(\)\."),
        (np.zeros(5), r"type float64; .* give np.asarray\(labels\).astype\(int\)\."),
        (torch.full((5,), 0.5), r"type float32; 5 images take whole numbers of shape \(5,\)"),
        (np.full(5, 2**64 - 1, dtype=np.uint64), r"Some labels are above 2\^63"),
        (np.full(5, math.nan), "whole numbers"),
        (nn.functional.one_hot(torch.arange(5)), r"labels.argmax\(1\) of one-hot rows"),
        (nn.functional.one_hot(torch.arange(5)).double().numpy(), r"labels.argmax\(1\) of one-hot rows"),
        (torch.zeros(5, 1).long(), r"labels.reshape\(-1\)"),
        (torch.zeros(4).long(), "5 images take"),
        ([0, 1], "5 images take"),
        (3, "5 images take"),
        (list("abcde"), "The labels are words; give a tensor, a NumPy array or a list of numbers"),
        (None, "NoneType"),
        ([0, 1, 2, 3, -1], r"\[-1, 3\]; the model has the classes 0 to 2"),
        ([0, 1, 2, 3, 0], r"\[0, 3\]; the model has the classes 0 to 2"),
    ],
)
def test_what_are_no_labels_is_told_in_a_sentence_by_every_door(labels: Any, sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        certify(prototypes(), pictures(), labels)
    with pytest.raises(AbsynthError, match=sentence):
        absynth.attack(prototypes(), pictures(), labels, suite="quick")


@given(st.tuples(*[st.integers(1, 9)] * 4))
def test_only_shapes_that_no_batch_of_images_has_are_taken_for_channel_last(shape: tuple[int, ...]) -> None:
    if shape[1] <= 4 and shape[3] > 1:
        assert not is_channel_last(shape)
        check_layout(shape)
    if shape[1] >= 5 and shape[2] >= 5 and shape[3] in (1, 3, 4):
        assert is_channel_last(shape)


@given(st.floats(-3 * ALLOWED, 3 * ALLOWED), st.booleans())
def test_a_value_is_clipped_if_and_only_if_it_is_outside_by_rounding(excess: float, light: bool) -> None:
    images = pictures().double()
    images[0, 0, 0, 0] = 1 + excess if light else -excess
    allowed = excess <= ALLOWED * (1 - 1e-9)
    if not allowed and excess < ALLOWED * (1 + 1e-9):
        return
    if not allowed:
        with pytest.raises(AbsynthError, match="outside"):
            take_images(images)
        return
    taken = take_images(images, torch.float64).seen
    assert taken[0, 0, 0, 0] == min(max(float(images[0, 0, 0, 0]), 0.0), 1.0)
    assert torch.equal(taken.flatten()[1:], images.flatten()[1:])


def test_coarse_types_round_by_more_and_are_clipped_by_more() -> None:
    for kind in (torch.float16, torch.bfloat16):
        above = torch.full((1, 1, 2, 2), 1 + torch.finfo(kind).eps, dtype=kind)
        assert torch.equal(take_images(above).seen, torch.ones(1, 1, 2, 2))
        with pytest.raises(AbsynthError, match="outside"):
            take_images(above.float() + 2 * torch.finfo(kind).eps)


SPELLINGS: dict[Norm, tuple[Any, ...]] = {
    "l2": ("l2", "L2", " l_2 ", "2", "2.0", 2, 2.0, np.float32(2), np.int8(2), torch.tensor(2)),
    "l1": ("l1", "L_1", "1", 1, 1.0, np.int64(1)),
    "linf": ("linf", "Linf", "LInf", "l_inf", "L_infinity", "inf", "l∞", np.inf, math.inf, torch.inf),
    "l0": ("l0", "L0", "0", 0, 0.0, np.uint8(0)),
}


@pytest.mark.parametrize("norm", NORMS)
def test_every_spelling_of_a_norm_is_known_everywhere(norm: Norm) -> None:
    model, images = prototypes(), pictures()
    labels = model(images).argmax(1)
    expected = certify(model, images, labels, norm).radius
    for spelling in SPELLINGS[norm]:
        assert parse_norm(spelling) == norm
        assert torch.equal(certify(model, images, labels, spelling).radius, expected)
        assert {one.norm for one in suite_attacks("quick", spelling)} == {norm}


@pytest.mark.parametrize(
    "name", ["l3", 3, -1, "-inf", math.nan, True, None, [2], "norm", b"l2", 1.5, "l", "l02", "02", "+2"]
)
def test_what_is_no_norm_is_told(name: Any) -> None:
    with pytest.raises(AbsynthError, match=r"There is no norm .*choose one of l2, l1, linf, l0"):
        parse_norm(name)


def test_what_is_masked_is_not_taken_for_a_value() -> None:
    hidden = np.zeros((2, 1, 3, 3), dtype=bool)
    assert torch.equal(
        take_images(np.ma.masked_array(hidden.astype(float), hidden)).seen, torch.zeros(2, 1, 3, 3)
    )
    hidden[1, 0, 2, 2] = True
    images = np.ma.masked_array(np.zeros((2, 1, 3, 3)), hidden)
    for some in (images, list(images)):
        with pytest.raises(AbsynthError, match=r"Some of the images are masked.*images.filled"):
            take_images(some)
    for labels in (np.ma.masked_array([0, 1], [False, True]), [0, np.ma.masked]):
        with pytest.raises(AbsynthError, match="Some of the labels are masked"):
            take_labels(labels, 2)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((1, 1, 3, 3)), r"are a ndarray; .*torch.from_numpy\(images\).float\(\)"),
        (torch.zeros(1, 1, 3, 3, dtype=torch.uint8), r"are uint8; .*images.float\(\) / 255"),
        (torch.zeros(1, 1, 3, 3, dtype=torch.bool), r"are bool; .*images.float\(\)\."),
        (torch.zeros(1, 1, 3, 3).half(), r"are float16 and the model computes in float32"),
    ],
)
def test_what_a_model_itself_cannot_be_called_with_is_told(images: Any, sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        check_type(images, torch.float32)


def test_tensors_without_values_are_told() -> None:
    with pytest.raises(AbsynthError, match="images are on the device 'meta'"):
        attack(prototypes(), torch.zeros(1, 1, SIDE, SIDE, device="meta"), [0])
    with pytest.raises(AbsynthError, match="labels are on the device 'meta'"):
        attack(prototypes(), torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1, dtype=torch.int64, device="meta"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3, device="meta"))
    with pytest.raises(AbsynthError, match="model is on the device 'meta'"):
        attack(network, torch.zeros(1, 1, SIDE, SIDE), [0])


def test_another_floating_type_is_taken_under_autocast() -> None:
    with torch.autocast("cpu"):
        check_type(torch.zeros(1, 1, 3, 3).bfloat16(), torch.float32)
        with pytest.raises(AbsynthError, match="are float32 and the model computes in float16"):
            check_type(torch.zeros(1, 1, 3, 3), torch.float16)


def proven(images: Any, labels: Tensor, norm: Norm, exact: bool = False) -> Certificate:
    return certify(prototypes(), images, labels, norm, exact=exact)


@settings(max_examples=3)
@given(st.integers(0, 2**32 - 1))
def test_a_certificate_of_float64_images_holds_around_them(seed: int) -> None:
    """What is proven around the rounded image follows around the given one only for a smaller ball."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    images[0, 0, 0, 0] = 1 + 0.9 * ALLOWED
    seen = images.float().clamp(0, 1)
    labels = prototypes()(seen).argmax(1)
    for norm in NORMS:
        plain, found = proven(seen, labels, norm, exact=True), proven(images, labels, norm, exact=True)
        if norm == "l0":
            assert torch.equal(found.radius, plain.radius)
            continue
        moved = distance(seen, images, norm)
        assert (found.radius < plain.radius - moved).all()
        assert (found.radius > plain.radius - moved - 1e-5).all()
        assert found.adversarials is not None and found.gap is not None
        apart = distance(found.adversarials.double(), images, norm)
        assert (apart <= found.radius + found.gap + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_law_holds_for_float64_images(norm: Norm) -> None:
    images = torch.rand(6, 1, SIDE, SIDE, dtype=torch.float64)
    model = prototypes()
    labels = model(images.float()).argmax(1)
    result = fast(norm)(model, images, labels)
    assert result.adversarials.dtype == torch.float64
    measured = distance(images, result.adversarials, norm)
    assert torch.equal(result.distances[result.success], measured[result.success])
    assert ((model(result.adversarials.float()).argmax(1) != labels) == result.success).all()
    assert (certify(model, images, labels, norm).radius <= result.distances).all()
    # what is not changed is what was given, so that L0 counts pixels
    assert result.success.any()
    assert (result.distances[result.success] < SIDE * SIDE).all() or norm != "l0"


def test_only_whole_numbers_of_0_and_1_are_a_mask() -> None:
    assert as_mask(np.array([[0, 1]], dtype=np.uint8)).dtype == bool
    for other in (np.zeros((2, 2), int), np.array([0.0, 1.0]), np.array([0, 1, 255]), np.array([], int)):
        assert as_mask(other) is other
