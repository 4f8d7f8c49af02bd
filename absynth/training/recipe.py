"""What recipes have in common, and what can be asked of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace

from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.training.assignment import Train
from absynth.training.finishing import read_validation
from absynth.training.settings import TrainingSettings
from absynth.zoo import model_folder

VALIDATION_SHARE = 0.1
"""Of the training images that is held out unless something else is asked for; of MNIST's a recipe says it."""


@dataclass(frozen=True)
class Options:
    """What is asked of a recipe, beside its seed; None leaves it as the recipe has it.

    Attributes:
        seed: Of every random draw.
        epochs: Passes over the training images; they are kept to, however few steps they make.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start.
        augment: Whether to change the images a little.
        emphasis: Weight of rare styles.
        rounds: Further ones of an ABS, or those of training the decoders of a codebook.
        start: A trained ABS to go on from, by its name or its folder.
        prototypes: Of a class.
        target: The L2 radius beyond which a rival no longer matters.
        size: Side of the images in pixels.
        validation: Share of each class to hold out.
        base: The model to build on, by its name or its folder.
        engine: What trains VAEs side by side.
        sigma: Standard deviation of the noise to train with, in units of the pixels.
        epsilon: The Linf radius to train for, in units of the pixels.
    """

    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    augment: bool | None = None
    emphasis: float | None = None
    rounds: int | None = None
    start: str | None = None
    prototypes: int | None = None
    target: float | None = None
    size: int | None = None
    validation: float | None = None
    base: str | None = None
    engine: str | None = None
    sigma: float | None = None
    epsilon: float | None = None


NO_PROTOTYPES = "The recipe '{name}' takes no prototypes and no target; leave them out."
BY_ITS_BASE = "The recipe '{name}' goes by its base; leave the size and the validation out."
NO_VAES = "The recipe '{name}' trains no VAEs; leave the emphasis and the rounds out."

REASONS = {
    "prototypes": NO_PROTOTYPES,
    "target": NO_PROTOTYPES,
    "size": BY_ITS_BASE,
    "validation": BY_ITS_BASE,
    "base": "The recipe '{name}' builds on no other model; leave the base out.",
    "sigma": "The recipe '{name}' trains without noise; leave the sigma out.",
    "epsilon": "The recipe '{name}' trains for no Linf radius that can be chosen; leave the epsilon out.",
    "engine": "Only 'abs' and certified models train on a cluster; for '{name}' leave --engine and its "
    "options out.",
}
"""Why recipes do not take an option; for others than these it is just of no use."""

REASONS_OF_NETWORKS = {
    "emphasis": NO_VAES,
    "rounds": NO_VAES,
    "start": "The recipe '{name}' always starts from nothing; leave the start out.",
}
"""The same for recipes of plain networks."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, from images to a saved folder.

    Attributes:
        name: Of the recipe, and of the model that ships with the package.
        prepare: Chooses the settings by what is asked for, and returns what trains with them.
        takes: Names of the :class:`Options` that it has a use for, beside the seed.
        reasons: Sentences on why it does not take others.
        base: The model that it builds on unless another is asked for; None if it builds on none.
        held_out: Share of MNIST's training images that is held out unless something else is asked for.
    """

    name: str
    prepare: Callable[[Options], Train]
    takes: Collection[str]
    reasons: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    held_out: float = 0.0

    def plan(self, options: Options) -> Train:
        """What trains the model as it is asked for.

        Args:
            options: What is asked for.

        Raises:
            AbsynthError: If the recipe has no use for an option that is given, or a number makes no sense.
        """
        reasons = {**REASONS, **self.reasons}
        for option in fields(options):
            name = option.name
            if name == "seed" or name in self.takes or getattr(options, name) is None:
                continue
            useless = f"The recipe '{{name}}' has no use for --{name.replace('_', '-')}; leave it out."
            raise AbsynthError(reasons.get(name, useless).format(name=self.name))
        return self.prepare(options)

    def base_of(self, options: Options) -> str | None:
        """The model that is built on; None if the recipe builds on none."""
        return None if self.base is None else options.base or self.base

    def validation(self, options: Options, *, digits: bool) -> Validation:
        """Which images to hold out: those that were when the base was trained, or a share of each class.

        Args:
            options: What is asked for.
            digits: Whether the images are MNIST's.

        Raises:
            AbsynthError: If there is no such base or share.
        """
        base = self.base_of(options)
        if base is not None:
            return read_validation(model_folder(base))
        usual = self.held_out if digits else VALIDATION_SHARE
        return Validation(usual if options.validation is None else options.validation, options.seed)


def choose_training(usual: TrainingSettings, options: Options) -> TrainingSettings:
    """Settings of a training with those replaced that are asked for.

    Args:
        usual: What they are otherwise.
        options: What is asked for.

    Raises:
        AbsynthError: If a setting makes no sense.
    """
    given = {
        "epochs": options.epochs,
        "least_steps": None if options.epochs is None else 0,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "emphasis": options.emphasis,
        "rounds": options.rounds,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(usual, seed=options.seed, **chosen)  # type: ignore[arg-type]
