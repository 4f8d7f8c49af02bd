"""The modules beside a user's file, kept apart: each file gets its own, and nobody else gets them.

Python keeps one module for each name, so that of two files which import a ``utils`` from their own folders
the second would get the first one's. Here the modules beside a file become parts of a package whose name
nobody else uses, and the imports in them and in the file are rewritten to look there first
(:mod:`absynth.evaluate.imports`); those inside of a function, too, which are executed later.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from absynth.evaluate.imports import ROOM, compiled, imports

MODEL, HELPERS = "absynth_model_", "absynth_helpers_"
"""What the names of a user's file and of the package of its modules begin with."""

_numbers = itertools.count(1)
_rooms: dict[str, Room] = {}


@dataclass(frozen=True)
class Source:
    """A module beside a user's file.

    Attributes:
        content: The file; None for a folder without ``__init__.py`` and for what is no Python source.
        file: Where it is; empty for such a folder.
        folders: Where its own modules are; None if it is no package.
    """

    content: bytes | None
    file: str
    folders: tuple[str, ...] | None


class Room:
    """One user's file and the modules beside it, as they were when the file was loaded.

    Beside the file is what lies in its folder, in that of the file it links to if it is a link, or in a
    folder that its own code puts on ``sys.path``. It comes before the standard library and installed
    packages, as when Python runs the file, but not before what is built into Python; the package ``absynth``
    is always the installed one.

    Args:
        path: Of the user's file.
        name: Of the package that the modules become parts of; by default one that nobody else has.
        sources: The modules by their dotted names, if the files are on another machine.
    """

    def __init__(self, path: Path, name: str | None = None, sources: dict[str, Source] | None = None) -> None:
        self.path = path
        self.file = path.resolve()  # now, as the user's code may change the working folder
        self.folder = str(path.parent.resolve())
        # beside a link first, then beside what it leads to, where Python itself looks
        self._beside = list(dict.fromkeys([self.folder, str(self.file.parent)]))
        if name is None:
            digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
            name = f"{HELPERS}{digest}_{next(_numbers)}"
            importlib.invalidate_caches()  # sees files that were written a moment ago
        self.name = name
        self.main = name.replace(HELPERS, MODEL)
        self._complete = sources is not None
        self.sources = sources or {}
        self._before = list(sys.path)
        self._folders: tuple[list[str], list[str]] | None = None
        package = ModuleType(name)
        package.__path__ = []
        sys.modules[name] = package
        _rooms[name] = self
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels with the sources, as the files may not be where it arrives."""
        return _restore, (str(self.path), self.name, self.sources)

    def execute(self, content: bytes) -> ModuleType:
        """The user's file as a module.

        Args:
            content: The file.
        """
        module = ModuleType(self.main)
        module.__file__ = str(self.path.absolute())
        module.__package__ = self.name
        sys.modules[self.main] = module
        vars(module)[ROOM] = self
        exec(compiled(content, str(self.path)), vars(module))
        return module

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While the user's code runs: what it does to ``sys.path`` is for its own imports alone.

        A module that is looked up by its name in another way than by an import in the user's files, as a
        pickle does, is one beside the file as well, unless the name is a standard or installed module's.
        """
        self._before, plain = list(sys.path), _PlainNames(self)
        sys.path[:0] = self._beside
        sys.meta_path.insert(0, plain)
        hidden = {name: sys.modules.pop(name) for name in plain.taken(sys.modules)}
        try:
            yield
        finally:
            sys.meta_path.remove(plain)
            for name in {*plain.given, *plain.taken(sys.modules)}:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)
            self._folders = self._look()
            sys.path[:] = self._before

    def _look(self) -> tuple[list[str], list[str]]:
        """The folders that come before what Python would find anyway, and those that come after."""
        if self._folders is not None:
            return self._folders
        first, last = list(self._beside), list[str]()
        known = {entry: place for place, entry in enumerate(self._before)}
        position = max((at for at, entry in enumerate(sys.path) if entry in known), default=-1)
        for at, entry in enumerate(sys.path):
            if entry not in known:
                (first if at < position else last).append(str(Path(entry).resolve()))
        roots = _installation()
        return [one for one in first if one not in roots], [one for one in last if one not in roots]

    def has(self, top: str) -> bool:
        """Whether a file of this room that imports this name gets a module beside it.

        Args:
            top: The name, without dots.
        """
        if self._complete and self._folders is None:
            return top in self.sources
        if top in sys.builtin_module_names or top == "absynth":
            return False
        first, last = self._look()
        spec = PathFinder.find_spec(top, first)
        if spec is not None and spec.loader is not None:
            return True
        return (spec or PathFinder.find_spec(top, last)) is not None and not self._is_elsewhere(top)

    def _is_elsewhere(self, top: str) -> bool:
        """Whether there is a module of this name without the user's folders, and no mere folder."""
        for finder in sys.meta_path:
            if isinstance(finder, (_Finder, _PlainNames)):
                continue
            spec = finder.find_spec(top, self._before if finder is PathFinder else None)
            if spec is not None and spec.loader is not None:
                return True
        return False

    def find(self, dotted: str) -> Source | None:
        """A module of this room; None if there is none of that name."""
        if dotted in self.sources:
            return self.sources[dotted]
        parent, _, own = dotted.rpartition(".")
        if parent:
            package = self.find(parent)
            search = None if package is None else package.folders
        else:
            search = tuple(itertools.chain(*self._look()))
        # by its last name alone, as a folder without __init__.py looks for the parent of a dotted one
        spec = PathFinder.find_spec(own, search) if search else None
        if spec is None:
            return None
        file = spec.origin or "" if spec.loader is not None else ""
        content = Path(file).read_bytes() if isinstance(spec.loader, SourceFileLoader) else None
        places = spec.submodule_search_locations
        found = Source(content, file, None if places is None else tuple(places))
        self.sources[dotted] = found
        return found

    def complete(self, main: bytes) -> None:
        """Reads what the user's file and its modules have still to import: later edits change nothing.

        Args:
            main: The user's file.
        """
        waiting = [(main, "")]
        waiting += [(one.content, _package(name, one)) for name, one in self.sources.items() if one.content]
        while waiting:
            content, package = waiting.pop()
            for name, relative in imports(content, package):
                if not relative and not self.has(name.partition(".")[0]):
                    continue
                parts = name.split(".")
                for part in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
                    new = part not in self.sources
                    found = self.find(part)
                    if new and found is not None and found.content:
                        waiting.append((found.content, _package(part, found)))

    def digest(self) -> bytes:
        """What the modules beside the file add to a model's identity; nothing where there are none."""
        return b"".join(
            f"\n{name} {hashlib.sha256(source.content).hexdigest()}".encode()
            for name, source in sorted(self.sources.items())
            if source.content is not None
        )

    def name_of(self, name: str) -> str:
        """The full name of what a file of this room calls ``name``."""
        top = name.partition(".")[0]
        if not top or not self.has(top):
            return name
        if self.main in sys.modules and name == self.path.stem:
            found = self.find(name)
            if found is not None and found.file and Path(found.file).resolve() == self.file:
                return self.main
        return f"{self.name}.{name}"

    def bring(self, name: str, whole: bool) -> Any:
        """What ``import name`` means in a file of this room.

        Args:
            name: Dotted.
            whole: Give the module itself, rather than the package that its name begins with.
        """
        module = importlib.import_module(self.name_of(name))
        return module if whole else importlib.import_module(self.name_of(name.partition(".")[0]))

    def bring_from(self, name: str, part: str) -> Any:
        """What ``from name import part`` means in a file of this room."""
        module = self.bring(name, True)
        try:
            return getattr(module, part)
        except AttributeError:
            pass
        below = f"{module.__name__}.{part}"
        if hasattr(module, "__path__"):
            try:
                return importlib.import_module(below)
            except ModuleNotFoundError as error:
                if error.name != below:
                    raise
        raise ImportError(f"cannot import name '{part}' from '{name}' ({getattr(module, '__file__', '')})")

    def bring_all(self, name: str, into: dict[str, Any]) -> None:
        """What ``from name import *`` means in a file of this room."""
        module = self.bring(name, True)
        names = getattr(module, "__all__", [one for one in vars(module) if not one.startswith("_")])
        into.update({one: self.bring_from(name, one) for one in names})

    def call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """What ``function(...)`` means where the function is called ``import_module`` or ``__import__``."""
        known = function is importlib.import_module or function is __import__
        if known and arguments and isinstance(arguments[0], str):
            arguments = (self.name_of(arguments[0]), *arguments[1:])
            if function is __import__ and arguments[0].startswith((HELPERS, MODEL)):
                return importlib.import_module(arguments[0])
        return function(*arguments, **options)


