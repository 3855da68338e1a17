"""What each op does with the axes of a parameter that it reads: contracts, produces, indexes, convolves, scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import fx

from hptransfer.graph.graph import number, sequence
from hptransfer.graph.operands import argument, is_convolution, is_transposed
from hptransfer.graph.ops import facts
from hptransfer.graph.parameters.axes import NONE, Dims

Label = Literal["contracted", "produced", "indexed", "elementwise", "kernel", "batched", "stacked"]
Found = tuple[list[Label], fx.Node | None] | None
"""A label per dimension and the activation contracted with; None where the op cannot be labelled."""

Consumer = Callable[[fx.Node, Any, Dims, set[fx.Node]], Found]
"""(node, position of the parameter among its arguments, axes of its dimensions, nodes that depend on inputs)."""

_STRENGTH: tuple[Label, ...] = ("contracted", "kernel", "produced", "elementwise", "indexed", "batched")


def consumer_of(node: fx.Node) -> Consumer | None:
    """The labelling function of an op, None for an op that is not known."""
    return _CONSUMERS.get(facts(node).consumes)


def label_of(axis: int, dims: Dims, labels: list[Label]) -> Label:
    """The label of a parameter axis; one that was split over several dimensions takes the strongest of theirs.

    Of an axis that one entry was picked from nothing is left: it stacks what layers (or q, k and v) each have of their
    own, and no fan grows by it.
    """
    carried = [label for held, label in zip(dims, labels, strict=True) if axis in held]
    for label in _STRENGTH:
        if label in carried:
            return label
    return "stacked"


def relabelled(labels: list[Label], dims: Dims, summed: frozenset[int]) -> list[Label]:
    """The labels with those dimensions contracted that hold an axis which is summed over behind the op."""
    return ["contracted" if axes & summed else label for axes, label in zip(dims, labels, strict=True)]


def positions(node: fx.Node, source: fx.Node) -> list[Any]:
    """Where `source` stands among a node's arguments: indices, keyword names, or (index, k) inside a list."""
    found: list[Any] = []
    for key, value in [*enumerate(node.args), *node.kwargs.items()]:
        if value is source:
            found.append(key)
        elif isinstance(value, (list, tuple)):
            found += [(key, k) for k, item in enumerate(value) if item is source]
    return found


def groups_of(node: fx.Node) -> int:
    """Groups of a convolution, 1 for any other op."""
    return number(argument(node, "groups", 1)) if is_convolution(node) else 1


def _node(value: object) -> fx.Node | None:
    return value if isinstance(value, fx.Node) else None


def _elementwise(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    return ["elementwise"] * len(dims), None


def _scaled(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    """Multiplied with an activation, entry by entry; what is summed over behind it, `summed_behind` tells."""
    other = node.args[1 - position] if isinstance(position, int) else None
    return ["elementwise"] * len(dims), _node(other)


def _linear(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position != 1:
        return _elementwise(node, position, dims, from_inputs)
    made: list[Label] = ["produced"] * (len(dims) - 1)
    return [*made, "contracted"], _node(node.args[0])


def _addmm(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position == 0:
        return _elementwise(node, position, dims, from_inputs)
    if position == 1 and node.args[2] not in from_inputs:
        return _elementwise(node, position, dims, from_inputs)  # learned queries enter a layer written as addmm
    return _factor(position - 1, dims, node.args[3 - position])


def _matmul(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    """A factor of a matrix product. Two parameters multiplied with each other stay open: which one is the weight?"""
    if position not in (0, 1):
        return _elementwise(node, position, dims, from_inputs)
    if node not in from_inputs and position == 0:
        return None
    return _factor(position, dims, node.args[1 - position])


def _factor(side: int, dims: Dims, other: object) -> Found:
    if len(dims) == 1:
        return ["contracted"], _node(other)
    batch: list[Label] = ["batched"] * (len(dims) - 2)
    pair: list[Label] = ["produced", "contracted"] if side == 0 else ["contracted", "produced"]
    return [*batch, *pair], _node(other)


def _einsum(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    equation, operands = str(node.args[0]).replace(" ", ""), sequence(node.args[1])
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not isinstance(position, tuple) or "." in terms[position[1]]:
        return None
    if not arrow:
        right = "".join(c for c in set(left) if c.isalpha() and left.count(c) == 1)
    own = set(terms[position[1]])
    if any(own < set(term) and operands[k] not in from_inputs for k, term in enumerate(terms)):
        return _elementwise(node, position, dims, from_inputs)  # a gain on another weight
    others = "".join(t for k, t in enumerate(terms) if k != position[1])
    other = next((o for k, o in enumerate(operands) if k != position[1]), None)
    return [_einsum_label(c, others, right) for c in terms[position[1]]], _node(other)


def written_letters(node: fx.Node, source: fx.Node, dims: Dims) -> Dims | None:
    """The axes of an einsum's result that sums over nothing: a product written with letters. None for any other op."""
    if facts(node).consumes != "einsum" or "." in str(node.args[0]) or "->" not in str(node.args[0]):
        return None
    left, _, right = str(node.args[0]).replace(" ", "").partition("->")
    operands = sequence(node.args[1])
    if set(left) - {","} != set(right) or sum(o is source for o in operands) != 1:
        return None
    held = dict(zip(left.split(",")[operands.index(source)], dims, strict=True))
    return tuple(held.get(letter, NONE) for letter in right)


def _einsum_label(letter: str, others: str, right: str) -> Label:
    if letter not in right:
        return "contracted"
    return "batched" if letter in others else "produced"


def _inner(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    """torch.inner sums over the last dimension of both."""
    made: list[Label] = ["produced"] * (len(dims) - 1)
    return [*made, "contracted"], _node(node.args[1 - position])


def _tensordot(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if node not in from_inputs:
        return None
    summed = {number(dim) % len(dims) for dim in sequence(node.args[2 + position])}
    return ["contracted" if k in summed else "produced" for k in range(len(dims))], _node(node.args[1 - position])


def _conv(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position != 1:
        return _elementwise(node, position, dims, from_inputs)
    first: list[Label] = ["contracted", "produced"] if is_transposed(node) else ["produced", "contracted"]
    kernel: list[Label] = ["kernel"] * (len(dims) - 2)
    return [*first, *kernel], _node(node.args[0])


def _embedding(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    made: list[Label] = ["produced"] * (len(dims) - 1)
    return ["indexed", *made], None


def _index(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if isinstance(node.args[1], (list, tuple)):
        indices = [index is not None for index in node.args[1]]
    else:
        indices = [k == number(node.args[1]) % len(dims) for k in range(len(dims))]
    indexed = [k < len(indices) and indices[k] for k in range(len(dims))]
    return ["indexed" if hit else "produced" for hit in indexed], None


def _bilinear(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position != 2:
        return _elementwise(node, position, dims, from_inputs)
    return ["produced", "contracted", "contracted"], _node(node.args[0])


def _recurrent(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if len(dims) == 1 or not (isinstance(position, tuple) or position in (2, 3)):
        return _elementwise(node, position, dims, from_inputs)
    return ["produced", "contracted"], _node(node.args[0])


_CONSUMERS: Mapping[str, Consumer] = {
    "elementwise": _elementwise,
    "scaled": _scaled,
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "einsum": _einsum,
    "inner": _inner,
    "tensordot": _tensordot,
    "conv": _conv,
    "embedding": _embedding,
    "index": _index,
    "bilinear": _bilinear,
    "recurrent": _recurrent,
}
"""How an op reads a parameter's axes -> their labels."""
