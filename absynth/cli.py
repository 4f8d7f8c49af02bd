"""The command line: reads arguments, calls the library, prints; heavy imports wait for their command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from absynth.errors import AbsynthError, FailedTasksError

if TYPE_CHECKING:
    from absynth.data.domain import Domain
    from absynth.data.split import Validation

app = typer.Typer(
    name="absynth",
    help="Robust, provably robust image classification by analysis by synthesis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Get data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Model = Annotated[
    str, typer.Option(help="A model's name, a folder written by save_pretrained, or user/name on the Hub.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Data = Annotated[
    str | None,
    typer.Option(help="A named data set, or a path to one; by default mnist, if the model is for it."),
]
Strict = Annotated[bool, typer.Option("--strict", help="A picture that cannot be read is an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray for a cluster of machines.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; by default this machine's, or one started here.")
]
Cpus = Annotated[int | None, typer.Option(min=1, help="Ray: CPUs, and threads, of a task; by default 1.")]
Gpus = Annotated[
    float | None, typer.Option(min=0, help="Ray: GPUs of a task, where the model then is; by default 0.")
]
Device = Annotated[
    str | None, typer.Option(help="Local: where the model is, as cuda for a GPU; by default cpu.")
]


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="mnist, fashion-mnist or kmnist.")],
) -> None:
    """Download a data set, verified by its hashes, into the cache."""
    from absynth.data import fetch

    print(fetch(name))


@app.command()
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
    engine: EngineName = "local",
    address: Address = None,
    cpus_per_task: Cpus = None,
    gpus_per_task: Gpus = None,
    quiet: Quiet = False,
) -> None:
    """Train a model; started again with the same --out it goes on where it was."""
    import torch

    from absynth.certified import HELD_OUT
    from absynth.data import read_dataset
    from absynth.data.split import Validation
    from absynth.evaluate.data import read_for
    from absynth.evaluate.engine import open_engine
    from absynth.evaluate.vaes import fit_side_by_side
    from absynth.models.pretrained import read_config
    from absynth.progress import progress_display
    from absynth.recipes import VALIDATION_SHARE, read_validation, training_settings
    from absynth.recipes import train as run
    from absynth.zoo import model_folder

    derived = model in ("binary-abs", "codebook-abs")
    settings = None
    cluster = (address, cpus_per_task, gpus_per_task)
    if model not in ("abs", *CERTIFIED_MODELS) and (engine, *cluster) != ("local", None, None, None):
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
    _remark(dataset.remarks)
    images, labels = dataset.images, dataset.labels
    command = shlex.join(["absynth", *sys.argv[1:]])
    with open_engine(engine, *cluster) as opened, progress_display(not quiet) as progress:
        side_by_side = {} if engine == "local" else {"fit_vaes": partial(fit_side_by_side, opened)}
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


def _remark(remarks: Iterable[str]) -> None:
    """Prints what was left out or changed while reading, where it does not mix with results."""
    for remark in remarks:
        print(remark, file=sys.stderr)


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or npy files of any size.")],
    model: Model = "abs",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what each picture shows, how surely, and what else it might be; or abstain."""
    import torch

    from absynth.data.adapt import read_image
    from absynth.inference.decision import decide
    from absynth.report.sentences import describe_classification
    from absynth.zoo import load

    classifier = load(model)
    names = classifier.domain.class_names
    pictures = torch.stack([read_image(path, classifier.domain) for path in images])
    for path, decision in zip(images, decide(classifier, pictures), strict=True):
        if as_json:
            named = {"class": names[decision.label], "runner_up_class": names[decision.runner_up]}
            print(json.dumps({"image": str(path), **vars(decision), **named}))
        else:
            print(f"{path}: {describe_classification(decision, classifier.domain)}")


