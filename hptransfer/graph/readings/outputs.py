"""The weights that make a model's outputs, read off one graph alone, so that they are the same ones at every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from hptransfer.graph.graph import Graph, users
from hptransfer.graph.ops import facts, law
from hptransfer.graph.parameters.uses import Unsettled, Use, around_weights
from hptransfer.graph.readings.streams import residual_streams
from hptransfer.graph.readings.vanishing import keeps_zero
from hptransfer.graph.scales.arithmetic import factors_of

Uses = Mapping[str, Sequence[Use | Unsettled]]


def output_uses(graph: Graph, uses: Uses) -> dict[str, list[Use]]:
    """Parameter -> those of its uses that contract what earlier weights made and whose result no later weight reads.

    A residual branch's last weight writes to the stream, so it makes no output even where nothing stands behind it;
    nor does the weight of a gate, see _is_gate.
    """
    own = {name: [use for use in found if isinstance(use, Use)] for name, found in uses.items()}
    reads, behind, before = around_weights(graph, (use for found in own.values() for use in found))
    in_branch = frozenset().union(*(branch.parameters for branch in residual_streams(graph).branches))

    def last(use: Use) -> bool:
        return use.node in reads and use.node not in before and use.operand in behind and "contracted" in use.axes

    found = {name: [use for use in its if last(use)] for name, its in own.items() if name not in in_branch}
    gates = {node for node in {use.node for its in found.values() for use in its} if _is_gate(graph, node, behind)}
    found = {name: [use for use in its if use.node not in gates] for name, its in found.items()}
    return {name: its for name, its in found.items() if its}


def _is_gate(graph: Graph, made: fx.Node, behind: set[fx.Node]) -> bool:
    """True where a value only weighs what other weights made: it enters a product behind a function that is not zero at
    zero (sigmoid, softmax, exp). At zero it still lets the other factor through, which is what makes the output.
    """
    read = {node for node in behind if not facts(node).bookkeeping}
    reached, bent = {made}, set[fx.Node]()
    for node in graph.nodes:
        parents = [p for p in node.all_input_nodes if p in reached and node in users(p)]
        if not parents or node.op == "output":
            continue
        if _weighs(node, reached, bent, read):
            return True
        reached.add(node)
        zero = [parent for parent in parents if parent not in bent and keeps_zero(node, parent)]
        if not zero or (facts(node).sums and zero != parents):
            bent.add(node)
    return False


def _weighs(node: fx.Node, reached: set[fx.Node], bent: set[fx.Node], behind: set[fx.Node]) -> bool:
    """True for a product of a bent value with one that other weights made; attention bends its queries and keys."""
    if law(node) == "attention":
        return node.args[2] in behind and node.args[2] not in reached
    factors = list(node.args[:2]) if law(node) == "quotient" else factors_of(node)
    others = [factor for factor in factors if factor in behind and factor not in reached]
    return bool(others) and any(factor in bent for factor in factors)
