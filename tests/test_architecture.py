"""The house as its picture and its page show it: imports go down, and never in a circle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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
