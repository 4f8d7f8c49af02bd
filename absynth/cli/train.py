"""``absynth train``: trains a model."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import ClusterOptions, Quiet, Seed, Strict, spell_out


@spell_out
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="abs, codebook-abs, binary-abs, certified-abs, certified-binary-abs, cnn, binary-cnn, "
            "madry, interval-cnn, smoothed-cnn, learned-prototypes."
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
            help="Share of each class to hold out; by default 0.1, of mnist a twelfth for a certified model, "
            "a sixtieth for interval-cnn, smoothed-cnn and learned-prototypes, and none for others."
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
        int | None,
        typer.Option(min=1, help="Codebook and certified models, learned-prototypes: prototypes a class."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Codebook and certified models, learned-prototypes: the L2 radius beyond which a rival no "
            "longer matters."
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="smoothed-cnn: standard deviation of the noise; by default 0.5."),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="interval-cnn: the Linf radius to train for; by default 0.35, for proofs at 0.3."),
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

    from absynth.cli.steps import open_engine_and_progress, read_data, show_remarks
    from absynth.data import read_dataset
    from absynth.files import check_folder
    from absynth.models.pretrained import read_config
    from absynth.training.recipes import Assignment, Options, find_recipe
    from absynth.training.side_by_side import fit_side_by_side
    from absynth.training.vaes import fit_in_turn

    recipe = find_recipe(model)
    options = Options(
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augment=augment,
        emphasis=emphasis,
        rounds=rounds,
        start=start,
        prototypes=prototypes,
        target=target,
        size=size,
        validation=validation,
        base=base,
        sigma=sigma,
        epsilon=epsilon,
        engine=None if engine == ClusterOptions() else engine.engine,
    )
    train_model = recipe.plan(options)
    check_folder(out)
    if threads is not None:
        torch.set_num_threads(threads)
    if built_on := recipe.base_of(options):
        dataset = read_data(built_on, data, "train", strict=strict)
    else:
        dataset = read_dataset(data, "train", size=None if size is None else (size, size), strict=strict)
        show_remarks(dataset.remarks)
    held_out = recipe.validation(options, digits=dataset.digits)
    with open_engine_and_progress(engine, quiet=quiet) as (opened, progress):
        train_model(
            Assignment(
                dataset.images,
                dataset.labels,
                out,
                shlex.join(["absynth", *sys.argv[1:]]),
                progress,
                domain=dataset.domain,
                validation=held_out,
                augmented=not dataset.digits if augment is None else augment,
                fit_vaes=fit_in_turn if engine.engine == "local" else partial(fit_side_by_side, opened),
            )
        )
    if found := read_config(out)["training"].get("validation"):
        print(f"validation accuracy {found['accuracy']:.1%} ({found['images']} images held out)")
    print(out)
