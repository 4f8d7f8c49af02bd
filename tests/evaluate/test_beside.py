"""The modules beside a user's file: its own, nobody else's, and part of what the model is known by."""

from __future__ import annotations

import hashlib
import importlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from absynth.errors import AbsynthError
from absynth.evaluate.models import identity, load_classifier
from absynth.evaluate.tasks import weights_hash

IMAGES = torch.zeros(2, 1, 28, 28)

MODEL = """
import torch
from torch import nn

class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)))

    def forward(self, x):
        return self.value * torch.ones(len(x), 2)

"""


def write(folder: Path, **files: str) -> Path:
    """Files of a folder; a double underscore in a name stands for a folder."""
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def answer(path: Path) -> float:
    return float(load_classifier(f"{path}:make")(IMAGES)[0, 0])


@pytest.mark.parametrize(
    ("file", "helper"),
    [
        ("import helper\ndef make():\n    return Constant(helper.VALUE)\n", "helper"),
        ("from helper import VALUE as v\ndef make():\n    return Constant(v)\n", "helper"),
        ("from helper import *\ndef make():\n    return Constant(VALUE)\n", "helper"),
        ("from .helper import VALUE\ndef make():\n    return Constant(VALUE)\n", "helper"),
        ("def make():\n    import helper as h\n    return Constant(h.VALUE)\n", "helper"),
        ("import models.net\ndef make():\n    return Constant(models.net.VALUE)\n", "models__net"),
        ("from models import net\ndef make():\n    return Constant(net.VALUE)\n", "models__net"),
        ("from models.nets.net import VALUE\ndef make():\n    return Constant(VALUE)\n", "models__nets__net"),
        (
            "import models.nets.net\ndef make():\n    return Constant(models.nets.net.VALUE)\n",
            "models__nets__net",
        ),
        ("from a.b.c import d\ndef make():\n    return Constant(d.VALUE)\n", "a__b__c__d"),
        ("import models.net as n\ndef make():\n    return Constant(n.VALUE)\n", "models__net"),
        (
            "import importlib\ndef make():\n    return Constant(importlib.import_module('helper').VALUE)\n",
            "helper",
        ),
        (
            "from importlib import import_module as bring\ndef make():\n"
            "    return Constant(bring('helper').VALUE)\n",
            "helper",
        ),
        (
            "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent / 'src'))\n"
            "import helper\ndef make():\n    return Constant(helper.VALUE)\n",
            "src__helper",
        ),
        ("import random\ndef make():\n    return Constant(random.VALUE)\n", "random"),
        ("import torchvision\ndef make():\n    return Constant(torchvision.VALUE)\n", "torchvision"),
        ("import hypothesis\ndef make():\n    return Constant(hypothesis.VALUE)\n", "hypothesis"),
        (
            "import json, pathlib\ndef make():\n    import helper\n"
            "    file = pathlib.Path(helper.__file__).with_name('v.json')\n"
            "    return Constant(json.loads(file.read_text()))\n",
            "helper",
        ),
    ],
)
def test_each_file_gets_what_lies_beside_it(tmp_path: Path, file: str, helper: str) -> None:
    path = list(sys.path)
    for value, name in ((1, "a"), (2, "b")):
        write(tmp_path / name, my=MODEL + file, **{helper: f"VALUE = {value}\n"})
        (tmp_path / name / "v.json").write_text(str(value))
    assert [answer(tmp_path / name / "my.py") for name in "abab"] == [1, 2, 1, 2]
    assert sys.path == path
    plain = sys.modules.get(helper.rpartition("__")[2])
    assert not hasattr(plain, "VALUE")


def test_helpers_get_the_helpers_beside_them_and_packages_their_own_modules(tmp_path: Path) -> None:
    for value, name in ((1, "a"), (2, "b")):
        write(
            tmp_path / name,
            my=MODEL + "from package import VALUE\ndef make():\n    return Constant(VALUE)\n",
            package____init="",
            package__one="from .two import VALUE\nfrom package.two import VALUE as again\nimport base\n"
            "VALUE = VALUE + again + base.VALUE\n",
            package__two="import base\nVALUE = 10 * base.VALUE\n",
            base=f"VALUE = {value}\n",
        )
        (tmp_path / name / "package" / "__init__.py").write_text("from package.one import VALUE\n")
    assert [answer(tmp_path / name / "my.py") for name in "ab"] == [21, 42]


def test_relative_imports_climb_through_folders_without_init(tmp_path: Path) -> None:
    for value, name in ((1, "a"), (2, "b")):
        write(
            tmp_path / name,
            my=MODEL + "from package.sub.net import VALUE\ndef make():\n    return Constant(VALUE)\n",
            package__sub__net="from ..cfg import VALUE\nfrom . import near\nVALUE += near.VALUE\n",
            package__sub__near="VALUE = 10\n",
            package__cfg=f"VALUE = {value}\n",
        )
    assert [answer(tmp_path / name / "my.py") for name in "abab"] == [11, 12, 11, 12]


