"""What stands in for inputs in a traced graph: data that reaches the weights without being an argument that was traced.

A forward may draw its own noise, turn strings into tokens, or pass its inputs through numpy. What it then reads is an
input if a weight is applied to it; noise added to a weight, or a mask on one, is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import fx

from hptransfer.graph.operands import operands_of
from hptransfer.graph.ops import law


@dataclass
class _Origin:
    """What a node is made of: given inputs, weights, and sources that no weight has been applied to yet."""

    given: bool = False
    weight: bool = False
    sources: frozenset[fx.Node] = frozenset()


def stand_ins(
    nodes: Iterable[fx.Node],
    parameters: Collection[fx.Node],
    inputs: Collection[fx.Node],
    outside: Collection[fx.Node],
) -> frozenset[fx.Node]:
    """Of the random draws and the tensors taken from outside, those that weights are applied to.

    nodes: a graph's, in execution order. outside: placeholders of tensors that are no attribute of the model.
    """
    origins: dict[fx.Node, _Origin] = {}
    found: set[fx.Node] = set()
    for node in nodes:
        parents = [origins[parent] for parent in node.all_input_nodes]
        sources = frozenset().union(*(parent.sources for parent in parents))
        weight = node in parameters or any(parent.weight for parent in parents)
        if node in outside or (_draws(node) and not weight):
            sources |= {node}
        applied = _applied([origins[operand] for operand in _contracted(node)])
        found |= applied
        given = node in inputs or any(parent.given or parent.sources & found for parent in parents)
        origins[node] = _Origin(given, weight, frozenset() if given else sources)
    return frozenset(found)


def _applied(operands: list[_Origin]) -> frozenset[fx.Node]:
    """The sources on one side of a contraction whose other side is a weight."""
    if any(side.given for side in operands):
        return frozenset()
    found: set[fx.Node] = set()
    for at, side in enumerate(operands):
        others = operands[:at] + operands[at + 1 :]
        if any(other.weight and not (other.sources and side.weight) for other in others):
            found |= side.sources
    return frozenset(found)


def _draws(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _contracted(node: fx.Node) -> list[fx.Node]:
    """The operands that an op contracts with each other, or looks up in one another."""
    met = operands_of(node) if law(node) in {"contract", "lookup", "recurrent"} else []
    return [operand for operand in met if isinstance(operand, fx.Node)]
