"""``absynth certify``: proves how large a change cannot flip the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import Data, EngineOptions, Model, Quiet, Seed, Strict, spell_out


@spell_out
def certify(
    model: Model = "codebook-abs",
    norm: Annotated[str, typer.Option(help="l2, l1, linf, l0, or several with commas.")] = "l2",
    data: Data = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    strict: Strict = False,
    count: Annotated[int | None, typer.Option("-n", min=1, help="How many images; by default all.")] = None,
    seed: Seed = 0,
    method: Annotated[
        str | None, typer.Option(help="How, as crown or smoothing; by default the best for the model.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, as sigma=0.5; repeatable.")
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Close the gap to the smallest adversarial, in at most 30 s an image."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Radii as .parquet, .csv or .json; resumable.")] = None,
    adversarials: Annotated[
        Path | None, typer.Option(help="With --exact: the smallest adversarials, as .safetensors.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Folder for witnesses of the radii, which check-proof checks.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Certified accuracy by size, as .png, .svg or .pdf.")
    ] = None,
    engine: EngineOptions = EngineOptions(),
    quiet: Quiet = False,
) -> None:
    """Prove how large a change of each image cannot flip the decision."""
    from absynth.cli.steps import open_engine_and_progress, parse_method, parse_norms, read_data, show_remarks
    from absynth.evaluate.certification import check_output, run_certification
    from absynth.evaluate.data import choose_data
    from absynth.evaluate.minima import check_adversarials
    from absynth.evaluate.models import check_name, identity, load_classifier
    from absynth.evaluate.tasks import choose_images
    from absynth.report.certificates import certificate_tables, check_plot, plot_certificates
    from absynth.report.terminal import show_table

    norms = parse_norms(norm)
    chosen = parse_method(method, settings or [])
    if out is not None:
        check_output(out)
    if adversarials is not None:
        check_adversarials(adversarials, exact=exact)
    if plot is not None:
        check_plot(plot)
    data = choose_data([model], data)
    check_name(model)
    dataset = read_data(model, data, split, strict=strict)
    total = len(dataset.images)
    indices = range(total) if count is None else choose_images(total, count, seed)
    with open_engine_and_progress(engine, quiet=quiet) as (opened, progress):
        classifier = load_classifier(model, dataset.domain.size)
        records = run_certification(
            classifier,
            dataset.images,
            dataset.labels,
            indices=indices,
            norms=norms,
            exact=exact,
            out=out,
            progress=progress,
            engine=opened,
            method=chosen,
            proofs=proof,
            adversarials=adversarials,
            identity=identity(model, classifier),
            class_names=dataset.class_names if dataset.named and not dataset.digits else None,
        )
    for table in certificate_tables(records, f"{model} on {data} {split}", data):
        show_table(table)
    without = [one for one in norms if exact and not any(two.exact for two in records if two.norm == one)]
    if without:
        show_remarks([f"There is no exact search here in {', '.join(without)}; these are proven bounds."])
    if plot is not None:
        plot_certificates(records, plot)