def _restore(path: str, name: str, sources: dict[str, Source]) -> Room:
    return _rooms.get(name) or Room(Path(path), name, sources)


@lru_cache(maxsize=1)
def _installation() -> tuple[str, ...]:
    """The folders of the standard library and of installed packages."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(sorted({str(Path(sysconfig.get_path(kind)).resolve()) for kind in kinds}))


def _package(name: str, source: Source) -> str:
    """The package that the relative imports of a module start from."""
    return name if source.folders is not None else name.rpartition(".")[0]


class _Loader(SourceFileLoader):
    """Executes the source that the room has read, whatever is in the file or in a cache by now."""

    def __init__(self, name: str, room: Room, source: Source) -> None:
        super().__init__(name, source.file)
        self._room, self._content = room, source.content or b""

    def get_code(self, fullname: str) -> CodeType:
        return compiled(self._content, self.path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[ROOM] = self._room
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds the modules of all rooms, by their full names."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, dotted = fullname.partition(".")
        room = _rooms.get(package)
        source = room.find(dotted) if room is not None and dotted else None
        if room is None or source is None:
            return None
        folders = None if source.folders is None else list(source.folders)
        if not source.file:
            spec: ModuleSpec | None = ModuleSpec(fullname, None, is_package=True)
            assert spec is not None
            spec.submodule_search_locations = folders
            return spec
        if source.content is None:
            return spec_from_file_location(fullname, source.file)
        loader = _Loader(fullname, room, source)
        return spec_from_file_location(
            fullname, source.file, loader=loader, submodule_search_locations=folders
        )


class _PlainNames(MetaPathFinder):
    """Finds the modules of one room by the names that they have in its files."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.given: set[str] = set()

    def takes(self, name: str) -> bool:
        """Whether a name is for the room."""
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or not self._room.has(top):
            return False
        installed = PathFinder.find_spec(top, _installation())
        return installed is None or installed.loader is None

    def taken(self, names: Iterable[str]) -> list[str]:
        """Which of the names are for the room."""
        tops = {name.partition(".")[0] for name in names}
        own = {top for top in tops if self.takes(top)}
        return [name for name in names if name.partition(".")[0] in own]

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if not self.takes(fullname):
            return None
        self.given.add(fullname)
        return ModuleSpec(fullname, _Alias(self._room.name_of(fullname)), is_package=True)


class _Alias(Loader):
    """Gives the module of another name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
