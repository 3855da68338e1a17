"""The weights that make a model's outputs, read off one graph alone, so that they are the same ones at every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from hptransfer.core.graph import Graph
from hptransfer.core.residual import residual_branches
from hptransfer.core.uses import Unsettled, Use

Uses = Mapping[str, Sequence[Use | Unsettled]]


def output_uses(graph: Graph, uses: Uses) -> dict[str, list[Use]]:
    """Parameter -> those of its uses that contract what earlier weights made and whose result no later weight reads.

    A residual branch's last weight writes to the stream, so it makes no output even where nothing stands behind it.
    """
    own = {name: [use for use in found if isinstance(use, Use)] for name, found in uses.items()}
    reads = {use.node for found in own.values() for use in found if "contracted" in use.axes}
    makes = reads | {use.node for found in own.values() for use in found if "indexed" in use.axes}
    behind, before = _reached(graph, makes), _needed(graph, reads)
    in_branch = frozenset().union(*(branch.parameters for branch in residual_branches(graph)))

    def last(use: Use) -> bool:
        return use.node in reads and use.node not in before and use.operand in behind and "contracted" in use.axes

    found = {name: [use for use in its if last(use)] for name, its in own.items() if name not in in_branch}
    return {name: its for name, its in found.items() if its}


def _reached(graph: Graph, start: set[fx.Node]) -> set[fx.Node]:
    """The start nodes and all that is computed from them."""
    found = set(start)
    for node in graph.nodes:
        if any(parent in found for parent in node.all_input_nodes):
            found.add(node)
    return found


def _needed(graph: Graph, end: set[fx.Node]) -> set[fx.Node]:
    """The nodes that the end nodes are computed from; an end node only where another one needs it."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if any(user in found or user in end for user in node.users):
            found.add(node)
    return found
