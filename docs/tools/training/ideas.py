"""Ideas for the training for certificates, each tried as one change to the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rounds import RAMP_SHARPNESS, RAMP_TARGET, learn_ramp
from study import PIXELS, SECOND_SEED, Record, Study, Table, clock, once
from variants import (
    BIAS_RATE,
    CANDIDATES,
    PEN,
    PRIOR_HIDDEN,
    PRIOR_RATE,
    PROTOTYPE_RATE,
    PRUNED_BY,
    Training,
    behind_clamp,
    clamped,
    free_prototypes,
    learned_biases,
    learned_encoders,
    learned_latents,
    learned_priors,
    pruned,
    recipe,
    rewrite,
    straight_distance,
    two_vaes,
    unchanged,
    with_noise,
)

from absynth.progress import Progress
from absynth.training.certified.learning import learn


@dataclass(frozen=True)
class Idea:
    """One change to the recipe.

    Attributes:
        difference: What is not as in the recipe, in a few words.
        train: How it is done.
        changes: To the settings.
        details: What else tells its record from one of other settings.
        seeds: Of the VAEs that it starts from.
        pixels: Whether its radii in L0 are measured too.
    """

    difference: str
    train: Training
    changes: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    pixels: bool = False


IDEAS: dict[str, Idea] = {
    "recipe": Idea("the recipe", recipe, pixels=True),
    "untrained": Idea("no rounds: the decoders of the VAEs", recipe, {"rounds": 0}),
    "no-copies": Idea(
        "images are never bent in the rounds, and give the only latents",
        partial(recipe, perturbation=unchanged),
        {"copies": 0},
    ),
    "pens": Idea(
        "images are written with thicker and thinner pens too, in the rounds",
        partial(recipe, perturbation=rewrite),
        details={"pen": PEN},
    ),
    "plain-distance": Idea(
        "the distance of the loss is that without the box",
        partial(recipe, learning=partial(learn, distance=straight_distance)),
    ),
    "ramp": Idea(
        "a loss that saturates in place of both hinges",
        partial(recipe, learning=learn_ramp),
        details={"target": RAMP_TARGET, "sharpness": RAMP_SHARPNESS},
    ),
    "target-1.8": Idea("a target of 1.8", recipe, {"target": 1.8}),
    "target-2.5": Idea("a target of 2.5", recipe, {"target": 2.5}),
    "latents": Idea("one codebook for all rounds, its latents learned too", learned_latents),
    "means": Idea(
        "the rounds draw the means of the posteriors, without noise",
        partial(with_noise, factor=0.0),
        details={"noise": 0.0},
    ),
    "noise-1.5": Idea(
        "the rounds draw with 1.5 times the noise", partial(with_noise, factor=1.5), details={"noise": 1.5}
    ),
    "encoders": Idea("the encoders, which make the latents, are learned too", learned_encoders),
    "free-prototypes": Idea(
        "prototypes learned themselves, without decoders", free_prototypes, {"learning_rate": PROTOTYPE_RATE}
    ),
    "biases": Idea(
        "a learned bias of each class on its offsets", learned_biases, details={"rate": BIAS_RATE}
    ),
    "prior": Idea(
        "a learned prior over each class's latents",
        learned_priors,
        details={"rate": PRIOR_RATE, "hidden": PRIOR_HIDDEN},
        pixels=True,
    ),
    "offsets-2": Idea("offsets twice as large", partial(recipe, factor=2.0), details={"factor": 2.0}),
    "two-vaes": Idea(
        "two VAEs a class, each with half of the prototypes",
        two_vaes,
        details={"seed": SECOND_SEED},
        seeds=(0, SECOND_SEED),
    ),
    "clamp": Idea(
        "a clamp put in front afterwards, values from 0.1 to 0.9", clamped, {"tail": 0.1}, pixels=True
    ),
    "clamp-offsets": Idea(
        "the clamp put in front, and offsets halved, afterwards",
        partial(clamped, factor=0.5),
        {"tail": 0.1},
        {"factor": 0.5},
    ),
    "clamp-rounds": Idea("the clamp, in front in the rounds too", behind_clamp, {"tail": 0.1}),
    "pixels": Idea("radii in L0 are asked for too", recipe, {"pixels_weight": 0.1}, pixels=True),
    "averaged": Idea(
        "the learning rate stays, and the weights are averaged over the second half of the rounds",
        recipe,
        {"averaged": 0.5},
        pixels=True,
    ),
    "averaged-pixels": Idea(
        "both: radii in L0 asked for, and weights averaged",
        recipe,
        {"averaged": 0.5, "pixels_weight": 0.1},
        pixels=True,
    ),
    "pruned": Idea(
        "the prototypes kept that win most often, out of 3.75 times as many",
        pruned,
        details={"candidates": CANDIDATES, "copies": PRUNED_BY},
    ),
}
"""By name, in the order of the table."""


def measure_idea(name: str, study: Study, records: Path, progress: Progress) -> Record:
    """The record of an idea, which is tried now unless it was before.

    Args:
        name: One of ``IDEAS``.
        study: The images, and how much of everything.
        records: Folder of the records.
        progress: Where to show the training and the measurements.
    """
    idea = IDEAS[name]
    settings = replace(study.settings, **idea.changes)

    def make() -> Record:
        for seed in idea.seeds:
            study.start(progress, seed)
        started = clock()
        outcome = idea.train(study, settings, progress)
        seconds = round(clock() - started, 1)
        model = settings.behind(Table(outcome.prototypes, outcome.offsets))
        figures = study.measure(model, progress)
        if idea.pixels:
            figures["pixels"] = study.measure_norm(model, "l0", PIXELS, progress)
        return {"seconds": seconds, "loss": outcome.history[-1] if outcome.history else None, **figures}

    described = study.describe(
        certified=asdict(settings),
        explaining=asdict(study.explaining),
        hidden=study.hidden,
        prototypes=study.prototypes,
        details=idea.details,
        **({"pixels": PIXELS} if idea.pixels else {}),
    )
    return once(records / f"{name}.json", described, make)
