"""The parts of the demo's page hold what they are about, and nothing that a user wrote is taken for HTML."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from absynth.demo.examiner import Examiner
from absynth.demo.fragments import (
    adversarial_step,
    certificates,
    colour_change,
    image_tag,
    notice,
    reconstructions,
    smallest_change,
    verdict,
)
from absynth.inference.decision import Decision, decisions

SURE = Decision(7, 0.98, 9, 0.002, abstained=False)
NONE = Decision(5, 0.1001, 6, 0.0999, abstained=True)
IMAGE = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Tags(HTMLParser):
    """Counts what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def well_formed(html: str) -> str:
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    return html


def pixels(tag: str) -> np.ndarray:
    data = re.search(r'base64,([^"]+)"', tag)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_an_image_is_within_the_page() -> None:
    tag = image_tag(IMAGE[0, 0].numpy(), 'a "6"')
    assert np.array_equal(pixels(tag), (255 * IMAGE[0, 0]).round().numpy())
    assert 'alt="a &quot;6&quot;"' in tag


def test_a_change_is_orange_where_it_brightens_and_white_where_it_is_nothing() -> None:
    colours = colour_change(torch.tensor([[0.5, -0.25, 0.0]]))
    red, _, blue = colours[0, 0]
    assert red > blue
    assert colours[0, 1, 2] > colours[0, 1, 1]
    assert colours[0, 2].tolist() == [1, 1, 1]
    assert colour_change(torch.zeros(2, 2)).min() == 1


def test_a_notice_is_text() -> None:
    assert "&lt;b&gt;" in well_formed(notice("<b>bold</b>", "error"))


@pytest.mark.parametrize(
    ("decision", "words"), [(SURE, '<p class="digit">7</p>'), (NONE, "Not a digit")], ids=["digit", "none"]
)
def test_the_verdict_names_the_digit_or_says_that_there_is_none(decision: Decision, words: str) -> None:
    html = well_formed(verdict(IMAGE, decision, SURE, truth=3))
    assert words in html
    assert "labelled 3" in html
    assert "labelled" not in verdict(IMAGE, decision, SURE)


def test_every_class_has_its_reconstruction_and_loss(examiner: Examiner) -> None:
    synthesis = examiner.abs_model.infer(IMAGE)
    (decision,) = decisions(synthesis.logits, synthesis.probabilities)
    html = well_formed(reconstructions(synthesis, decision))
    assert html.count("<img") == 10
    for loss in synthesis.losses[0].tolist():
        assert f": {loss:.1f}</figcaption>" in html
    assert f"<b>{decision.label}</b>" in html.split("tile best")[1].split("</figure>")[0]


def test_radii_that_are_not_there_yet_are_under_way() -> None:
    html = well_formed(certificates({"l0": 13.0, "linf": 0.2429}, "About <it>."))
    assert "13 px" in html
    assert "0.242" in html
    assert html.count("being proven") == 2
    assert "About &lt;it&gt;." in html


def test_a_step_says_who_sees_what() -> None:
    changed = IMAGE.clone()
    changed[..., 3, 3] = 0
    html = well_formed(adversarial_step(IMAGE, changed, (7, 9), SURE, NONE, 1.234))
    assert "9, flipped from 7" in html
    assert "changed by 1.23" in html
    assert "7, as before" in adversarial_step(IMAGE, IMAGE, (7, 7), SURE, SURE, 0.0)


def test_the_smallest_change_has_a_heading() -> None:
    assert "<p>1 &lt; 2 " in well_formed(smallest_change("1 < 2"))
