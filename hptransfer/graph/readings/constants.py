"""Constants in the code: every multiplication of an activation or a weight by one number, wherever it is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from hptransfer.graph.graph import Graph, module_path, users
from hptransfer.graph.ops import facts, law, op


@dataclass(frozen=True)
class Constant:
    """One multiplication by a constant.

    module, op, ordinal: where it stands: the module whose forward ran it, and its place among that module's ops of this
    name. value: the factor (a division's is inverted), None where it is held in `unread`, a buffer on the meta device.
    """

    module: str
    op: str
    ordinal: int
    node: fx.Node
    value: float | None
    unread: str = ""


def constants(graph: Graph) -> list[Constant]:
    """All multiplications by a constant, in execution order. Constants or counts (integers) multiplied do not count."""
    live = _live(graph)
    found: list[Constant] = []
    ordinals: Counter[tuple[str, str]] = Counter()
    for node in graph.nodes:
        if not facts(node).multiplies or node not in live or len(node.args) < 2 or not _is_floating(node):
            continue
        where = module_path(node), op(node)
        ordinal = ordinals[where]
        ordinals[where] += 1
        factor = _factor(graph, node)
        if isinstance(factor, str):
            found.append(Constant(*where, ordinal, node, None, factor))
        elif factor:
            found.append(Constant(*where, ordinal, node, factor if law(node) == "product" else 1 / factor))
    return found


def _live(graph: Graph) -> set[fx.Node]:
    """Nodes that depend on the values of inputs or parameters, not just on their shapes (as tables of positions do)."""
    found = {*graph.inputs, *graph.parameters.values()}
    for node in graph.nodes:
        if any(parent in found and node in users(parent) for parent in node.all_input_nodes):
            found.add(node)
    return found


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex()


def _factor(graph: Graph, node: fx.Node) -> float | str | None:
    """The constant operand of a product: its value, or the name of the buffer that hides it; None without one."""
    candidates = node.args[:2] if law(node) == "product" else node.args[1:2]
    for argument in candidates:
        if isinstance(argument, bool) or not isinstance(argument, (int, float, fx.Node)):
            continue
        if not isinstance(argument, fx.Node):
            return float(argument)
        leaves = _leaves(graph, argument)
        if leaves is None:
            continue
        hidden = next((graph.unread[leaf] for leaf in leaves if leaf in graph.unread), None)
        return hidden if hidden is not None else _fold(graph, argument)
    return None


def _leaves(graph: Graph, node: fx.Node) -> set[fx.Node] | None:
    """The stored values that a one-element node is computed from; None where it is anything but a constant."""
    if node in graph.values or node in graph.unread:
        return {node}
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or value.numel() != 1 or _random(node):
        return None
    leaves: set[fx.Node] = set()
    for parent in node.all_input_nodes:
        found = _leaves(graph, parent)
        if found is None:
            return None
        leaves |= found
    return leaves


def _random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _fold(graph: Graph, node: fx.Node) -> float | None:
    """The value of a constant node, computed on the CPU."""

    def run(node: fx.Node) -> Any:
        if node in graph.values:
            return torch.tensor(graph.values[node], dtype=torch.float64)
        assert callable(node.target)
        kwargs = {k: v for k, v in node.kwargs.items() if k not in {"device", "layout", "pin_memory"}}
        return node.target(*fx.map_arg(node.args, run), **fx.map_arg(kwargs, run))

    with torch.no_grad():
        result = run(node)
    return float(result) if isinstance(result, Tensor) else None
