"""Every use of every parameter, read off the graph: which axes are contracted, produced, indexed or elementwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from hptransfer.graph.graph import Graph, shape
from hptransfer.graph.parameters.use import Unsettled, Use
from hptransfer.graph.parameters.walk import Walk


def parameter_uses(graph: Graph) -> dict[str, list[Use | Unsettled]]:
    """All uses of all parameters of a graph, by parameter name. An unused parameter has an empty list."""
    from_inputs = depends_on_inputs(graph)
    trained = {node for node in graph.parameters.values() if getattr(node.meta.get("val"), "requires_grad", True)}
    learned = downstream(graph, trained)
    return {
        name: list(Walk(name, graph, from_inputs, learned).uses(node, len(shape(node))))
        for name, node in graph.parameters.items()
    }


def hosts(uses: Mapping[str, Sequence[Use | Unsettled]]) -> dict[str, str]:
    """Bias -> the weight that is contracted in the same op."""
    settled = [use for own in uses.values() for use in own if isinstance(use, Use)]
    weights = {use.node: use.parameter for use in reversed(settled) if "contracted" in use.axes}
    return {u.parameter: weights[u.node] for u in settled if u.node in weights and "contracted" not in u.axes}


def inner_weights(graph: Graph, uses: Mapping[str, Sequence[Use | Unsettled]]) -> frozenset[str]:
    """Parameters contracted with what an earlier weight made, for a later weight to read: neither first nor last.

    Read off one graph alone, so that a model has the same inner weights at every size, its base's own included.
    """
    settled = [use for own in uses.values() for use in own if isinstance(use, Use)]
    reads, made, needed = around_weights(graph, settled)
    outer = {u.parameter for u in settled if u.node in reads and (u.operand not in made or u.node not in needed)}
    return frozenset(use.parameter for use in settled if "contracted" in use.axes and use.parameter not in outer)


def around_weights(graph: Graph, settled: Iterable[Use]) -> tuple[set[fx.Node], set[fx.Node], set[fx.Node]]:
    """(ops that contract a parameter, all that they and lookups made, all that they read)."""
    settled = list(settled)
    reads = {use.node for use in settled if "contracted" in use.axes}
    makes = reads | {use.node for use in settled if "indexed" in use.axes}
    return reads, downstream(graph, makes), upstream(graph, reads)


def downstream(graph: Graph, start: set[fx.Node]) -> set[fx.Node]:
    """The start nodes and all that is computed from them."""
    found = set(start)
    for node in graph.nodes:
        if any(parent in found for parent in node.all_input_nodes):
            found.add(node)
    return found


def upstream(graph: Graph, end: set[fx.Node]) -> set[fx.Node]:
    """The nodes that the end nodes are computed from; an end node only where another needs it."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if any(user in found or user in end for user in node.users):
            found.add(node)
    return found


def depends_on_inputs(graph: Graph) -> set[fx.Node]:
    """Nodes whose value depends on the model's inputs (and not on parameters and constants alone)."""
    return downstream(graph, set(graph.inputs))
