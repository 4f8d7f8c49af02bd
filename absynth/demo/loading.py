"""Models and test images behind the page: the shipped ones, or a user's own."""

from __future__ import annotations

from torch import nn

from absynth.data import load_dataset
from absynth.demo.examiner import Examiner
from absynth.demo.guest import Guest
from absynth.errors import AbsynthError
from absynth.evaluate.data import choose_data, read_for
from absynth.evaluate.models import load_classifier
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.inference.latent import FAST
from absynth.zoo import load


def load_examiner(model: str | None = None, data: str | None = None) -> Examiner:
    """Models and test images, with the example of the page answered: the first question is the slowest.

    Args:
        model: An ABS or a codebook ABS, which answers alone; or any other classifier of digits, a name, a
            folder or my_file.py:make, which is shown beside the shipped models. By default these alone.
        data: Data of an ABS, of which the test split is shown.

    Raises:
        AbsynthError: If there is no such model, it is not for digits, or the data cannot be read.
    """
    examiner = _shipped_examiner() if model is None else _examiner_of(model, data)
    assert examiner.example.answer.subject is not None
    return examiner


def _shipped_examiner(guest: tuple[str, nn.Module] | None = None) -> Examiner:
    abs_model = load("abs")
    assert isinstance(abs_model, ABS)
    images, labels = load_dataset("mnist", "test")
    visitor = None if guest is None else Guest(*guest, images[:1])
    return Examiner(abs_model, load("certified-abs"), load("cnn"), images, labels, guest=visitor)


def _examiner_of(name: str, data: str | None) -> Examiner:
    chosen = choose_data([name], data)
    model = load_classifier(name)
    if isinstance(model, ABS | CodebookABS):
        return _own_examiner(name, model, chosen)
    if data is not None:
        raise AbsynthError(
            f"'{name}' is no ABS and no codebook ABS, so the demo shows it beside the shipped models, on "
            "their digits; leave --data out."
        )
    return _shipped_examiner((name, model))


def _own_examiner(name: str, model: ABS | CodebookABS, data: str) -> Examiner:
    domain = model.domain
    dataset = read_for([name], data, "test")
    if isinstance(model, CodebookABS):
        model = ABS(model, FAST)
        model.prepare()
    # The codebook that the search starts from is a classifier of its own, and one that can be certified.
    return Examiner(model.eval(), model.codebook, None, dataset.images, dataset.labels, domain)