LAZY = """
from torch import nn

class Lazy(nn.Module):
    def forward(self, x):
        import helper
        from importlib import import_module
        assert import_module("helper") is helper
        return helper.answer(x)

def make():
    return Lazy()
"""


def test_an_import_inside_of_forward_finds_the_helper_as_it_was_at_loading(tmp_path: Path) -> None:
    source = "import torch\nimport base\ndef answer(x):\n    return base.VALUE * torch.ones(len(x), 2)\n"
    for value, name in ((1, "a"), (2, "b")):
        write(tmp_path / name, my=LAZY, helper=source, base=f"VALUE = {value}\n")
    a, b = (load_classifier(f"{tmp_path / name / 'my.py'}:make") for name in "ab")
    assert (float(a(IMAGES)[0, 0]), float(b(IMAGES)[0, 0])) == (1, 2)
    write(tmp_path / "a", base="VALUE = 3\n")
    changed = load_classifier(f"{tmp_path / 'a' / 'my.py'}:make")
    assert [float(one(IMAGES)[0, 0]) for one in (a, b, changed)] == [1, 2, 3]


def test_a_branch_that_imports_later_finds_what_was_there_at_loading(tmp_path: Path) -> None:
    early = "        if x.sum() == 0:\n            return 1 + x[:, 0, 0, :2]\n        import helper\n"
    file = LAZY.replace("        import helper\n", early)
    write(tmp_path, my=file, helper="import torch\ndef answer(x):\n    return 5 * torch.ones(len(x), 2)\n")
    model = load_classifier(f"{tmp_path / 'my.py'}:make")
    write(tmp_path, helper="import torch\ndef answer(x):\n    return 6 * torch.ones(len(x), 2)\n")
    assert float(model(torch.ones(1, 1, 28, 28))[0, 0]) == 5


def test_what_the_callers_program_has_imported_stays_and_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "program", helper_of_mine="VALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path / "program"))
    mine = importlib.import_module("helper_of_mine")
    monkeypatch.setitem(sys.modules, "helper_of_mine", mine)
    file = MODEL + "import helper_of_mine\ndef make():\n    return Constant(helper_of_mine.VALUE)\n"
    write(tmp_path / "a", my=file, helper_of_mine="VALUE = 1\n")
    assert answer(tmp_path / "a" / "my.py") == 1
    assert sys.modules["helper_of_mine"] is mine


def test_a_name_beside_the_file_is_for_its_own_imports_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        my=MODEL + "import random\nimport tempfile\ndef make():\n    tempfile.mkstemp\n"
        "    import shutil, statistics\n    return Constant(random.VALUE + statistics.fmean([1, 1]))\n",
        random="VALUE = 1\n",
    )
    sys.modules.pop("statistics", None)  # which imports random itself
    assert answer(tmp_path / "my.py") == 2


def test_two_files_of_a_folder_share_no_state(tmp_path: Path) -> None:
    file = MODEL + "import helper\nhelper.VALUE += 1\ndef make():\n    return Constant(helper.VALUE)\n"
    write(tmp_path, one=file, two=file, helper="VALUE = 0\n")
    assert [answer(tmp_path / name) for name in ("one.py", "two.py", "one.py")] == [1, 1, 1]


def test_a_pickled_model_finds_its_class_beside_the_file(tmp_path: Path) -> None:
    loading = (
        "import torch, pathlib\ndef make():\n    file = pathlib.Path(__file__).with_name('m.pt')\n"
        "    return torch.load(file, weights_only=False)\n"
    )
    for value, name in ((1, "a"), (2, "b")):
        folder = write(tmp_path / name, my=loading, pickled_net=MODEL.replace("self.value *", f"{value} *"))
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(folder))
            net = importlib.import_module("pickled_net")
            torch.save(net.Constant(0), folder / "m.pt")
            del sys.modules["pickled_net"]
    assert [answer(tmp_path / name / "my.py") for name in "ab"] == [1, 2]
    assert "pickled_net" not in sys.modules


def test_absynth_is_always_the_installed_one(tmp_path: Path) -> None:
    write(
        tmp_path, my="import absynth\ndef make():\n    return absynth.load('cnn')\n", absynth="load = None\n"
    )
    assert load_classifier(f"{tmp_path / 'my.py'}:make")(IMAGES).shape == (2, 10)


def test_classes_of_the_file_and_of_helpers_can_be_pickled_in_this_process(tmp_path: Path) -> None:
    write(tmp_path, my="from helper import Constant\ndef make():\n    return Constant(4)\n", helper=MODEL)
    model = load_classifier(f"{tmp_path / 'my.py'}:make")
    assert float(pickle.loads(pickle.dumps(model))(IMAGES)[0, 0]) == 4


