"""What the site has beyond the files in docs/: generated pages, and formulas as MathML.

MathML is drawn by the browser itself, so that no script and no font has to be fetched for a formula.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from command_line import command_line_page
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebook import run_notebook

ROOT = Path(__file__).parents[3]
FORMULA = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.+?)\\\)</span>'
    r'|<div class="arithmatex">\s*\\\[(?P<block>.+?)\\\]\s*</div>',
    re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the changelog, the command line's page and the notebook's.

    Args:
        files: What lies in docs/.
        config: Of the site.
    """
    tour = run_notebook((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"), "tour")
    pages: dict[str, str | bytes] = {
        "changelog.md": _from_docs((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
        "contributing.md": _from_docs((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "reference/cli.md": command_line_page(),
        "tour.md": tour.markdown,
        **tour.pictures,
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def _from_docs(page: str) -> str:
    """A page of the folder above, with its links as they are from docs/."""
    return page.replace("](docs/", "](")


def on_page_content(content: str, **_: Any) -> str:
    """The page with its formulas as MathML.

    Args:
        content: HTML of the page.
    """
    return FORMULA.sub(_to_mathml, content)


def _to_mathml(found: re.Match[str]) -> str:
    if (inline := found["inline"]) is not None:
        return convert(html.unescape(inline), display="inline")
    return f'<div class="formula">{convert(html.unescape(found["block"]), display="block")}</div>'
