"""The page of the command line, written from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from absynth.cli import app

INTRODUCTION = """# Command line

Every command ends with status 0 if it did what was asked. Bad input ends with status 2 and one line that
says what was wrong and what would be right. `absynth COMMAND --help` prints what stands here.
"""


def leaf_commands(command: Any = None, path: tuple[str, ...] = ("absynth",)) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it.

    Args:
        command: Where to begin, by default with all of ``absynth``.
        path: The words that lead there.
    """
    command = get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name in sorted(command.commands):
        yield from leaf_commands(command.commands[name], (*path, name))


def command_line_page() -> str:
    """The whole page as Markdown."""
    return "\n".join((INTRODUCTION, *(_section(name, command) for name, command in leaf_commands())))


def _section(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option" and one.name != "help"]
    words = [name, *(_placeholder(one) for one in arguments), *(["[OPTIONS]"] if options else [])]
    lines = [f"## {name}", "", command.help or "", "", "```text", " ".join(words), "```", ""]
    rows = [(f"`{_placeholder(one)}`", one) for one in arguments]
    rows += [(", ".join(f"`{spelling}`" for spelling in one.opts), one) for one in options]
    if rows:
        lines += ["| | | default |", "| --- | --- | --- |"]
        lines += [f"| {spelling} | {_cell(one.help or '')} | {_default(one)} |" for spelling, one in rows]
    return "\n".join([*lines, ""])


def _placeholder(argument: Any) -> str:
    word = (argument.metavar or argument.name.upper()).strip("[]") + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