@pytest.mark.parametrize(
    ("helper", "place"),
    [
        ("\nVALUE = 1 / 0\n", "ZeroDivisionError in line 2 of parts/helper.py: division by zero"),
        ("\n\nVALUE = = 1\n", "SyntaxError in line 3 of parts/helper.py: invalid syntax"),
        (
            "import sys\nsys.exit('no')\n",
            r"ended the program in line 2 of parts/helper.py \(SystemExit: no\)",
        ),
    ],
)
def test_what_a_helper_raises_is_told_by_its_own_line(tmp_path: Path, helper: str, place: str) -> None:
    write(tmp_path, my="from parts.helper import VALUE\n", parts__helper=helper)
    with pytest.raises(AbsynthError, match=place):
        load_classifier(f"{tmp_path / 'my.py'}:make")


def test_a_missing_helper_or_name_is_told_by_the_name_that_the_file_uses(tmp_path: Path) -> None:
    write(tmp_path, my="import nowhere_at_all\n", other="from helper import absent\n", helper="")
    for name, sentence in (
        ("my", "ModuleNotFoundError in line 1: No module named 'nowhere_at_all'"),
        ("other", "ImportError in line 1: cannot import name 'absent' from 'helper'"),
    ):
        with pytest.raises(AbsynthError, match=sentence):
            load_classifier(f"{tmp_path / name}.py:make")


@pytest.mark.parametrize("statement", ["import helper", "from helper import VALUE", "from . import helper"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_edited_helper_makes_another_model(tmp_path: Path, statement: str, inside: bool) -> None:
    file = MODEL + (
        f"def make():\n    if False:\n        {statement}\n    return Constant(1)\n"
        if inside
        else f"{statement}\ndef make():\n    return Constant(1)\n"
    )
    write(tmp_path, my=file, helper="import base\nVALUE = 1\n", base="X = 1\n", other="Y = 1\n")
    name = f"{tmp_path / 'my.py'}:make"
    seen = [identity(name, load_classifier(name))]
    for changed in ({"helper": "import base\nVALUE = 2\n"}, {"base": "X = 2\n"}):
        write(tmp_path, **changed)
        seen.append(identity(name, load_classifier(name)))
    assert len(set(seen)) == 3
    write(tmp_path, other="Y = 2\n")
    assert identity(name, load_classifier(name)) == seen[-1]
    moved = write(tmp_path / "moved", my=file, helper="import base\nVALUE = 2\n", base="X = 2\n") / "my.py"
    assert identity(f"{moved}:make", load_classifier(f"{moved}:make")) == seen[-1]


def test_a_model_is_known_by_what_was_loaded_and_not_by_what_lies_there_now(tmp_path: Path) -> None:
    write(tmp_path, my=MODEL + "import helper\ndef make():\n    return Constant(1)\n", helper="A = 1\n")
    name = f"{tmp_path / 'my.py'}:make"
    model = load_classifier(name)
    before = identity(name, model)
    write(tmp_path, helper="A = 2\n", my="nothing")
    assert identity(name, model) == before


class Printed(nn.Module):
    """Prints the class that it holds, with its module."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def extra_repr(self) -> str:
        return f"{self.kind}"


def test_a_file_without_helpers_is_known_as_before(tmp_path: Path) -> None:
    write(tmp_path, my=MODEL + "def make():\n    return Constant(1)\n")
    name, content = f"{tmp_path / 'my.py'}:make", (tmp_path / "my.py").read_bytes()
    model = load_classifier(name)
    expected = hashlib.sha256(f"{weights_hash(model)} make ".encode() + content).hexdigest()
    assert identity(name, model) == expected == identity(name, load_classifier(name))
    kinds = [type(load_classifier(name)) for _ in range(2)]
    first, second = (weights_hash(Printed(kind)) for kind in kinds)
    folder = hashlib.sha256(str((tmp_path / "my.py").resolve()).encode()).hexdigest()[:12]
    assert kinds[0].__module__ != kinds[1].__module__
    printed = f"Printed(<class 'absynth_model_{folder}.Constant'>)"
    assert first == second == hashlib.sha256(b"Printed" + printed.encode()).hexdigest()


@pytest.mark.parametrize("line", ["from .net import VALUE", "import net; VALUE = net.VALUE"])
def test_a_link_finds_what_is_beside_the_file_that_it_leads_to(line: str, tmp_path: Path) -> None:
    file = MODEL + line + "\ndef make():\n    return Constant(VALUE)\n"
    real = write(tmp_path / "real", my=file, net="VALUE = 3\n") / "my.py"
    link = tmp_path / "links" / "my.py"
    link.parent.mkdir()
    link.symlink_to(real)
    assert answer(link) == answer(real) == 3
    write(link.parent, net="VALUE = 4\n")
    assert answer(link) == 4, "what is beside the link comes first"
    assert answer(real) == 3
