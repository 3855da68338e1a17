"""Residual streams, found from the graph: adds of an activation and a branch computed from it by a weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx

from hptransfer.core.graph import Graph, module_path, op, shape
from hptransfer.core.scale_flow import CONTRACTIONS, PASSES, WEIGHTED
from hptransfer.core.uses import depends_on_inputs

NORM_OPS = {"layer_norm", "rms_norm", "batch_norm", "group_norm", "native_layer_norm", "_fused_rms_norm"}


@dataclass(frozen=True)
class Branch:
    """One residual branch: stream + F(stream).

    add: the op that closes it; end: F's last node; stream: index of the residual stream (encoder, decoder...);
    parameters: those used inside the branch; post_norm: the sum is normalised before the next branch reads it.
    """

    module: str
    add: fx.Node
    end: fx.Node
    stream: int
    parameters: frozenset[str]
    post_norm: bool


def residual_branches(graph: Graph) -> list[Branch]:
    """All residual branches of a graph, in execution order. A net without residual adds has none."""
    from_inputs = depends_on_inputs(graph)
    holding = _parameters_read(graph, from_inputs)
    stream_of: dict[fx.Node, int] = {}
    found: list[Branch] = []
    for node in graph.nodes:
        if op(node) not in {"add", "add_"} or node not in from_inputs:
            continue
        split = _split(graph, node, from_inputs, holding)
        if split is None:
            continue
        root, end, inside = split
        carried = _carried(root, stream_of)
        stream = stream_of[carried] if carried is not None else len(set(stream_of.values()))
        stream_of[node] = stream
        parameters = frozenset().union(*(holding.get(n, frozenset()) for n in inside))
        found.append(Branch(module_path(node), node, end, stream, parameters, _post_norm(node)))
    return found


def stream_depths(branches: list[Branch]) -> dict[int, int]:
    """Number of residual branches on each stream."""
    return dict(Counter(branch.stream for branch in branches))


def _split(
    graph: Graph, node: fx.Node, from_inputs: set[fx.Node], holding: dict[fx.Node, frozenset[str]]
) -> tuple[fx.Node, fx.Node, set[fx.Node]] | None:
    """(stream, branch end, nodes inside the branch) when one summand is computed from the other by a weight."""
    left, right = node.args[:2]
    if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)) or shape(left) != shape(right):
        return None
    for stream, end in ((left, right), (right, left)):
        root = _strip(stream)
        inside = _between(graph, root, end)
        if inside is not None and any(_contracts(n) and holding.get(n) for n in inside):
            return root, end, inside
    return None


def _strip(node: fx.Node) -> fx.Node:
    """Behind casts, copies and dropout, where the stream itself is."""
    while op(node) in {"to", "_to_copy", "clone", "alias", "dropout", "contiguous", "detach"}:
        parent = node.args[0]
        if not isinstance(parent, fx.Node):
            return node
        node = parent
    return node


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


def _post_norm(add: fx.Node) -> bool:
    """True when everything that reads the sum reads it normalised (post-norm), so no identity path passes it."""
    readers = [user for user in add.users if op(user) not in {"_assert_tensor_metadata"}]
    return bool(readers) and all(op(r) in NORM_OPS for r in readers) and len(readers) == 1
