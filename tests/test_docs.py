"""The documentation says what is so: its code runs, its commands exist, its notebook works."""

import ast
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from typer.main import get_command

from absynth.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
RUN_TOO = (
    "docs/tutorial.md",
    "docs/how-to/own-attack.md",
    "docs/how-to/own-data.md",
    "docs/how-to/own-model.md",
)
"""Pages whose commands are run, but for those that need the network or a model of the reader's."""

NOT_RUN = (
    "absynth data fetch",
    "absynth --help",
    "absynth bench --preset attacks",
    "absynth certify --model codebook-abs --norm l2,l1,linf --exact",
)
NOT_HERE = "fashion-mnist"
"""A data set that needs the network, and hours to train on."""

WARNED = ("docs/how-to/other-libraries.md", "docs/how-to/own-attack.md")
"""Pages that import libraries which warn about their own code."""

BLOCK = re.compile(r"^```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is the content of, if any, its text and first line."""

    language: str
    title: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(content):
        title = TITLE.search(match["rest"])
        line = content.count("\n", 0, match.start("text"))
        found.append(Block(match["language"], title and title[1], match["text"], line))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command in a block of a shell."""
    if block.language not in ("", "sh", "bash"):
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> None:
    """Parses a command as the command line would, without running it."""
    command, path = get_command(app), [words[0]]
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command '{rest[0]}'"
        command, path, rest = command.commands[rest[0]], [*path, rest[0]], rest[1:]
    if "--help" not in rest:
        command.make_context(" ".join(path), rest)


@pytest.fixture
def _reader(shipped_once, monkeypatch, tmp_path):
    """A folder of one's own, and models that are in memory already."""
    monkeypatch.chdir(tmp_path)


WITH_CODE = [
    name for name, page in zip(NAMES, PAGES, strict=True) if any(b.language == "python" for b in blocks(page))
]


@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.filterwarnings("ignore")) if name in WARNED else name
        for name in WITH_CODE
    ],
)
def test_the_code_of_a_page_runs_from_top_to_bottom(name):
    if sys.version_info < (3, 11) and 'title="my_benchmark.toml"' in (ROOT / name).read_text(
        encoding="utf-8"
    ):
        pytest.skip("reading a TOML file takes Python 3.11")
    namespace = {"__name__": "page"}
    for block in blocks(ROOT / name):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            # Empty lines in front make a traceback point at the page.
            exec(compile("\n" * block.line + block.text, str(ROOT / name), "exec"), namespace)
        elif name in RUN_TOO:
            for words in commands(block):
                unfit = shlex.join(words).startswith(NOT_RUN) or NOT_HERE in words
                if words[0] == "absynth" and not unfit:
                    get_command(app).main(words[1:], standalone_mode=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_exist(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks(ROOT / name):
        for words in commands(block):
            if words[0] == "absynth":
                parse(words)
            elif words[0] == "make":
                assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), words


def test_a_command_that_does_not_exist_is_noticed():
    parse(["absynth", "certify", "--norm", "l2"])
    for wrong in ("absynth certify --norms l2", "absynth prove", "absynth certify -n none"):
        with pytest.raises(Exception, match=r"no command|No such option|valid integer"):
            parse(shlex.split(wrong))


def test_the_page_of_the_command_line_has_every_command_and_option(load_tool):
    tool = load_tool("site", "command_line")
    page = tool.command_line_page()
    for name, command in tool.leaf_commands():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert command.help in section
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{parameter.opts[0]}`" in section


def test_every_test_that_a_page_names_exists():
    text = (ROOT / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    named = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row) for row in rows]
    assert sum(map(len, named)) > 30
    for row, tests in zip(rows, named, strict=True):
        assert tests or "| test that" in row or "make " in row or row.startswith("| command"), row
        for file, test in tests:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_docstrings_become_markdown(load_tool):
    pytest.importorskip("griffe")
    to_markdown = load_tool("site", "docstrings").to_markdown

    text = "See :func:`~a.b` for more::\n\n    code\n\n>>> 1 + 1\n2\n\nEnd."
    assert to_markdown(text) == "See `a.b` for more:\n\n    code\n\n```pycon\n>>> 1 + 1\n2\n```\n\nEnd."


def test_every_script_that_is_named_exists_and_every_script_has_a_page():
    files = [*PAGES, ROOT / "Makefile", ROOT / "mkdocs.yml", *(ROOT / "docs" / "tools").rglob("*.py")]
    named = {name for file in files for name in re.findall(r"docs/tools/[\w/]+\.py", file.read_text("utf-8"))}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "tools").rglob("*.py")}
    run = {name for name in scripts if "__main__" in (ROOT / name).read_text("utf-8")}
    assert run <= named


@pytest.fixture(scope="module")
def tour():
    return json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_stored_without_output(tour):
    """Weights change, and what an earlier run printed would go stale; the site shows what it prints today."""
    for cell in tour:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.usefixtures("_reader")
def test_the_notebook_runs_from_top_to_bottom(tour, monkeypatch):
    """In this process, with the models in memory; `make docs` runs it in a kernel."""
    mpl.use("Agg")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: (shown.append(plt.get_fignums()), plt.close("all")))
    namespace = {"__name__": "tour"}
    for number, cell in enumerate(tour):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tour.ipynb, cell {number}", "exec"), namespace)
    assert len(shown) == 3 and all(shown)
