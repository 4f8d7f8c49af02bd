"""The imports in a user's file: which they are, and how they are rewritten to look beside the file first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import CodeType

ROOM = "__absynth_room__"
"""The global by which rewritten imports find where to look; it travels with code that is pickled."""


def imports(content: bytes, package: str) -> Iterator[tuple[str, bool]]:
    """What a file may import, anywhere in it, and whether that is by a relative import."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package and node.level else []
            base = parts[: len(parts) - node.level + 1] + ([node.module] if node.module else [])
            for name in (base, *([*base, alias.name] for alias in node.names if alias.name != "*")):
                if name:
                    yield ".".join(name), node.level > 0


def compiled(content: bytes, file: str) -> CodeType:
    """A file's code, its imports rewritten."""
    tree = ast.fix_missing_locations(_Rewriting().visit(ast.parse(content, file)))
    code: CodeType = compile(tree, file, "exec", dont_inherit=True)
    return code


class _Rewriting(ast.NodeTransformer):
    """Turns each absolute import into a call of the room's."""

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            made.append(_assign(name, _call("bring", alias.name, alias.asname is not None), node))
        return made

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | list[ast.stmt]:
        if node.level or node.module == "__future__" or node.module is None:
            return node
        made: list[ast.stmt] = []
        for alias in node.names:
            if alias.name == "*":
                call = _call("bring_all", node.module)
                call.args.append(ast.Call(ast.Name("globals", ast.Load()), [], []))
                made.append(ast.copy_location(ast.Expr(call), node))
            else:
                call = _call("bring_from", node.module, alias.name)
                made.append(_assign(alias.asname or alias.name, call, node))
        return made

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in ("import_module", "__import__"):
            return node
        call = _call("call")
        call.args, call.keywords = [function, *node.args], node.keywords
        return ast.copy_location(call, node)


def _call(method: str, *arguments: str | bool) -> ast.Call:
    function = ast.Attribute(ast.Name(ROOM, ast.Load()), method, ast.Load())
    return ast.Call(function, [ast.Constant(one) for one in arguments], [])


def _assign(name: str, value: ast.expr, node: ast.stmt) -> ast.stmt:
    return ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), node)
