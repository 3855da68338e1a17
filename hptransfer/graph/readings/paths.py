"""Paths through a graph: what lies between two nodes, which parameters are read on the way, who reads a node."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from hptransfer.graph.graph import Graph, users
from hptransfer.graph.ops import law, row


def between(graph: Graph, start: fx.Node, end: fx.Node) -> set[fx.Node]:
    """Nodes on paths from `start` (excluded) to `end`, which comes from `start`."""
    first = graph.order[start]
    ancestors: set[fx.Node] = set()
    pending = [end]
    while pending:
        node = pending.pop()
        if node in ancestors or graph.order[node] <= first:
            continue
        ancestors.add(node)
        pending += node.all_input_nodes
    reached: set[fx.Node] = {start}
    for node in sorted(ancestors, key=graph.order.__getitem__):
        if any(parent in reached for parent in node.all_input_nodes):
            reached.add(node)
    reached.discard(start)
    return reached


def parameters_read(graph: Graph, from_inputs: set[fx.Node]) -> dict[fx.Node, frozenset[str]]:
    """Node that depends on inputs -> the parameters it reads directly or through input-independent nodes."""
    carried: dict[fx.Node, frozenset[str]] = {node: frozenset({name}) for name, node in graph.parameters.items()}
    read: dict[fx.Node, frozenset[str]] = {}
    for node in graph.nodes:
        if node in carried:
            continue
        names = frozenset().union(*(carried.get(parent, frozenset()) for parent in node.all_input_nodes))
        (read if node in from_inputs else carried)[node] = names
    return read


def is_post_norm(add: fx.Node, start: fx.Node, inside: set[fx.Node]) -> bool:
    """True when the sum is read normalised while the branch itself read the stream as it was: LN(x + F(x)).

    The last add of a pre-norm stack is read normalised as well, by the final norm, but its branch starts with a norm.
    """
    return _normalised(readers(add)) and not any(
        law(reader) == "normalise" for reader in readers(start) if reader in inside
    )


def _normalised(nodes: Iterable[fx.Node]) -> bool:
    laws = {law(node) for node in nodes}
    return laws == {"normalise"}


def readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read this one, behind casts, copies and dropout."""
    reading: list[fx.Node] = []
    for user in users(node):
        known = row(user)
        reading += readers(user) if known is not None and known.copies else [user]
    return reading
