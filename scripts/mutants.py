"""The mutants of a Python file: its numbers, signs, comparisons and logic changed, one at a time.

A test suite that passes with a mutant in place does not hold what the changed line says (DeMillo, Lipton and Sayward
1978). scripts/mutate.py runs the tests; here is only what is changed. Annotations and formatted texts are left alone.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

Kind = Literal["number", "sign", "factor", "comparison", "logic"]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_POSITION = ("lineno", "col_offset", "end_lineno", "end_col_offset")
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    line, column: where it starts (1- and 0-based); lines: the first and the last whose execution reaches it; top: it is
    executed at import; before, after: what changes; key: the same for the same change of the same file.
    """

    line: int
    column: int
    kind: Kind
    before: str
    after: str
    lines: tuple[int, int]
    top: bool
    key: str
    node: ast.expr | ast.AugAssign = field(repr=False, compare=False)
    new: ast.expr | ast.AugAssign = field(repr=False, compare=False)

    def applied(self, source: str) -> str:
        """The file's source with this change. Raises ValueError where more than the node itself would change."""
        start, end = _span(source, self.node)
        raw = source.encode()
        written = self.after if isinstance(self.new, ast.Constant | ast.AugAssign) else f"({self.after})"
        mutated = (raw[:start] + written.encode() + raw[end:]).decode()
        if ast.dump(ast.parse(mutated)) != ast.dump(_replaced(ast.parse(source), self.node, self.new)):
            raise ValueError(f"Line {self.line}: {self.before!r} -> {self.after!r} would change more than itself.")
        return mutated


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a file's source, in order of position.

    number: an int is one more, a float twice as large (0.0 is 1.0); sign: + and -, unary minus dropped; factor: * and
    /; comparison: < and <=, > and >=, == and !=, is and is not, in and not in; logic: and and or, `not` dropped.
    Raises SyntaxError where the source is not Python.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    changed = []
    for node, new, kind, place in _changes(ast.parse(source)):
        start, end = _span(source, node)
        before, after = " ".join(source.encode()[start:end].decode().split()), ast.unparse(new)
        key = f"{digest}:{node.lineno}:{node.col_offset}:{after}"
        changed.append(
            Mutant(node.lineno, node.col_offset, kind, before, after, place.lines, place.top, key, node, new)
        )
    return sorted(changed, key=lambda m: (m.line, m.column, m.kind, m.after))


@dataclass(frozen=True)
class _Place:
    """Where a node stands: the first and last line of its statement, and whether that runs at import."""

    lines: tuple[int, int]
    top: bool


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.AugAssign, ast.expr | ast.AugAssign, Kind, _Place]]:
    for node, place in _nodes(tree, _Place((1, 1), True)):
        for new, kind in _variants(node):
            yield node, new, kind, place


def _nodes(node: ast.AST, place: _Place) -> Iterator[tuple[ast.expr | ast.AugAssign, _Place]]:
    """Expressions and augmented assignments below a node, without annotations and formatted strings."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name in {"annotation", "returns", "type_params"} or isinstance(child, ast.JoinedStr):
                continue
            if not isinstance(child, ast.AST):
                continue
            at = _placed(child, place) if isinstance(child, ast.stmt) else place
            if isinstance(child, ast.expr | ast.AugAssign):
                yield child, at
            yield from _nodes(child, at if name == "body" or not isinstance(node, ast.FunctionDef) else _whole(node))


def _whole(function: ast.FunctionDef) -> _Place:
    """A function's defaults and decorators run at import: what tells is whoever runs the function."""
    return _Place((function.lineno, function.end_lineno or function.lineno), False)


def _placed(statement: ast.stmt, outer: _Place) -> _Place:
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno
    lines = (statement.lineno, max(last or 0, statement.lineno))
    if isinstance(statement, ast.FunctionDef):
        return _Place(_whole(statement).lines, False)
    return _Place(lines, outer.top)


def _variants(node: ast.expr | ast.AugAssign) -> Iterator[tuple[ast.expr | ast.AugAssign, Kind]]:
    """The node's changed copies."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            yield ast.Constant(value + 1 if isinstance(value, int) else 2 * value or 1.0), "number"
        case ast.UnaryOp(op=ast.USub()):
            yield node.operand, "sign"
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand, "logic"
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _ARITHMETIC and not _joins_texts(node):
            new = deepcopy(node)
            new.op = _ARITHMETIC[type(op)]()
            yield new, "sign" if isinstance(op, ast.Add | ast.Sub) else "factor"
        case ast.BoolOp(op=op):
            new = deepcopy(node)
            new.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield new, "logic"
        case ast.Compare(ops=ops):
            for k, op in enumerate(ops):
                new = deepcopy(node)
                new.ops[k] = _COMPARISONS[type(op)]()
                yield new, "comparison"


def _joins_texts(node: ast.BinOp | ast.AugAssign) -> bool:
    """A + of two strings has no sign: changed, it could only raise."""
    sides = [node.value] if isinstance(node, ast.AugAssign) else [node.left, node.right]
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides
    )


def _span(source: str, node: ast.expr | ast.AugAssign) -> tuple[int, int]:
    """First byte of a node and the byte behind it; ast counts columns in UTF-8 bytes."""
    starts = list(accumulate((len(line) for line in source.encode().split(b"\n")), lambda at, n: at + n + 1, initial=0))
    assert node.end_lineno is not None and node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _replaced(tree: ast.Module, node: ast.AST, new: ast.AST) -> ast.AST:
    """The tree with the node of that kind and place exchanged."""

    old = node

    def same(other: ast.AST) -> bool:
        return type(other) is type(old) and all(getattr(other, k) == getattr(old, k) for k in _POSITION)

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if same(node) else self.generic_visit(node)

    return Swap().visit(tree)
