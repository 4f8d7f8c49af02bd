"""The tour, run and turned into a Markdown page with its pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

SECONDS = 600
"""The longest that one cell may take."""


@dataclass(frozen=True)
class NotebookPage:
    """A notebook as a page.

    Attributes:
        markdown: The text, code and printed output.
        pictures: PNG files that the text shows, by name.
    """

    markdown: str
    pictures: Mapping[str, bytes]


@cache
def run_notebook(content: str, stem: str) -> NotebookPage:
    """Runs a notebook from top to bottom and writes down what it shows; an error in a cell ends the build.

    Args:
        content: Of the notebook file. The same content is run once, however often a server builds the site.
        stem: What the names of its pictures begin with.
    """
    notebook = nbformat.reads(content, as_version=4)
    # Sockets in the file system: others on this machine cannot listen, as the kernel would warn over TCP.
    with TemporaryDirectory() as folder:
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        NotebookClient(notebook, config=sockets, kernel_name="python3", timeout=SECONDS).execute()
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream")
        if printed:  # in one block, although it may have come in pieces
            parts.append(f"```text\n{printed.rstrip()}\n```")
        others = (output for output in cell.outputs if output["output_type"] != "stream")
        parts += [_show(output["data"], pictures, stem) for output in others]
    return NotebookPage("\n\n".join(parts) + "\n", pictures)


def _show(data: Mapping[str, Any], pictures: dict[str, bytes], stem: str) -> str:
    """What a cell displays as Markdown; a picture goes to ``pictures``."""
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![Output of the cell above]({name})"
    return f"```text\n{data['text/plain']}\n```"
