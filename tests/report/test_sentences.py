"""What is said in words is no more than what is proven."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absynth.inference.decision import Decision
from absynth.norms import Norm
from absynth.report.sentences import (
    describe_adversarial,
    describe_decision,
    describe_radius,
    describe_rule,
    format_confidence,
    round_radius,
)

SURE = Decision(7, 0.98, 9, 0.002, abstained=False)
NONE = Decision(5, 0.1001, 6, 0.0999, abstained=True)


@given(st.floats(0, 1000), st.sampled_from(get_args(Norm)))
def test_a_radius_is_never_rounded_up(radius: float, norm: Norm) -> None:
    written = round_radius(radius, norm)
    assert written <= Decimal(radius)
    assert Decimal(radius) - written < Decimal({"linf": "0.001", "l0": "1"}.get(norm, "0.01"))


@pytest.mark.parametrize(
    ("radius", "norm", "words"),
    [
        (13.0, "l0", "No change to 13 pixels, whichever, can flip this."),
        (1.0, "l0", "No change to 1 pixel, whichever, can flip this."),
        (0.0, "l0", "a single pixel might"),
        (0.2429, "linf", "up to 24.2% of full brightness"),
        (14.555, "l1", "add up to 14.55 or less"),
        (2.5376, "l2", "No change of length 2.53 or less"),
        (0.0099, "l2", "Next to nothing is proven"),
        (0.0, "linf", "Next to nothing is proven"),
    ],
)
def test_a_radius_in_words(radius: float, norm: Norm, words: str) -> None:
    assert words in describe_radius(radius, norm)


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(0.1, "10%"), (0.9827, "98%"), (0.995, "99.5%"), (0.9985, "99.9%"), (1.0, "over 99.9%")],
)
def test_confidence_is_never_certainty(confidence: float, text: str) -> None:
    assert format_confidence(confidence) == text


def test_the_rule_says_whether_codebook_and_abs_agree() -> None:
    assert "It says 7, like ABS" in describe_rule(7, SURE)
    assert "it says 4 where ABS says 7" in describe_rule(4, SURE)
    assert "here 5, while ABS sees none" in describe_rule(5, NONE)


def test_what_was_found_stands_beside_what_is_proven() -> None:
    sentence = describe_adversarial(2.5523, 2.5519, "7", "9")
    assert "from 7 to 9" in sentence
    assert "length 2.553" in sentence
    assert "up to 2.551 it is proven" in sentence


def test_a_decision_in_words() -> None:
    assert describe_decision(SURE) == "7, 98% sure"
    assert describe_decision(NONE) == "not a digit (if it must be one: 5)"
