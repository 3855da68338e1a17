"""What is known about each op: every analysis of a graph asks here, and no other file knows ops by their names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from hptransfer.core.errors import UsageError
from hptransfer.graph.op_rows import TABLE, Op

_JOIN_OF_TWO, _POSITIONS, _NOTHING = TABLE["maximum"], Op("index", layout="pick", scale_free=True), Op("")
_OF_ONE, _OF_SEVERAL = Op("bend", layout="same"), Op("bend")


def op(node: fx.Node) -> str:
    """The aten op's bare name ("linear", "mul", "scaled_dot_product_attention"), or the node kind."""
    return _bare(node.target) if node.op == "call_function" else node.op


def _bare(target: object) -> str:
    packet = getattr(target, "overloadpacket", target)
    return getattr(packet, "__name__", str(packet)).split(".")[-1]


def has_row(target: object) -> bool:
    """True for an op of torch (`torch.ops.aten.relu.default`) that the table knows."""
    return _bare(target) in TABLE


def row(node: fx.Node) -> Op | None:
    """The row of a node's op; None where it has none (placeholders have none either)."""
    name = op(node)
    known = TABLE.get(name) or TABLE.get(name.removesuffix("_"))
    if known is None:
        return _of_each_entry(node)
    if known.law == "extreme" and any(isinstance(other, fx.Node) for other in node.args[1:]):
        return _JOIN_OF_TWO
    if known.layout == "pick" and not _is_float(node):
        return _POSITIONS  # where the largest entries lie: the same at any scale
    return _power(known, exponent(node)) if name.startswith("pow") else known


def _of_each_entry(node: fx.Node) -> Op | None:
    """The row of a function of each entry that the table does not name: entries of order one give such. Else None."""
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return None
    return _OF_ONE if len(node.all_input_nodes) == 1 else _OF_SEVERAL


def facts(node: fx.Node) -> Op:
    """The row of a node's op; one that says nothing where it has none."""
    return row(node) or _NOTHING


def law(node: fx.Node) -> str:
    """The law of a node's op, "" where it has no row."""
    return facts(node).law


def exponent(node: fx.Node) -> float:
    """p of x^p; nan where it is no number."""
    p = node.args[1] if len(node.args) > 1 else node.kwargs.get("exponent")
    return float(p) if isinstance(p, (int, float)) else math.nan


def register_op(name: str, *, like: str) -> None:
    """Say that an op of yours (or of a library) does to axes and scales what a known one does.

    name: its bare name, as a refusal shows it ("rms_norm_fused"); like: the name of an op of this table with the same
    arguments ("rms_norm").
    Raises UsageError where `like` has no row, or `name` has another one already.
    """
    if like not in TABLE:
        raise UsageError(
            f"register_op(like={like!r}): that op has no row itself; use for example 'rms_norm' or 'relu'."
        )
    if TABLE.get(name, TABLE[like]) != TABLE[like]:
        raise UsageError(f"register_op({name!r}): the op has a row already, with law {TABLE[name].law!r}.")
    TABLE[name] = TABLE[like]


def _power(known: Op, degree: float) -> Op:
    """x^degree: without a slope at zero above 1, without a limit of its slope there below."""
    zero = "odd" if degree == 1 else "flat" if degree > 1 else "singular" if degree < 1 else ""
    return replace(known, degree=degree, zero=zero)


def _is_float(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex()
