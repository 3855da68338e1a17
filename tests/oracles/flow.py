"""Brute-force twin of scale flow: run a traced graph node by node, with parameters scaled or activations multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from hptransfer.graph.graph import Graph


def run_graph(
    graph: Graph,
    parameters: Mapping[str, Tensor],
    inputs: Iterable[Tensor],
    seen_by: Callable[[fx.Node, fx.Node], float] | None = None,
) -> dict[fx.Node, Any]:
    """The value of every node. seen_by(consumer, operand): what the operand is multiplied with on that edge."""
    given = iter(inputs)
    by_node = {node: parameters[name] for name, node in graph.parameters.items()}
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = by_node[node] if node in by_node else _stored(graph, node, given)
        elif node.op == "call_function":
            look = _edge(values, node, seen_by)
            assert callable(node.target)
            values[node] = node.target(*fx.map_arg(node.args, look), **fx.map_arg(node.kwargs, look))
        elif node.op == "output":
            values[node] = fx.map_arg(node.args[0], values.__getitem__)
    return values


def _edge(
    values: Mapping[fx.Node, Any], consumer: fx.Node, seen_by: Callable[[fx.Node, fx.Node], float] | None
) -> Callable[[fx.Node], Any]:
    if seen_by is None:
        return values.__getitem__

    def look(operand: fx.Node) -> Any:
        factor = seen_by(consumer, operand)
        return values[operand] if factor == 1 else values[operand] * factor

    return look


def _stored(graph: Graph, node: fx.Node, given: Iterable[Tensor]) -> Any:
    if node in graph.inputs:
        return next(iter(given))
    return torch.tensor(graph.values[node]) if node in graph.values else None


def output_of(values: Mapping[fx.Node, Any]) -> Any:
    """The value of the graph's output node: the first returned tensor."""
    node = next(n for n in values if n.op == "output")
    return values[node][0]
