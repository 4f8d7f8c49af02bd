"""``absynth report``: writes a page from the records of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import Quiet, Seed


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
    from absynth.report.results import check_certificates, read_certificates, read_results
    from absynth.zoo import load

    found = read_results(results, data)
    check_certificates(certificates or (), found.weights)
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
