"""A matrix product written out: a weight times an activation, entry by entry, and a sum somewhere behind it.

What lies between may lay the products out anew, negate, cast or mask them, or multiply them further (a gain, a gate).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from hptransfer.graph.graph import number, operand, sequence, shape, users
from hptransfer.graph.operands import argument, passes
from hptransfer.graph.ops import facts, law
from hptransfer.graph.parameters.axes import NONE, Dims, broadcast, through_view
from hptransfer.graph.parameters.labels import written_letters


@dataclass(frozen=True)
class Summed:
    """The parameter's axes that are summed over behind a product, and the sums that do it."""

    axes: frozenset[int] = NONE
    by: frozenset[fx.Node] = frozenset()


NOTHING = Summed()


def summed_behind(node: fx.Node, source: fx.Node, dims: Dims, from_inputs: set[fx.Node]) -> Summed:
    """What is summed over behind the op that multiplies `source`, which holds a parameter's axes in `dims`.

    A vector is contracted by a sum right after its product only, and only where it is no gain on a matrix's columns; a
    mean of it brings the 1/n that its contraction asks for, and leaves it a gain.
    """
    letters = written_letters(node, source, dims)
    if letters is None and facts(node).consumes != "scaled":
        return NOTHING
    held = broadcast(dims, len(shape(node))) if letters is None else letters
    if sum(map(bool, dims)) > 1:
        return _behind_all(node, held)
    direct = all(law(reader) == "sum" for reader in users(node))
    return _behind_all(node, held) if direct and not _meets_matrix(node, source, from_inputs) else NOTHING


def _behind_all(node: fx.Node, dims: Dims) -> Summed:
    """What all readers of a node agree on."""
    summed = [_behind(reader, node, dims) for reader in users(node)]
    if len({one.axes for one in summed}) != 1:
        return NOTHING
    return Summed(summed[0].axes, frozenset().union(*(one.by for one in summed)))


def _behind(reader: fx.Node, source: fx.Node, dims: Dims) -> Summed:
    if law(reader) in {"sum", "mean"} and operand(reader) is source:
        return _sum(reader, dims)
    viewed = through_view(reader, source, dims)
    if viewed is None and _is_linear(reader, source):
        viewed = broadcast(dims, len(shape(reader)))
    return NOTHING if viewed is None else _behind_all(reader, viewed)


def _sum(node: fx.Node, dims: Dims) -> Summed:
    """The axes in the dimensions that are summed over; none where all are, by a sum to one number."""
    given = sequence(argument(node, 1)) if len(node.args) > 1 else ()
    over = {number(dim) % len(dims) for dim in given}
    if axes := NONE.union(*(dims[dim] for dim in over)):
        return Summed(axes, frozenset({node}))
    keep = bool(argument(node, "keepdim", False))
    return _behind_all(node, tuple(d for k, d in enumerate(dims) if keep or k not in over)) if over else NOTHING


def _is_linear(node: fx.Node, source: fx.Node) -> bool:
    """True where each entry is the source's, times something that is not the source."""
    if facts(node).multiplies:
        return sum(a is source for a in node.args) == 1 and not (law(node) == "quotient" and node.args[0] is not source)
    return operand(node) is source and passes(node) and shape(node) == shape(source)


def _meets_matrix(node: fx.Node, source: fx.Node, from_inputs: set[fx.Node]) -> bool:
    """True where the other factor is a product of an activation with a matrix, entry by entry."""
    pending = [a for a in node.all_input_nodes if a is not source and a in from_inputs]
    while pending:
        factor = pending.pop()
        if facts(factor).multiplies:
            weights = [a for a in factor.all_input_nodes if a not in from_inputs]
            if any(sum(size > 1 for size in shape(weight)) > 1 for weight in weights):
                return True
        if facts(factor).multiplies or passes(factor):
            pending += [a for a in factor.all_input_nodes if a in from_inputs]
    return False