@app.command()
def certify(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="l2, l1, linf, l0, or several with commas.")] = "l2",
    data: Data = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    strict: Strict = False,
    count: Annotated[int | None, typer.Option("-n", min=1, help="How many images; by default all.")] = None,
    seed: Seed = 0,
    exact: Annotated[
        bool, typer.Option("--exact", help="Close the gap to the smallest adversarial.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Radii as .parquet, .csv or .json; resumable.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Certified accuracy by size, as .png, .svg or .pdf.")
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus_per_task: Cpus = None,
    gpus_per_task: Gpus = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Prove how large a change of each image cannot flip the decision."""
    from absynth.evaluate.certification import check_output, run_certification
    from absynth.evaluate.data import choose_data, read_for
    from absynth.evaluate.engine import open_engine
    from absynth.evaluate.tasks import choose_images
    from absynth.norms import parse_norm
    from absynth.progress import progress_display
    from absynth.report.certificates import certificate_tables, check_plot, plot_certificates
    from absynth.zoo import load

    norms = [parse_norm(name) for name in norm.split(",")]
    if out is not None:
        check_output(out)
    if plot is not None:
        check_plot(plot)
    data = choose_data([model], data)
    dataset = read_for([model], data, split, strict=strict)
    _remark(dataset.remarks)
    total = len(dataset.images)
    indices = range(total) if count is None else choose_images(total, count, seed)
    with (
        open_engine(engine, address, cpus_per_task, gpus_per_task, device) as opened,
        progress_display(not quiet) as progress,
    ):
        records = run_certification(
            load(model),
            dataset.images,
            dataset.labels,
            indices=indices,
            norms=norms,
            exact=exact,
            out=out,
            progress=progress,
            engine=opened,
            class_names=dataset.class_names if dataset.named and not dataset.digits else None,
        )
    console = Console()
    for table in certificate_tables(records, f"{model} on {data} {split}", data):
        console.print(table)
    if plot is not None:
        plot_certificates(records, plot)


@app.command()
def attack(
    model: Model = "abs",
    norm: Annotated[str, typer.Option(help="l2, l1, linf or l0.")] = "l2",
    suite: Annotated[str, typer.Option(help="quick, broad, strong, paper or extra.")] = "quick",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 20,
    strict: Strict = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Adversarials, distances, labels and indices as .npz.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look for the smallest changes that flip the decision: upper bounds on robustness."""
    from absynth.attacks import attack as run
    from absynth.evaluate.data import choose_data, read_for
    from absynth.evaluate.tasks import choose_images
    from absynth.norms import parse_norm
    from absynth.progress import progress_display
    from absynth.report.tables import attack_table, check_adversarials, write_adversarials
    from absynth.zoo import load

    chosen_norm = parse_norm(norm)
    if out is not None:
        check_adversarials(out)
    data = choose_data([model], data)
    dataset = read_for([model], data, "test", strict=strict)
    _remark(dataset.remarks)
    rows = list(choose_images(len(dataset.images), count, seed))
    images, labels = dataset.images[rows], dataset.labels[rows]
    with progress_display(not quiet) as progress:
        result = run(load(model), images, labels, chosen_norm, suite, seed=seed, progress=progress)
    Console().print(attack_table(result, chosen_norm, f"{model}, suite '{suite}', seed {seed}", data))
    if out is not None:
        write_adversarials(out, result, labels, rows, dataset.class_names)


@app.command()
def audit(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="Several with commas.")] = "l2,l1,linf,l0",
    suite: Annotated[str, typer.Option(help="Of attacks: quick, broad, strong, paper or extra.")] = "quick",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 100,
    points: Annotated[int, typer.Option(min=0, help="Random points of certified balls, a norm.")] = 10_000,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of the results; a run goes on from what is there.")
    ] = Path("results/audit"),
    quiet: Quiet = False,
) -> None:
    """Try to refute certificates with every attack and with points of their balls; fails if one is."""
    from absynth.evaluate.audit import audit as run
    from absynth.evaluate.data import choose_data
    from absynth.norms import parse_norm
    from absynth.progress import progress_display
    from absynth.report.certificates import audit_table

    norms = [parse_norm(name) for name in norm.split(",")]
    with progress_display(not quiet) as progress:
        audits = run(
            model,
            norms=norms,
            suite=suite,
            count=count,
            points=points,
            out=out,
            progress=progress,
            dataset=choose_data([model], data),
            seed=seed,
        )
    Console().print(audit_table(audits, f"{model}, suite '{suite}', seed {seed}"))
    if any(entry.violations for entry in audits):
        raise SystemExit(1)


