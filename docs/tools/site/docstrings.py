"""An extension of griffe: docstrings of the package, written for Sphinx's eyes, as Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|meth|class|mod|attr|data):`~?([^`]+)`")
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)


def to_markdown(docstring: str) -> str:
    """A docstring with roles as code, doctests as fenced blocks and literal blocks as Markdown has them.

    Args:
        docstring: As it stands in the source, without the common indentation.
    """
    text = ROLE.sub(r"`\1`", docstring)
    text = text.replace("::\n\n", ":\n\n")
    return DOCTEST.sub(_fence, text)


def _fence(found: re.Match[str]) -> str:
    indent = found["indent"]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"


class MarkdownDocstrings(griffe.Extension):
    """Turns every docstring that is loaded into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
