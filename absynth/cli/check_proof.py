"""``absynth check-proof``: checks witnesses of certified radii."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check_proof(
    proofs: Annotated[Path, typer.Argument(help="A folder that certify --proof wrote, or a file of it.")],
    prototypes: Annotated[
        Path | None, typer.Option(help="By default prototypes.safetensors beside the witnesses.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="IDX file of the images, to see that the witnesses are of these.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file for the verdicts.")] = None,
    model: Annotated[
        str | None, typer.Option(help="See first that this model decodes to the same prototypes.")
    ] = None,
) -> None:
    """Check witnesses with no code of the prover: status 0 if all is proven, 1 if not, 2 for bad files."""
    from absynth import check_proof as checker

    options = {"--prototypes": prototypes, "--images": images, "--out": out}
    given = [text for name, path in options.items() if path is not None for text in (name, str(path))]
    if model is not None:
        from absynth.evaluate.witnesses import TABLE, differences
        from absynth.zoo import load

        folder = proofs if proofs.is_dir() else proofs.parent
        found = differences(load(model), prototypes or folder / TABLE)
        print(found or f"The model {model} decodes to these prototypes, bit by bit.")
        if found:
            raise typer.Exit(1)
    raise typer.Exit(checker.main([str(proofs), *given]))
