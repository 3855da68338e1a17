"""Residual streams, found from the graph: adds of an activation and a branch computed from it by a weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx

from hptransfer.graph.graph import Graph, module_path, operand, shape, users
from hptransfer.graph.operands import CONTRACTIONS, PASSES, WEIGHTED
from hptransfer.graph.ops import op
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.uses import depends_on_inputs

NORM_OPS = {"layer_norm", "rms_norm", "batch_norm", "group_norm", "native_layer_norm", "_fused_rms_norm"}


@dataclass(frozen=True)
class Branch:
    """One residual branch: stream + F(stream).

    add: the op that closes it; end: F's last node; stream: index of the residual stream (encoder, decoder...);
    parameters: those used inside the branch; post_norm: the stream itself is normalised, not only what a branch
    reads. constants: multiplications by a constant right before the add, on the branch or on the stream.
    """

    module: str
    add: fx.Node
    end: fx.Node
    stream: int
    parameters: frozenset[str]
    post_norm: bool
    constants: frozenset[fx.Node] = frozenset()


def residual_branches(graph: Graph) -> list[Branch]:
    """All residual branches of a graph, in execution order. A net without residual adds has none."""
    search = _Search(graph)
    stream_of: dict[fx.Node, int] = {}
    found: list[Branch] = []
    for node in graph.nodes:
        if op(node) not in {"add", "add_"} or node not in search.from_inputs:
            continue
        split = search.split(node)
        if split is None:
            continue
        root, end, inside, scaled = split
        carried = _carried(root, stream_of)
        stream = stream_of[carried] if carried is not None else len(set(stream_of.values()))
        stream_of[node] = stream
        parameters = frozenset().union(*(search.holding.get(n, frozenset()) for n in inside))
        post_norm = _post_norm(node, root, inside)
        found.append(Branch(module_path(node), node, end, stream, parameters, post_norm, scaled))
    return found


def stream_depths(branches: list[Branch]) -> dict[int, int]:
    """Number of residual branches on each stream."""
    return dict(Counter(branch.stream for branch in branches))


def post_norm_streams(branches: list[Branch]) -> set[int]:
    """Streams that are normalised after most of their adds: no identity path runs along them."""
    post = Counter(branch.stream for branch in branches if branch.post_norm)
    return {stream for stream, depth in stream_depths(branches).items() if post[stream] > depth / 2}


class _Search:
    """What finding branches needs to know of a graph: which nodes depend on inputs, read parameters, or multiply."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.from_inputs = graph, depends_on_inputs(graph)
        self.holding = _parameters_read(graph, self.from_inputs)
        self.multiplications = {constant.node for constant in constants(graph)}

    def split(self, node: fx.Node) -> tuple[fx.Node, fx.Node, set[fx.Node], frozenset[fx.Node]] | None:
        """(stream, branch end, nodes inside, constants) when one summand is computed from the other by a weight."""
        left, right = operand(node, 0), operand(node, 1)
        if left is None or right is None or shape(left) != shape(right):
            return None
        for factors in (False, True):  # x + F(x) first; only then c x + F(x)
            for stream, end in ((left, right), (right, left)):
                root, on_stream = self.strip(stream, factors=factors)
                inside = _between(self.graph, root, end)
                if inside is not None and any(_contracts(n) and self.holding.get(n) for n in inside):
                    return root, end, inside, on_stream | self.strip(end)[1]
        return None

    def strip(self, node: fx.Node, *, factors: bool = True) -> tuple[fx.Node, frozenset[fx.Node]]:
        """Behind casts, copies and dropout (and constant factors), where the stream itself is; and those factors."""
        met: set[fx.Node] = set()
        while op(node) in _TRANSPARENT or (factors and node in self.multiplications):
            parent = operand(node, 0) if operand(node, 0) in self.from_inputs else operand(node, 1)
            if parent is None:
                break
            met |= {node} & self.multiplications
            node = parent
        return node, frozenset(met)


_TRANSPARENT = {"to", "_to_copy", "clone", "alias", "dropout", "contiguous", "detach"}


def _between(graph: Graph, start: fx.Node, end: fx.Node) -> set[fx.Node] | None:
    """Nodes on paths from `start` (excluded) to `end`; None where `end` does not come from `start`."""
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
    return reached if end in reached else None


def _parameters_read(graph: Graph, from_inputs: set[fx.Node]) -> dict[fx.Node, frozenset[str]]:
    """Node -> the parameters it reads directly or through input-independent nodes."""
    carried: dict[fx.Node, frozenset[str]] = {node: frozenset({name}) for name, node in graph.parameters.items()}
    found: dict[fx.Node, frozenset[str]] = {}
    for node in graph.nodes:
        if node in carried:
            continue
        read = frozenset().union(*(carried.get(parent, frozenset()) for parent in node.all_input_nodes))
        if node in from_inputs:
            found[node] = read
        else:
            carried[node] = read
    return found


def _contracts(node: fx.Node) -> bool:
    return op(node) in set(WEIGHTED) - NORM_OPS - {"embedding"} | CONTRACTIONS or (
        op(node) in {"einsum", "baddbmm"} or "grouped_mm" in op(node)
    )


def _carried(node: fx.Node, stream_of: dict[fx.Node, int]) -> fx.Node | None:
    """The residual add that this stream node continues, through casts and (post-norm) normalisation."""
    for _ in range(16):
        if node in stream_of:
            return node
        if op(node) not in PASSES | NORM_OPS | {"mul"} or not node.args:
            return None
        parents = [a for a in node.args if isinstance(a, fx.Node) and a.op != "placeholder"]
        if not parents:
            return None
        node = parents[0]
    return None


def _post_norm(add: fx.Node, root: fx.Node, inside: set[fx.Node]) -> bool:
    """True when the sum is read normalised while the branch itself read the stream as it was: LN(x + F(x)).

    The last add of a pre-norm stack is read normalised as well, by the final norm, but its branch starts with a norm.
    """
    return _normalised(add) and not any(op(reader) in NORM_OPS for reader in _readers(root) if reader in inside)


def _normalised(node: fx.Node) -> bool:
    readers = _readers(node)
    return bool(readers) and all(op(reader) in NORM_OPS for reader in readers)


def _readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read this one, behind casts, copies and dropout."""
    found: list[fx.Node] = []
    for user in users(node):
        found += _readers(user) if op(user) in _TRANSPARENT else [user]
    return found