@app.command()
def speed(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="Several with commas.")] = "l2,l1,linf,l0",
    prototypes: Annotated[str, typer.Option(help="Prototypes a class, several with commas.")] = "2000,8000",
    data: Data = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 100,
    seed: Seed = 0,
) -> None:
    """Measure how many images a second are certified, by norm and size of the codebook."""
    from absynth.evaluate.data import choose_data, read_for
    from absynth.evaluate.speed import certificate_speed
    from absynth.evaluate.tasks import choose_images
    from absynth.norms import parse_norm
    from absynth.report.certificates import speed_table
    from absynth.zoo import load

    norms = [parse_norm(name) for name in norm.split(",")]
    try:
        sizes = [int(size) for size in prototypes.split(",")]
    except ValueError:
        raise AbsynthError(f"'{prototypes}' is no list of numbers; give for example 2000,8000.") from None
    dataset = read_for([model], choose_data([model], data), "test")
    rows = list(choose_images(len(dataset.images), count, seed))
    images, labels = dataset.images[rows], dataset.labels[rows]
    speeds = certificate_speed(load(model), images, labels, norms=norms, sizes=sizes, seed=seed)
    Console().print(speed_table(list(speeds), f"{model}, {count} test images, seed {seed}"))


@app.command()
def bench(
    action: Annotated[
        str | None,
        typer.Argument(
            metavar="[status|plan]",
            help="status: say how far it is; plan: how long it takes on more cores. Neither runs anything.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quick (the default), standard, paper, or clean for clean accuracy.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file, in place of a preset.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A name, a saved folder or my_file.py:make_model, in place of all; repeatable."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="A named data set, or a path to one.")] = None,
    count: Annotated[int | None, typer.Option("-n", min=1, help="How many test images to attack.")] = None,
    thresholds: Annotated[
        list[str] | None, typer.Option(help="Where to give accuracy, as l2=0.5,1,1.5; repeatable.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the results, or a URL; by default results/PRESET. A run goes on from there."
        ),
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Show every attack by itself too.")] = False,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the figures as Markdown, on MNIST beside the paper's.")
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus_per_task: Cpus = None,
    gpus_per_task: Gpus = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Attack models and show how robust each is; on MNIST beside the paper's figures."""
    from absynth.evaluate.config import adapt_preset, choose_preset
    from absynth.evaluate.engine import open_engine
    from absynth.evaluate.runner import run_benchmark
    from absynth.evaluate.schedule import benchmark_schedule
    from absynth.evaluate.status import benchmark_status
    from absynth.evaluate.store import ResultStore
    from absynth.progress import progress_display
    from absynth.report.markdown import check_markdown, write_markdown
    from absynth.report.tables import benchmark_table, detail_tables, schedule_table, status_table

    if action not in (None, "status", "plan"):
        raise AbsynthError(
            f"There is no 'bench {action}'; leave '{action}' out to run, or say 'status' or 'plan'."
        )
    chosen, name = choose_preset(preset, config)
    chosen = adapt_preset(chosen, models=model or (), dataset=data, images=count, thresholds=thresholds or ())
    if markdown is not None:
        check_markdown(markdown)
    folder = f"results/{name}" if out is None else out
    store, console = ResultStore(folder), Console()
    if action == "status":
        with progress_display(not quiet) as progress:
            statuses = benchmark_status(chosen, store, progress)
        console.print(status_table(statuses, folder))
        return
    if action == "plan":
        with progress_display(not quiet) as progress:
            schedule = benchmark_schedule(chosen, store, progress)
        console.print(schedule_table(schedule, folder))
        return
    with (
        open_engine(engine, address, cpus_per_task, gpus_per_task, device) as opened,
        progress_display(not quiet) as progress,
    ):
        result = run_benchmark(chosen, store, progress, engine=opened)
    console.print(benchmark_table(result))
    for table in detail_tables(result) if details else ():
        console.print(table)
    if markdown is not None:
        write_markdown(markdown, result)
    _remark(result.remarks)
    console.print(f"Records and adversarial images: {store.location}", soft_wrap=True, markup=False)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder that absynth bench wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the page, its tables and figures.")] = Path("report"),
    certificates: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=FILE, a .parquet file of absynth certify; repeatable."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="JSON file of the paper's accuracy-distortion curves.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Which data set, where RESULTS holds several.")] = None,
    records_only: Annotated[
        bool, typer.Option("--records-only", help="Load no models: leave out what shows how they work.")
    ] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write a page of tables and figures from the records of a benchmark and from certificates."""
    from absynth.progress import progress_display
    from absynth.report.curves import read_reference
    from absynth.report.page import write_report
    from absynth.report.results import read_certificates, read_results
    from absynth.zoo import load

    found = read_results(results, data)
    with progress_display(not quiet) as progress:
        written = write_report(
            found,
            out,
            certificates=read_certificates(certificates or ()),
            reference={} if reference is None else read_reference(reference),
            load_model=None if records_only else load,
            seed=seed,
            progress=progress,
        )
    for remark in written.remarks:
        print(remark)
    print(written.page)


@app.command()
def distal(
    model: Annotated[
        list[str] | None, typer.Option(help="By default cnn, madry and abs; repeatable.")
    ] = None,
    target: Annotated[int, typer.Option(help="The class to see in noise.")] = 1,
    count: Annotated[int, typer.Option("-n", min=1, help="How many images a model.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Of the ascent, at most.")] = 100,
    gradient: Annotated[str, typer.Option(help="exact or estimated.")] = "exact",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Result folder, from which the report draws them.")] = Path(
        "results/quick"
    ),
    quiet: Quiet = False,
) -> None:
    """Change noise until a model is sure that it shows a class, and ask the other models about it."""
    from absynth.evaluate.distal import find_distal, write_distal
    from absynth.progress import progress_display
    from absynth.report.tables import distal_table
    from absynth.zoo import load

    models = {name: load(name) for name in model or ("cnn", "madry", "abs")}
    with progress_display(not quiet) as progress:
        found = find_distal(
            models, target=target, count=count, steps=steps, gradient=gradient, seed=seed, progress=progress
        )
    write_distal(found, out)
    Console().print(distal_table(found))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Codebook ABS, nearest neighbour or a binary form of these.")],
    out: Annotated[Path, typer.Argument(help="The file to write, .onnx.")],
) -> None:
    """Write a model that decides by prototypes as an ONNX graph, with all of them in it."""
    from absynth.export import check_onnx, export_onnx
    from absynth.zoo import load

    check_onnx(out)
    print(export_onnx(load(model), out))


@app.command()
def demo(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 7860,
    model: Annotated[
        str | None, typer.Option(help="Folder of an ABS or codebook ABS; by default the shipped models.")
    ] = None,
    data: Data = None,
) -> None:
    """Serve a page: draw something, and see what ABS makes of it and what is proven about it."""
    from absynth.demo import serve

    print("Loading the models, which takes about half a minute ...", flush=True)
    page = serve(host, port, model, data)
    print(f"Open {page.local_url} (stop with Ctrl+C)", flush=True)
    page.block_thread()


def main() -> None:
    """Runs the command line; a mistake of the user's ends with one line and status 2, failed tasks with 1."""
    try:
        app()
    except AbsynthError as error:
        Console(stderr=True).print(
            f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False
        )
        raise SystemExit(2) from None
    except FailedTasksError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; run the same command again to go on.")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
