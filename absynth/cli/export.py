"""``absynth export``: writes a model as an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Codebook ABS, nearest neighbour or a binary form of these.")],
    out: Annotated[Path, typer.Argument(help="The file to write, .onnx.")],
) -> None:
    """Write a model that decides by prototypes as an ONNX graph, with all of them in it."""
    from absynth.export import check_onnx, export_onnx
    from absynth.zoo import load

    check_onnx(out)
    print(export_onnx(load(model), out))
