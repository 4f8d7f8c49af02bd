"""``absynth train``: trains a model."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absynth.cli.options import ClusterOptions, Quiet, Seed, Strict, spell_out
from absynth.errors import AbsynthError

if TYPE_CHECKING:
    from absynth.data.domain import Domain
    from absynth.data.split import Validation


@spell_out
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="abs, codebook-abs, binary-abs, certified-abs, certified-binary-abs, cnn, binary-cnn, madry."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the finished model and its checkpoints.")],
    data: Annotated[str, typer.Option(help="A named data set, or a path to one.")] = "mnist",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training images; madry: at most.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam, at the start.")] = None,
    seed: Seed = 0,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the images in pixels, 16 to 64; by default as most of them are."),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            help="Share of each class to hold out; by default 0.1, of mnist a twelfth for a certified model "
            "and none for others."
        ),
    ] = None,
    strict: Strict = False,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="Shift, turn, scale or bend images a little; by default so, but for mnist.",
        ),
    ] = None,
    emphasis: Annotated[
        float | None, typer.Option(min=0, help="abs: weight of rare styles; 0 is the paper's plain mean.")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="abs: further rounds on the images at stake; codebook and certified models: rounds of "
            "training the decoders; 0 for none.",
        ),
    ] = None,
    prototypes: Annotated[
        int | None, typer.Option(min=1, help="Codebook and certified models: prototypes a class.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Codebook and certified models: the L2 radius beyond which a rival no longer matters."
        ),
    ] = None,
    start: Annotated[str | None, typer.Option(help="A trained abs to go on from.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The ABS that a codebook or binary one builds on; by default abs.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of this process.")] = None,
    engine: ClusterOptions = ClusterOptions(),
    quiet: Quiet = False,
) -> None:
    """Train a model; started again with the same --out it goes on where it was."""
    import torch

    from absynth.certified import HELD_OUT
    from absynth.cli.steps import open_engine_and_progress, show_remarks
    from absynth.data import read_dataset
    from absynth.data.split import Validation
    from absynth.evaluate.data import read_for
    from absynth.evaluate.vaes import fit_side_by_side
    from absynth.models.pretrained import read_config
    from absynth.recipes import VALIDATION_SHARE, read_validation, training_settings
    from absynth.recipes import train as run
    from absynth.zoo import model_folder

    derived = model in ("binary-abs", "codebook-abs")
    settings = None
    if model not in ("abs", *CERTIFIED_MODELS) and engine != ClusterOptions():
        raise AbsynthError(
            f"Only 'abs' and certified models train on a cluster; for '{model}' leave --engine and its "
            "options out."
        )
    _refuse_unused(
        model,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augment=augment,
        emphasis=emphasis,
        rounds=rounds,
        start=start,
    )
    if model not in ("codebook-abs", *CERTIFIED_MODELS) and (prototypes is not None or target is not None):
        raise AbsynthError(f"The recipe '{model}' takes no prototypes and no target; leave them out.")
    if threads is not None:
        torch.set_num_threads(threads)
    if derived:
        if size is not None or validation is not None:
            raise AbsynthError(
                f"The recipe '{model}' goes by its base; leave the size and the validation out."
            )
        dataset = read_for([base or "abs"], data, "train", strict=strict)
        held_out = read_validation(model_folder(base or "abs"))
    else:
        if base is not None:
            raise AbsynthError(f"The recipe '{model}' builds on no other model; leave the base out.")
        if model not in CERTIFIED_MODELS:
            settings = training_settings(model, epochs, batch_size, learning_rate, seed, emphasis, rounds)
        dataset = read_dataset(data, "train", size=None if size is None else (size, size), strict=strict)
        of_digits = HELD_OUT if model in CERTIFIED_MODELS else 0.0
        usual = of_digits if dataset.digits else VALIDATION_SHARE
        held_out = Validation(usual if validation is None else validation, seed)
    show_remarks(dataset.remarks)
    images, labels = dataset.images, dataset.labels
    command = shlex.join(["absynth", *sys.argv[1:]])
    with open_engine_and_progress(engine, quiet=quiet) as (opened, progress):
        side_by_side = {} if engine.engine == "local" else {"fit_vaes": partial(fit_side_by_side, opened)}
        if settings is None:
            train_model = _derivation(
                model,
                base or "abs",
                prototypes,
                held_out,
                seed=seed,
                epochs=epochs,
                rounds=rounds,
                batch_size=batch_size,
                learning_rate=learning_rate,
                target=target,
                domain=dataset.domain,
            )
            train_model(images, labels, out=out, command=command, progress=progress, **side_by_side)
        else:
            run(
                model,
                images,
                labels,
                settings,
                out=out,
                command=command,
                progress=progress,
                augmented=not dataset.digits if augment is None else augment,
                start=None if start is None else model_folder(start),
                domain=dataset.domain,
                validation=held_out,
                **side_by_side,
            )
    if found := read_config(out)["training"].get("validation"):
        print(f"validation accuracy {found['accuracy']:.1%} ({found['images']} images held out)")
    print(out)


CERTIFIED_MODELS = ("certified-abs", "certified-binary-abs")
"""The recipes that train for certificates from nothing."""

OF_VAES = ("augment", "emphasis", "start")
UNUSED = {
    "binary-abs": ("epochs", "batch_size", "learning_rate", "rounds", *OF_VAES),
    "codebook-abs": ("epochs", *OF_VAES),
    "certified-abs": OF_VAES,
    "certified-binary-abs": OF_VAES,
}
"""Options of ``train`` that a recipe has no use for."""


def _refuse_unused(model: str, **options: object) -> None:
    """Sees that nothing was asked for that a recipe would not do."""
    for name in UNUSED.get(model, ()):
        if options[name] is not None:
            raise AbsynthError(
                f"The recipe '{model}' has no use for --{name.replace('_', '-')}; leave it out."
            )


def _derivation(
    model: str,
    base: str,
    prototypes: int | None,
    validation: Validation,
    *,
    seed: int,
    epochs: int | None,
    rounds: int | None,
    domain: Domain | None,
    **changes: float | None,
) -> Callable[..., object]:
    """The recipe of a model with a codebook or a threshold; it takes the images, their labels and ``out``."""
    from absynth.certified import (
        CERTIFIED,
        CERTIFIED_BINARY,
        CERTIFIED_BINARY_PROTOTYPES,
        CERTIFIED_PROTOTYPES,
        DECIDING,
        EXPLAINING,
        EXPLAINING_BINARY,
        choose_settings,
        choose_stages,
        train_certified_abs,
        train_codebook_abs,
    )
    from absynth.recipes import train_binary_abs
    from absynth.zoo import load, model_folder

    if model == "binary-abs":
        return partial(train_binary_abs, load(base), seed=seed, validation=validation)
    if model == "codebook-abs":
        settings = choose_settings(DECIDING, seed=seed, rounds=rounds, **changes)
        derive = partial(train_codebook_abs, model_folder(base), settings=settings)
        return partial(derive, prototypes=prototypes, validation=validation)
    explaining, stages, usual = (
        (EXPLAINING, CERTIFIED, CERTIFIED_PROTOTYPES)
        if model == "certified-abs"
        else (EXPLAINING_BINARY, CERTIFIED_BINARY, CERTIFIED_BINARY_PROTOTYPES)
    )
    if epochs is not None:
        explaining = replace(explaining, epochs=epochs, least_steps=0)
    return partial(
        train_certified_abs,
        explaining=explaining,
        stages=choose_stages(stages, rounds, seed=seed, **changes),
        prototypes=prototypes or usual,
        domain=domain,
        validation=validation,
    )
