"""Ops that torch writes with others: one without a row of its own is replaced by what it is made of.

`broadcast_tensors` is an expand of each of its operands, `var_mean` a variance and a mean: with several results, one
row could not say what becomes of the scale of each. torch knows how these are written; the table of ops need not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from hptransfer.graph.graph import number, sequence
from hptransfer.graph.ops import facts, has_row, row


def write_out(graph: fx.Graph) -> None:
    """Replace every op without a row that torch makes of ops with rows. One made of others stays, to be named."""
    for node in list(graph.nodes):
        body = _body(node) if node.op == "call_function" and row(node) is None else None
        if body is not None:
            placeholders = [inner for inner in body.nodes if inner.op == "placeholder"]
            inline(graph, node, body, dict(zip(placeholders, node.all_input_nodes, strict=True)))


def inline(graph: fx.Graph, node: fx.Node, body: fx.Graph, operands: Mapping[fx.Node, fx.Node]) -> None:
    """Put a body in place of the node that calls it, and its results in place of what is picked from that node.

    operands: placeholder of the body -> the node that it stands for.
    """
    with graph.inserting_before(node):
        results = sequence(graph.graph_copy(body, dict(operands)))
    for user in list(node.users):
        if facts(user).layout == "pick":
            user.replace_all_uses_with(results[number(user.args[1])])
            graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(results[0])
    graph.erase_node(node)


def _body(node: fx.Node) -> fx.Graph | None:
    """What the op is made of, its nodes labelled as the op's; None where that is not known, or not known to the end."""
    target, operands = node.target, node.all_input_nodes
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or not operands:
        return None

    def call(tensors: list[Tensor]) -> Any:
        given = dict(zip(operands, tensors, strict=True))
        return target(*fx.map_arg(node.args, given.__getitem__), **fx.map_arg(node.kwargs, given.__getitem__))

    further = {
        made: written for made, written in decomposition_table.items() if not (has_row(made) or _composite(made))
    }
    try:
        values = _without_data([operand.meta.get("val") for operand in operands])
        body = make_fx(call, decomposition_table=further, tracing_mode="fake")(values).graph
    except Exception:  # what depends on the data, or is no tensor: the op stays
        return None
    inside = [inner for inner in body.nodes if inner.op not in {"placeholder", "output"}]
    for inner in inside:
        inner.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    return body if all(_is_known(inner) for inner in inside) else None


def _is_known(node: fx.Node) -> bool:
    """An op with a row, or one that no operand enters (a count from 0 to n)."""
    return node.op == "call_function" and (row(node) is not None or not node.all_input_nodes)


def _without_data(values: list[Any]) -> list[Tensor]:
    """Tensors of these layouts and types. Those of an exported graph may each belong to a mode of its own."""
    with FakeTensorMode():
        return [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in values]


def _composite(target: object) -> bool:
    """True for an op that torch itself makes of others, whoever runs it."""
    kernel = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(target, torch._ops.OpOverload) and target.has_kernel_for_dispatch_key(kernel)
