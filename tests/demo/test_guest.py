"""A user's model beside ours: what is proven of it, what isn't, and that nobody waits for it."""

from __future__ import annotations

import re
import time
from threading import Event
from typing import Any

import pytest
import torch
from torch import nn

import absynth
from absynth.demo import guest as module
from absynth.demo.examiner import Examiner
from absynth.demo.guest import Guest
from absynth.demo.loading import load_examiner
from absynth.errors import AbsynthError
from absynth.models.front import Clamped

IMAGE = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def linear(classes: int = 10) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, classes)).eval()


def figures(html: str) -> list[str]:
    return re.findall(r'class="radius">(\S+)', html)


def test_the_proofs_are_those_of_the_library_and_come_one_by_one() -> None:
    guest = Guest("<mine>", linear(), IMAGE)
    shown = list(guest.prove(IMAGE))
    assert [html.count("being proven") for html in shown] == [4, 3, 2, 1, 0]
    label = linear()(IMAGE).argmax(1)
    assert all("&lt;mine&gt;" in html and f"It says <b>{int(label)}, " in html for html in shown)
    assert "by the method crown" in shown[-1]
    for norm, figure in zip(("l0", "linf", "l1", "l2"), figures(shown[-1]), strict=True):
        radius = float(absynth.certify(linear(), IMAGE, label, norm).radius)
        assert 0 <= radius - float(figure) < {"linf": 0.001, "l0": 1}.get(norm, 0.01)
        state = "proven" if float(figure) else "not-proven"
        assert f'<section class="{norm} {state}">' in shown[-1]
    assert ">proven</small>" in shown[-1]


def test_what_takes_too_long_is_not_proven_and_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, asked = Event(), []

    class Slow:
        def __init__(self, _: object) -> None:
            pass

        def certify(self, image: torch.Tensor, label: torch.Tensor, norm: str) -> Any:
            asked.append(norm)
            waiting.wait(30)
            raise AbsynthError("This was waited for.")

    monkeypatch.setattr(module, "Certifier", Slow)
    monkeypatch.setattr(module, "LOOKS", 0.01)
    guest = Guest("mine", linear(), IMAGE, seconds=0.05)
    started = time.monotonic()
    *_, last = guest.prove(IMAGE)
    assert time.monotonic() - started < 10
    assert last.count("Not proven: it takes longer than 0.05 seconds.") == 4
    # of two images that are asked about, the earlier one ends without a word once the later one begins
    guest.seconds = 30.0
    earlier, later = guest.prove(IMAGE), guest.prove(IMAGE)
    assert "being proven" in next(earlier)
    assert "being proven" in next(later)
    assert list(earlier) == []
    waiting.set()
    *_, last = later
    assert last.count("Not proven: This was waited for.") == 4
    assert asked == ["l0", "l0", "linf", "l1", "l2"]


def test_what_cannot_be_bounded_is_told() -> None:
    class Sorting(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).sort(dim=1).values[:, :10]

    *_, last = Guest("mine", Sorting(), IMAGE).prove(IMAGE)
    assert "No method has proofs for it" in last
    assert last.count("Not proven: ") == 4
    assert "..." not in last


def test_other_classes_are_refused() -> None:
    with pytest.raises(AbsynthError, match="'mine' tells 7 classes apart, and the models of the demo 10"):
        Guest("mine", linear(7), IMAGE)


def test_the_page_opens_with_an_example_that_has_all_answers(examiner: Examiner) -> None:
    guest = Guest("mine", linear(), examiner.images[:1])
    own = Examiner(
        examiner.abs_model,
        Clamped(examiner.codebook).eval(),
        examiner.cnn,
        examiner.images,
        examiner.labels,
        guest=guest,
    )
    example = own.example
    assert "test image 0" in example.message
    assert "labelled 7" in example.answer.verdict
    assert example.proof.certificates.count("being proven") == 0
    assert "mine" in example.guest
    # behind the clamp, too, the change flips what was certified, outside of what is proven
    change = example.proof.change
    assert change is not None
    assert int(own.codebook(change.adversarial).argmax(1)) != int(change.subject.codebook_label)
    radius = absynth.certify(own.codebook, change.subject.image, change.subject.codebook_label, "l2").radius
    assert float(radius) <= float((change.adversarial - change.subject.image).double().norm())
    assert list(examiner.prove_guest(change.subject)) == list(own.prove_guest(None)) == [""]


def test_data_are_for_an_abs() -> None:
    with pytest.raises(AbsynthError, match=r"'cnn' is no ABS and no codebook ABS.*leave --data out"):
        load_examiner("cnn", "mnist")
