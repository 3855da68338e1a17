"""Empty tensors in a traced graph: a fresh cache is one, and what is appended to it is just what was appended."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, fx

from hptransfer.graph.ops import facts


def drop_empty(graph: fx.Graph, made: Collection[fx.Node]) -> None:
    """Leave empty constants out of concatenations.

    made: placeholders of parameters and inputs. What is computed from them stays, though it be empty in this run.
    """
    computed = set(made)
    for node in list(graph.nodes):
        if any(parent in computed for parent in node.all_input_nodes):
            computed.add(node)
        if facts(node).sums and facts(node).layout == "same" and isinstance(node.args[0], (list, tuple)):
            _without(graph, node, [p for p in node.args[0] if not _is_empty(p) or p in computed])


def _without(graph: fx.Graph, node: fx.Node, pieces: list[fx.Node]) -> None:
    if len(pieces) == 1 and node.args[0] != pieces:
        node.replace_all_uses_with(pieces[0])
        graph.erase_node(node)
    elif pieces:
        node.update_arg(0, pieces)


def _is_empty(node: object) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.numel() == 0
