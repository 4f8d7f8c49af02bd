"""What is no digit is taken off a picture, several digits are told, and pens become those of MNIST."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor

from absynth.data import center_digit, load_dataset
from absynth.data.digits import SeveralDigitsError, render_digit, render_number
from absynth.data.pens import skeleton
from absynth.data.pieces import part_digits
from absynth.inference.decision import decide_renderings
from absynth.zoo import load

COUNT = 20


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_dataset("mnist", "train")
    return images[:COUNT].clone(), labels[:COUNT].clone()


def page(image: Tensor) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("L", (200, 200), 255)
    ink = (255 * (1 - image[0])).byte().numpy()
    sheet.paste(Image.fromarray(ink).resize((160, 160), Image.Resampling.BICUBIC), (20, 20))
    return sheet, ImageDraw.Draw(sheet)


def nothing(draw: ImageDraw.ImageDraw) -> None:
    pass


def box(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((4, 4, 195, 195), outline=0, width=5)


def corner(draw: ImageDraw.ImageDraw) -> None:
    draw.line((0, 2, 199, 2), fill=0, width=6)
    draw.line((2, 0, 2, 199), fill=0, width=6)


def ruled(draw: ImageDraw.ImageDraw) -> None:
    for row in range(10, 200, 36):
        draw.line((0, row, 199, row), fill=150, width=2)


def squared(draw: ImageDraw.ImageDraw) -> None:
    ruled(draw)
    for column in range(10, 200, 36):
        draw.line((column, 0, column, 199), fill=150, width=2)


def neighbour(draw: ImageDraw.ImageDraw) -> None:
    draw.line([(0, 60), (12, 100), (0, 140)], fill=0, width=9)


@pytest.mark.parametrize("kind", [nothing, box, corner, ruled, squared, neighbour])
def test_clutter_changes_no_answer(
    kind: Callable[[ImageDraw.ImageDraw], None], digits: tuple[Tensor, Tensor]
) -> None:
    model = load("cnn")
    renderings = []
    for image in digits[0]:
        sheet, draw = page(image)
        kind(draw)
        renderings.append(render_digit(np.asarray(sheet, dtype=np.float32) / 255).renderings)
    decisions = decide_renderings(model, renderings)
    right = [one.label == int(label) for one, label in zip(decisions, digits[1], strict=True)]
    assert sum(right) >= COUNT - 1
    sure = [not one.abstained for one in decisions]
    assert sum(said and not good for good, said in zip(right, sure, strict=True)) <= 1


@pytest.mark.parametrize("width", [1, 3, 30])
@pytest.mark.parametrize("ink", [60, 235])
def test_a_pen_of_any_width_and_darkness_is_read(width: int, ink: int) -> None:
    sheet = Image.new("L", (1000, 1000), 255)
    ImageDraw.Draw(sheet).line([(300, 250), (700, 250), (420, 780)], fill=ink, width=width)
    image = center_digit(np.asarray(sheet, dtype=np.float32) / 255)
    (row,) = torch.where((image[0] > 0.5).sum(dim=1) > 8)[0][:1].tolist()
    assert row <= 8  # the bar at the top
    (decision,) = decide_renderings(load("cnn"), [image[None]])
    assert decision.label == 7


def pair(digits: tuple[Tensor, Tensor]) -> ndarray:
    both = np.hstack([1 - digits[0][1, 0].numpy(), 1 - digits[0][2, 0].numpy()])
    return np.kron(both, np.ones((8, 8), np.float32))


def test_two_digits_are_told_and_read_from_left_to_right(digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(SeveralDigitsError, match="shows 2 digits") as told:
        center_digit(pair(digits))
    assert told.value.count == 2
    number = render_number(pair(digits))
    decisions = decide_renderings(load("cnn"), [one.renderings for one in number])
    assert [one.label for one in decisions] == digits[1][1:3].tolist()


def test_a_five_whose_bar_is_apart_is_one_digit() -> None:
    mask = np.zeros((100, 80), dtype=bool)
    mask[10:18, 35:70] = True  # the bar
    mask[24:90, 15:23] = True
    mask[82:90, 15:60] = True
    assert len(part_digits(mask)) == 1
    mask[20:90, 70:78] = True  # a one beside it
    assert len(part_digits(mask)) == 2


def test_the_skeleton_of_a_bar_is_its_middle_line() -> None:
    mask = np.zeros((20, 60), dtype=bool)
    mask[6:13, 5:55] = True
    lines = skeleton(mask)
    assert (lines.sum(axis=0) <= 1).all()
    assert set(np.nonzero(lines[:, 15:45])[0].tolist()) == {9}
