"""Groups of options: what typer sees of them and what the command gets."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from absynth.cli.options import spell_out


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--wide", min=1)] = 3
    height: int | None = None


@dataclass(frozen=True)
class Box(Size):
    depth: float = 0.5


@pytest.fixture
def box_command():
    """A command with a group between two options, and the list of what it was called with."""
    calls = []

    @spell_out
    def measure(name: str, box: Box = Box(), exact: bool = False) -> None:
        """Measure a box."""
        calls.append((name, box, exact))

    app = typer.Typer(add_completion=False)
    app.command()(measure)
    return app, calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a"], ("a", Box(), False)),
        (["a", "--wide", "7", "--depth", "2", "--exact"], ("a", Box(7, None, 2.0), True)),
        (["--height", "4", "a"], ("a", Box(3, 4, 0.5), False)),
    ],
)
def test_the_command_gets_its_group(box_command, arguments, expected):
    app, calls = box_command
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert calls == [expected]


def test_fields_keep_their_checks(box_command):
    app, calls = box_command
    assert CliRunner().invoke(app, ["a", "--wide", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["a", "--box", "1"]).exit_code == 2
    assert calls == []


def test_options_of_a_group_stand_where_the_group_stands(box_command):
    app, _ = box_command
    command = typer.main.get_command(app)
    assert [parameter.name for parameter in command.params] == ["name", "width", "height", "depth", "exact"]
    assert command.help == "Measure a box."
