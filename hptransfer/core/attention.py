"""Attention, found from the graph: every product of two activations that a softmax reads."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from torch import fx

from hptransfer.core.graph import Graph, module_path, op, shape, template, users
from hptransfer.core.scale_flow import PASSES
from hptransfer.core.uses import depends_on_inputs


@dataclass(frozen=True)
class Attention:
    """One attention product.

    key: (module template, ordinal within it), the same in a base and a deeper target.
    query, key_node: the activations contracted; consumer: the op that contracts them.
    head_dim: size of the contracted axis; scale: the constant the code multiplies the logits with, and constants: the
    ops that do.
    """

    key: tuple[str, int]
    module: str
    query: fx.Node
    key_node: fx.Node
    consumer: fx.Node
    head_dim: int
    scale: float
    constants: tuple[fx.Node, ...] = ()


def attentions(graph: Graph) -> list[Attention]:
    """All attention products of a graph, in execution order."""
    from_inputs = depends_on_inputs(graph)
    found: list[Attention] = []
    ordinals: Counter[str] = Counter()
    for node in graph.nodes:
        product = _sdpa(node) if op(node) == "scaled_dot_product_attention" else _eager(node, from_inputs)
        if product is None:
            continue
        query, key, scale, constants = product
        module = module_path(node)
        name = (template(module), ordinals[module])
        found.append(Attention(name, module, query, key, node, shape(query)[-1], scale, constants))
        ordinals[module] += 1
    return found


Product = tuple[fx.Node, fx.Node, float, tuple[fx.Node, ...]]


def _sdpa(node: fx.Node) -> Product:
    query, key = node.args[0], node.args[1]
    scale = node.kwargs.get("scale", node.args[6] if len(node.args) > 6 else None)
    width = shape(query)[-1]
    return query, key, float(scale) if scale is not None else 1 / math.sqrt(width), ()  # type: ignore[return-value,arg-type]


def _eager(node: fx.Node, from_inputs: set[fx.Node]) -> Product | None:
    """matmul(q, k^T), then constants and masks, then softmax. The contracted axis is the query's last."""
    if op(node) not in {"matmul", "bmm", "baddbmm", "einsum"}:
        return None
    operands = list(node.args[1]) if op(node) == "einsum" else list(node.args[:3])[-2:]  # type: ignore[arg-type]
    if len(operands) != 2 or not all(isinstance(o, fx.Node) and o in from_inputs for o in operands):
        return None
    found = _scale_until_softmax(node)
    if found is None:
        return None
    scale, constants = found
    if op(node) == "baddbmm":
        scale *= float(node.kwargs.get("alpha", 1.0))  # type: ignore[arg-type]
    return operands[0], operands[1], scale, constants  # type: ignore[return-value]


_ONWARD = PASSES | {"add", "add_", "masked_fill", "masked_fill_", "where", "mul", "div", "mul_", "div_", "maximum"}


def _scale_until_softmax(node: fx.Node) -> tuple[float, tuple[fx.Node, ...]] | None:
    """Product of the constants between the logits and their softmax; None where no softmax reads them."""
    scale, constants = 1.0, []
    for _ in range(24):
        readers = users(node)
        if any(op(r) in {"softmax", "_softmax", "_safe_softmax"} for r in readers):
            return scale, tuple(constants)
        onward = [r for r in readers if op(r) in _ONWARD]
        if not onward:
            return None
        node = onward[0]
        factor = node.args[1] if len(node.args) > 1 else None
        if isinstance(factor, (int, float)) and op(node) in {"mul", "mul_", "div", "div_"}:
            scale = scale * float(factor) if op(node).startswith("mul") else scale / float(factor)
            constants.append(node)
    return None
