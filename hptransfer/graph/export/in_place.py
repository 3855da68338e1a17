"""In-place writes in a traced graph: later readers of a tensor read what was written, not what it held before.

`out.index_add_(0, rows, y)` returns a node that nothing reads; who reads `out` afterwards depends on y all the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from hptransfer.graph.graph import operand
from hptransfer.graph.ops import facts


def connect_writes(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Let every reader behind an in-place op read its result. A write to a view is a scatter into what it views.

    kept: tensors whose readers stay as they are (parameters, which no forward pass makes).
    """
    order: dict[fx.Node, float] = {node: i for i, node in enumerate(graph.nodes)}
    for result in [node for node in graph.nodes if _writes_first(node)]:
        written, value = operand(result), result
        while written is not None and written not in kept:
            readers = _later(written, result, order)
            if readers and written is not operand(result):
                value = _scattered(graph, written, value, order)
            for reader in readers:
                reader.replace_input_with(written, value)
            if written is operand(result):
                _renew_views(graph, written, value, order)
            written = _viewed(written)


def _renew_views(graph: fx.Graph, old: fx.Node, new: fx.Node, order: dict[fx.Node, float]) -> None:
    """Take the views of a tensor that were taken before it was written to, and are read afterwards, once more."""
    for view in [user for user in old.users if _viewed(user) is old and order[user] < order[new]]:
        readers = _later(view, new, order)
        with graph.inserting_after(new):
            renewed = graph.node_copy(view, lambda node: new if node is old else node)
        order[renewed] = order[new] + 1e-6
        for reader in readers:
            reader.replace_input_with(view, renewed)
        _renew_views(graph, view, renewed, order)
        if not renewed.users:
            graph.erase_node(renewed)


def _scattered(graph: fx.Graph, base: fx.Node, value: fx.Node, order: dict[fx.Node, float]) -> fx.Node:
    """The node that stands for `base` after a view of it was written to."""
    with graph.inserting_after(value):
        node = graph.call_function(torch.ops.aten.as_strided_scatter.default, (base, value, [], []))
    node.meta.update(value.meta, val=base.meta.get("val"))
    order[node] = order[value] + 1e-6
    return node


def _later(node: fx.Node, write: fx.Node, order: dict[fx.Node, float]) -> list[fx.Node]:
    return [user for user in node.users if order[user] >= math.floor(order[write]) + 1]


def _viewed(node: fx.Node) -> fx.Node | None:
    """The tensor that this node is a view of, by its op's schema and, where that leaves it open, by its strides."""
    base = operand(node)
    if base is None or not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.returns:
        return None
    alias = node.target._schema.returns[0].alias_info
    if alias is None:
        return None
    if alias.is_write:
        return base
    return base if not facts(node).may_copy or _shares(node, base) else None


def _shares(node: fx.Node, base: fx.Node) -> bool:
    """True where an op that copies only if it must did not have to."""
    new, old = node.meta.get("val"), base.meta.get("val")
    if not (isinstance(new, Tensor) and isinstance(old, Tensor)) or new.dtype != old.dtype or new.device != old.device:
        return False
    if facts(node).layout == "reshape":
        try:
            old.view(new.shape)
        except (RuntimeError, ValueError):
            return False
        return True
    return new.stride() == old.stride()


def _writes_first(node: fx.Node) -> bool:
    """True for an op that changes its first argument and returns it."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.returns:
        return False
    alias = node.target._schema.returns[0].alias_info
    return alias is not None and alias.is_write
