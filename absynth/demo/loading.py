"""Models and test images behind the page: the shipped ones, or a user's own."""

from __future__ import annotations

from absynth.data import load_dataset
from absynth.demo.examiner import Examiner
from absynth.errors import AbsynthError
from absynth.evaluate.data import choose_data, read_for
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.inference.latent import FAST
from absynth.zoo import load


def load_examiner(model: str | None = None, data: str | None = None) -> Examiner:
    """Models and test images, warmed up: the first question is the slowest.

    Args:
        model: Folder of an ABS or a codebook ABS, which answers alone; by default the shipped models.
        data: Its data, of which the test split is shown.

    Raises:
        AbsynthError: If the model is of another kind, or the data cannot be read.
    """
    examiner = _shipped_examiner() if model is None else _own_examiner(model, choose_data([model], data))
    for _ in examiner.prove(examiner.choose(0).subject):
        pass
    return examiner


def _shipped_examiner() -> Examiner:
    abs_model, codebook = load("abs"), load("codebook-abs")
    assert isinstance(abs_model, ABS)
    assert isinstance(codebook, CodebookABS)
    return Examiner(abs_model, codebook, load("cnn"), *load_dataset("mnist", "test"))


def _own_examiner(name: str, data: str) -> Examiner:
    model = load(name)
    domain = model.domain
    dataset = read_for([name], data, "test")
    if isinstance(model, CodebookABS):
        model = ABS(model, FAST)
        model.prepare()
    if not isinstance(model, ABS):
        raise AbsynthError(f"'{name}' is a {model.type_name}; the demo needs an ABS or a codebook ABS.")
    # The codebook that the search starts from is a classifier of its own, and one that can be certified.
    return Examiner(model.eval(), model.codebook, None, dataset.images, dataset.labels, domain)
