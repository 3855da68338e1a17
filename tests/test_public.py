"""The public face: complete, described, typed, light to import; nothing in the package lies beyond its reach."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType

import grimp
import pytest

import hptransfer as hpt
from hptransfer.cli.commands import COMMANDS

PACKAGE = Path(hpt.__file__).parent


def public(module: ModuleType) -> dict[str, object]:
    return {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}


AREAS = {name: getattr(hpt.theory, name) for name in dir(hpt.theory)}
FACE = {f"hpt.{name}": value for name, value in public(hpt).items()} | {f"hpt.theory.{n}": a for n, a in AREAS.items()}
FACE |= {f"hpt.theory.{area}.{name}": v for area, module in AREAS.items() for name, v in public(module).items()}
PIECES = [pytest.param(v, id=name) for name, v in FACE.items() if isinstance(v, FunctionType | type)]
TABLES = {name for name, value in FACE.items() if not isinstance(value, FunctionType | type | ModuleType)}


def test_dir_lists_every_public_name_and_each_resolves():
    assert dir(hpt) == sorted(hpt.__all__)
    assert set(hpt._LAZY) <= set(hpt.__all__)
    assert all(getattr(hpt, name) is not None for name in hpt.__all__)
    assert dir(hpt.theory) == sorted(hpt.theory.__all__)


@pytest.mark.parametrize("module", [hpt, hpt.theory])
def test_an_unknown_name_is_an_attribute_error(module: ModuleType):
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize("piece", PIECES)
def test_a_public_piece_says_what_it_is(piece: FunctionType | type):
    """A dataclass without a docstring gets its signature as one, which says nothing."""
    text = inspect.getdoc(piece) or ""
    assert len(text) > 20
    assert not text.startswith(f"{piece.__name__}(")


def test_every_area_says_what_it_holds_and_every_table_what_it_is():
    assert all(module.__doc__ for module in (hpt, hpt.theory, *AREAS.values()))
    bodies = [ast.parse(path.read_text("utf-8")).body for path in PACKAGE.rglob("*.py")]
    described = {name for body in bodies for names, text in pairwise(body) if is_text(text) for name in assigned(names)}
    assert {name.rsplit(".", 1)[1] for name in TABLES} <= described


def is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def assigned(statement: ast.stmt) -> list[str]:
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def functions(piece: FunctionType | type) -> list[FunctionType]:
    """A function, or a class's constructor, public methods and properties."""
    if isinstance(piece, FunctionType):
        return [piece]
    members = [m for n, m in vars(piece).items() if not n.startswith("_") or n in ("__init__", "__call__")]
    raw = [m.fget if isinstance(m, property) else getattr(m, "__func__", m) for m in members]
    return [m for m in raw if isinstance(m, FunctionType)]


@pytest.mark.parametrize("piece", PIECES)
def test_a_public_piece_is_typed(piece: FunctionType | type):
    for function in functions(piece):
        signature = inspect.signature(function)
        first = next(iter(signature.parameters), "") if isinstance(piece, type) else ""
        bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != first]
        assert not bare, f"{function.__qualname__}: {bare}"
        returns = signature.return_annotation is not signature.empty or function.__name__ == "__init__"
        assert returns, f"{function.__qualname__} does not say what it returns"


def test_every_module_is_reached_from_the_public_face_or_the_command_line():
    graph = grimp.build_graph("hptransfer", cache_dir=None)
    commands = {f"hptransfer.cli.{command.module}" for command in COMMANDS.values()}
    lazy = {f"hptransfer.{module}" for module in hpt._LAZY.values()} | {"hptransfer.theory"}
    roots = ("hptransfer.__main__", "hptransfer.cli", "hptransfer.cli.__main__", *commands, *lazy)
    reached = {*roots, *(module for root in roots for module in graph.find_upstream_modules(root))}
    packages = {module.rsplit(".", depth)[0] for module in reached for depth in range(module.count(".") + 1)}
    assert graph.modules - reached - packages == set()


def test_every_public_function_of_the_theory_is_on_its_face_or_used_by_another_module():
    """What neither a user nor the package needs is dead weight."""
    names = {name.rsplit(".", 1)[1] for name in FACE}
    trees = {path: ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    imported = {
        alias.name
        for tree in trees.values()
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
    }
    unused = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path, tree in trees.items()
        if path.relative_to(PACKAGE).parts[0] in ("prediction", "mechanics")
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if node.name not in names | imported and not used_within(tree, node)
    ]
    assert unused == []


def used_within(tree: ast.Module, piece: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether the rest of its module names it."""
    rest = (node for statement in tree.body if statement is not piece for node in ast.walk(statement))
    return any(isinstance(node, ast.Name) and node.id == piece.name for node in rest)
