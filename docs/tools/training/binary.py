"""Ideas for the training behind a threshold, each tried as one change to its second stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rounds import Decoded
from study import PIXELS, Record, Study, Table, clock, once
from variants import PEN, PROTOTYPE_RATE, Outcome, learn_table, rewrite, rounds

from absynth.models.vae import Decoder
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.training.augmentation import Perturbation, distort
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.recipes.certified_binary_abs import STAGES as CERTIFIED_BINARY

SMALL_BINARY = replace(CERTIFIED_BINARY[-1], rounds=20, images=4000, compared=4000)
"""The second stage that every idea is tried with."""

REACHES = (0.1, 0.2, 0.3)
"""The sizes in Linf that the certified accuracy is measured at."""

BINARY_SIZES: dict[Norm, tuple[float, ...]] = {"linf": REACHES, "l0": PIXELS}
"""What is measured, by norm."""


@dataclass
class Grey:
    """The decoders that the second stage starts from: of VAEs, trained on in rounds of grey images.

    Attributes:
        study: The images, and how many rounds.
        decoders: As they were trained when they were first asked for.
    """

    study: Study
    decoders: Sequence[Decoder] = ()

    def copies(self, progress: Progress) -> Sequence[Decoder]:
        """Copies of them, to be trained."""
        if not self.decoders:
            start = self.study.start(progress)
            decoders = start.decoders()
            book = Decoded(decoders, self.study.classes)
            rounds(self.study, self.study.settings, progress, book, [start])
            self.decoders = decoders
        return deepcopy(self.decoders)


Behind = Callable[[Grey, CertifiedSettings, Progress], Outcome]
"""A second stage, after rounds of grey images."""


def recipe(
    grey: Grey,
    settings: CertifiedSettings,
    progress: Progress,
    *,
    after_grey: bool = True,
    perturbation: Perturbation = distort,
) -> Outcome:
    """The second stage of the recipe, or one that differs in what can be handed to it."""
    study = grey.study
    start = study.start(progress)
    book = Decoded(grey.copies(progress) if after_grey else start.decoders(), study.classes)
    history = rounds(study, settings, progress, book, [start], perturbation=perturbation)
    return Outcome(*book.table(study.latents(start.posterior)), history)


def straight(grey: Grey, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The decoders of the VAEs, without rounds of grey images; as many rounds together."""
    settings = replace(settings, rounds=settings.rounds + grey.study.settings.rounds)
    return recipe(grey, settings, progress, after_grey=False)


def pens(grey: Grey, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The recipe, of images that are written with thicker and thinner pens too."""
    return recipe(grey, settings, progress, perturbation=rewrite)


def rounded(grey: Grey, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The recipe, whose prototypes are then black and white like the images that they are compared with."""
    made = recipe(grey, settings, progress)
    return replace(made, prototypes=made.prototypes.round())


def free(grey: Grey, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The prototypes that grey decoders make are learned themselves, and the decoders are gone."""
    study = grey.study
    start = study.start(progress)
    book = Decoded(grey.copies(progress), study.classes)
    return learn_table(study, book.table(study.latents(start.posterior)), settings, progress)


@dataclass(frozen=True)
class BinaryIdea:
    """One change to the second stage.

    Attributes:
        difference: What is not as in the recipe, in a few words.
        train: How it is done.
        changes: To the settings.
        details: What else tells its record from one of other settings.
    """

    difference: str
    train: Behind = recipe
    changes: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


BINARY_IDEAS: dict[str, BinaryIdea] = {
    "recipe": BinaryIdea("the recipe"),
    "grey": BinaryIdea("no second stage: the decoders of the grey rounds", changes={"rounds": 0}),
    "straight": BinaryIdea("no grey rounds: as many more behind the threshold", straight),
    "all-pairs": BinaryIdea(
        "all pairs count in L0, those that are lost anyway too", changes={"pixels_hopeless": 0.0}
    ),
    "more-pixels": BinaryIdea("a target of 20 pixels", changes={"pixels": 20.0}),
    "no-reach": BinaryIdea("Linf is not asked for", changes={"reach_weight": 0.0}),
    "no-pixels": BinaryIdea(
        "L0 is not asked for, L2 as in the grey rounds", changes={"pixels_weight": 0.0, "target_weight": 0.6}
    ),
    "pens": BinaryIdea("images are written with thicker and thinner pens too", pens, details={"pen": PEN}),
    "offsets": BinaryIdea("offsets half as large, afterwards", changes={"prior_weight": 0.425}),
    "rounded": BinaryIdea("prototypes made black and white, afterwards", rounded),
    "free": BinaryIdea(
        "prototypes learned themselves, without decoders", free, {"learning_rate": PROTOTYPE_RATE}
    ),
}
"""By name, in the order of the table."""


def measure_binary(name: str, grey: Grey, records: Path, progress: Progress) -> Record:
    """The record of an idea, which is tried now unless it was before.

    Args:
        name: One of ``BINARY_IDEAS``.
        grey: What the second stage starts from.
        records: Folder of the records.
        progress: Where to show the training and the measurements.
    """
    idea, study = BINARY_IDEAS[name], grey.study
    settings = replace(SMALL_BINARY, **idea.changes)

    def make() -> Record:
        grey.copies(progress)
        started = clock()
        outcome = idea.train(grey, settings, progress)
        seconds = round(clock() - started, 1)
        model = settings.behind(Table(outcome.prototypes, settings.prior_weight * outcome.offsets))
        return {
            "seconds": seconds,
            "loss": outcome.history[-1] if outcome.history else None,
            **study.measure_clean(model, progress),
            "certified": {
                "images": len(study.certified),
                **{
                    norm: study.measure_norm(model, norm, sizes, progress)
                    for norm, sizes in BINARY_SIZES.items()
                },
            },
        }

    described = study.describe(
        grey=asdict(study.settings),
        certified=asdict(settings),
        explaining=asdict(study.explaining),
        hidden=study.hidden,
        prototypes=study.prototypes,
        sizes=BINARY_SIZES,
        details=idea.details,
    )
    return once(records / f"{name}.json", described, make)
