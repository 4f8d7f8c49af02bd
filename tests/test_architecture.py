"""The house as its picture and its page show it: imports go down, and never in a circle."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from absynth.cli import main
from absynth.errors import AbsynthError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tools(load_tool: Callable[[str, str], ModuleType]) -> ModuleType:
    """What reads the imports."""
    return load_tool("architecture", "imports")


def test_there_is_no_circle_of_imports(tools: ModuleType) -> None:
    found = tools.read_imports(ROOT / "absynth")
    assert len({one.importer for one in found}) > 100
    assert tools.find_circle(found) == []


PLANTED = {
    "__init__.py": "",
    "one.py": "from house.room import two",
    "room/__init__.py": "",
    "room/two.py": "def late():\n    if True:\n        import house.three as other\n    return other",
    "three.py": "from typing import TYPE_CHECKING\nfrom house import free\n"
    "if TYPE_CHECKING:\n    import house.one\nelse:\n    import house.room",
    "free.py": "import json\nfrom house.three.nothing import name\nfrom pathlib import one",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in PLANTED.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "house"


def test_imports_are_read_wherever_they_stand(tools: ModuleType, house: Path) -> None:
    assert {(one.importer, one.imported, one.types_only) for one in tools.read_imports(house)} == {
        ("house.one", "house.room.two", False),
        ("house.room.two", "house.three", False),
        ("house.three", "house.free", False),
        ("house.three", "house.one", True),
        ("house.three", "house.room", False),
    }


def test_a_planted_circle_is_found(tools: ModuleType, house: Path) -> None:
    every = tools.read_imports(house)
    assert sorted(set(tools.find_circle(every))) == ["house.one", "house.room.two", "house.three"]
    real = [one for one in every if not one.types_only]
    assert tools.find_circle(real) == []
    (house / "free.py").write_text("def late():\n    from house.room import two")
    assert set(tools.find_circle(tools.read_imports(house))) >= {"house.free", "house.room.two"}
    (house / "free.py").write_text("from house import free")  # itself: no circle that Python minds
    assert tools.find_circle(one for one in tools.read_imports(house) if not one.types_only) == []


PAGE = ROOT / "docs" / "explanation" / "architecture.md"


@pytest.fixture
def architecture(load_tool: Callable[[str, str], ModuleType]) -> ModuleType:
    """What draws the house."""
    pytest.importorskip("tomllib", reason="reading TOML takes Python 3.11")
    return load_tool("architecture", "architecture")


def test_the_picture_and_the_page_show_the_imports_of_today(architecture: ModuleType) -> None:
    house = architecture.read_house()
    assert architecture.is_drawn(house, ROOT / "docs" / "images" / "architecture.svg")
    page = PAGE.read_text(encoding="utf-8")
    assert page == architecture.page_with(architecture.rooms_table(house), page)


def test_a_picture_of_another_house_is_told(architecture: ModuleType, tmp_path: Path) -> None:
    house = architecture.read_house()
    imports = {**house.imports, "errors": ["shapes"]}
    architecture.draw_house(replace(house, imports=imports), tmp_path)
    assert not architecture.is_drawn(house, tmp_path / "architecture.svg")
    assert architecture.is_drawn(replace(house, imports=imports), tmp_path / "architecture.svg")
    assert (tmp_path / "architecture.png").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("below.py", '"""Imports what is above."""\nimport absynth.above', "form a circle: "),
        (
            "beside.py",
            '"""Imports what is on its floor."""\nimport absynth.below',
            "beside imports below, which is not",
        ),
        ("another.py", '"""Has no floor."""', "'another' must be a room with a layer"),
    ],
)
def test_a_house_against_the_rule_is_refused(
    architecture: ModuleType, tmp_path: Path, file: str, text: str, message: str
) -> None:
    (tmp_path / "absynth").mkdir()
    for name, content in {
        "__init__.py": "",
        "above.py": '"""The roof.\n\nMore."""\nfrom absynth import below',
        "below.py": '"""The ground."""',
        "beside.py": '"""Beside it."""',
    }.items():
        (tmp_path / "absynth" / name).write_text(content)
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\nname = "Data flows one way"\n'
        'layers = ["absynth.above", "absynth.below | absynth.beside"]\n'
    )
    house = architecture.read_house(tmp_path)
    assert house.floors == [["above"], ["below", "beside"]]
    assert house.purposes["above"] == "The roof"
    assert house.imports == {"above": ["below"], "below": [], "beside": []}
    (tmp_path / "absynth" / file).write_text(text)
    with pytest.raises(AbsynthError, match=message):
        architecture.read_house(tmp_path)


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`(absynth/[\w/]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_command_passes_the_files_of_the_walk_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    walk = re.findall(r"^\d+\. `(absynth/[\w/]+\.py)`", text, re.MULTILINE)
    command = re.findall(r"`(absynth certify [^`]+)`", text)[0]
    root, passed = f"{ROOT}/", dict[str, None]()

    def run() -> None:
        monkeypatch.setattr(sys, "argv", [*command.replace("-n 100", "-n 3").split(), "--quiet"])
        try:
            main()
        except SystemExit as ended:
            assert not ended.code

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(root):
            passed.setdefault(frame.f_code.co_filename.removeprefix(root))

    run()  # imports everything, which runs the bodies of modules and classes
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    assert [name for name in passed if name in walk] == walk
