"""``absynth export``: writes a model as an ONNX graph, or its prototypes as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Codebook ABS, nearest neighbour or a binary form of these.")],
    out: Annotated[
        Path, typer.Argument(help="The file to write: .onnx, or .safetensors for prototypes alone.")
    ],
) -> None:
    """Write a model that decides by prototypes as an ONNX graph, or its prototypes, which proofs are for."""
    from absynth.certify.table import write_table
    from absynth.evaluate.witnesses import prototypes_of
    from absynth.export import check_onnx, export_onnx
    from absynth.files import check_writable
    from absynth.zoo import load

    if out.suffix.lower() == ".safetensors":
        check_writable(out)
        print(f"{write_table(prototypes_of(load(model)), out)}  {out}")
        return
    check_onnx(out)
    print(export_onnx(load(model), out))
