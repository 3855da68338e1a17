"""Operands of ops: which stand where, which are multiplied with each other, which values an op fills in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from hptransfer.graph.graph import sequence
from hptransfer.graph.ops import Op, facts


def argument(node: fx.Node, where: int | str | None, default: Any = None) -> Any:
    """An argument of an op by its position or by its name in the op's schema, given as either; else the default."""
    if where is None:
        return default
    names = _names(node)
    at = names.index(where) if isinstance(where, str) and where in names else where
    if isinstance(at, int) and at < len(node.args):
        return node.args[at]
    name = names[at] if isinstance(at, int) and at < len(names) else str(at)
    return node.kwargs.get(name, default)


def _names(node: fx.Node) -> Sequence[str]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return ()
    return [argument.name for argument in node.target._schema.arguments]


def operands_of(node: fx.Node) -> list[object]:
    """What an op contracts with each other, looks up in one another or multiplies; [] for any other op."""
    return [item for at in facts(node).factors for item in sequence(argument(node, at))]


def passes(node: fx.Node) -> bool:
    """True where a positive scale of the first operand is the result's, whatever the op fills in."""
    known = facts(node)
    return known.passes and (known.fill is None or _fills_scale_free(node, known))


def _fills_scale_free(node: fx.Node, known: Op) -> bool:
    """A fill or a padding with zeros or infinities, which no scale changes, or with copies of the values."""
    fill = argument(node, known.fill)
    return fill is None or (isinstance(fill, (int, float)) and (fill == 0 or math.isinf(fill)))


def gained(node: fx.Node) -> list[fx.Node]:
    """The weight and bias of an op whose output they scale together; [] where it has no such weight."""
    known = facts(node)
    where = [at for at in (known.weight, known.bias) if at is not None] if known.weight is not None else []
    return [operand for operand in (argument(node, at) for at in where) if isinstance(operand, fx.Node)]


def is_convolution(node: fx.Node) -> bool:
    return facts(node).consumes == "conv"


def is_transposed(node: fx.Node) -> bool:
    """True for a transposed convolution."""
    return facts(node).transposed or bool(argument(node, "transposed", False))
