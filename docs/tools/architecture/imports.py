"""What the modules of a package import from each other, read from their source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One module that another imports.

    Attributes:
        importer: Its dotted name.
        imported: The other's.
        types_only: Whether it stands under ``if TYPE_CHECKING`` and is not imported when the program runs.
    """

    importer: str
    imported: str
    types_only: bool


def module_files(package: Path) -> dict[str, Path]:
    """The file of every module of a package, by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def read_imports(package: Path) -> list[Import]:
    """Every import of one module of a package by another, those inside functions included.

    Args:
        package: Its folder. All imports within it are absolute.
    """
    files = module_files(package)
    found = set()
    for importer, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for statement, types_only in _import_statements(tree, types_only=False):
            for imported in _imported_modules(statement, files):
                if imported != importer:
                    found.add(Import(importer, imported, types_only))
    return sorted(found, key=lambda one: (one.importer, one.imported, one.types_only))


def find_circle(imports: Iterable[Import]) -> list[str]:
    """The modules of one circle of imports, each imported by the next and the last by the first.

    Args:
        imports: Of a package.

    Returns:
        The first module of the circle again at its end; nothing where there is no circle.
    """
    graph: dict[str, set[str]] = defaultdict(set)
    for one in imports:
        graph[one.importer].add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _import_statements(node: ast.AST, types_only: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, types_only
    for name, value in ast.iter_fields(node):
        guarded = isinstance(node, ast.If) and name == "body" and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _import_statements(child, types_only or guarded)


def _imported_modules(statement: ast.Import | ast.ImportFrom, known: Collection[str]) -> Iterator[str]:
    """The modules of the package that a statement imports: ``from a import b`` may mean a.b or a alone."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        inner = [f"{statement.module}.{alias.name}" for alias in statement.names]
        names = [name if name in known else str(statement.module) for name in inner]
    yield from (name for name in names if name in known)
