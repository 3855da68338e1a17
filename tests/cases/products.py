"""Products of two activations in a graph, told by brute force: which operands change when the inputs do."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from hptransfer.graph.arithmetic import factors_of
from hptransfer.graph.graph import Graph
from hptransfer.graph.ops import law
from hptransfer.graph.uses import depends_on_inputs


class Product(NamedTuple):
    """left, right: what is multiplied; consumer: the op that does."""

    left: fx.Node
    right: fx.Node
    consumer: fx.Node


def products(graph: Graph) -> list[Product]:
    """In execution order; of an attention the first is queries by keys."""
    live = depends_on_inputs(graph)
    sites = [(node, factors_of(node)) for node in graph.nodes if law(node) in {"contract", "attention"}]
    return [
        Product(left, right, node)
        for node, (left, right) in sites
        if isinstance(left, fx.Node) and isinstance(right, fx.Node) and {left, right} <= live
    ]


def is_logits(product: Product) -> bool:
    """Queries by keys: not the average of values by weights that a softmax made."""
    return law(product.left) != "softmax"
