"""Attention, found from the graph: every product of two activations that a softmax reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from hptransfer.graph.graph import Graph, module_path, number, sequence, shape, users
from hptransfer.graph.operands import PASSES
from hptransfer.graph.ops import op
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.readings.scale_flow import ScaleFlow
from hptransfer.graph.uses import depends_on_inputs

PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum"}
SOFTMAXES = {"softmax", "_softmax", "_safe_softmax"}


@dataclass(frozen=True)
class Attention:
    """One attention product.

    module, ordinal: where it stands: the module whose forward ran it, and its place among that module's products.
    query, key_node: the activations contracted; consumer: the op that contracts them.
    head_dim: size of the contracted axis; scale: the constant that the code multiplies the logits with, be it on the
    logits, the queries or the keys, and constants: the ops that do.
    """

    module: str
    ordinal: int
    query: fx.Node
    key_node: fx.Node
    consumer: fx.Node
    head_dim: int
    scale: float
    constants: frozenset[fx.Node] = frozenset()


@dataclass(frozen=True)
class Product:
    """A product of two activations that no softmax reads: no rule scales it. contracted: size of the summed axis."""

    module: str
    ordinal: int
    contracted: int


@dataclass(frozen=True)
class Softmax:
    """One softmax of activations. size: how many entries share the sum of one."""

    module: str
    ordinal: int
    size: int


def softmaxes(graph: Graph) -> list[Softmax]:
    """All softmaxes of activations but attention's own, in execution order."""
    from_inputs, ordinals = depends_on_inputs(graph), Counter[str]()
    products = {node for node, _, _ in _products(graph)}
    found: list[Softmax] = []
    for node in graph.nodes:
        if op(node) in SOFTMAXES and node in from_inputs and not _comes_from(node, products):
            module, sizes = module_path(node), shape(node)
            found.append(Softmax(module, ordinals[module], sizes[number(node.args[1])] if sizes else 1))
            ordinals[module] += 1
    return found


def _averages(weights: fx.Node) -> bool:
    while op(weights) in PASSES and isinstance(weights.args[0], fx.Node):
        weights = weights.args[0]
    return op(weights) in SOFTMAXES


def _comes_from(node: fx.Node, products: set[fx.Node]) -> bool:
    """Behind masks, constants and views stands one of the products."""
    for _ in range(_STEPS):
        parents = [a for a in node.args[:1] if isinstance(a, fx.Node)]
        if not parents or (parents[0] not in products and op(parents[0]) not in _ONWARD):
            return False
        node = parents[0]
        if node in products:
            return True
    return False


def attentions(graph: Graph) -> list[Attention]:
    """All attention products of a graph, in execution order."""
    known = {constant.node: constant.value for constant in constants(graph) if constant.value is not None}
    ordinals: Counter[str] = Counter()
    found: list[Attention] = []
    for node, query, key in _products(graph):
        logits = _until_softmax(node, known)
        if logits is None:
            continue
        used = {*logits, *_behind(query, node, known), *_behind(key, node, known)}
        scale = _own_scale(node) * math.prod(known[n] for n in used)
        module = module_path(node)
        found.append(Attention(module, ordinals[module], query, key, node, _contracted(node), scale, frozenset(used)))
        ordinals[module] += 1
    return found


def unscaled_products(graph: Graph) -> list[Product]:
    """Products of two activations whose result no softmax reads (linear attention, similarity of two towers).

    An average, by weights that a softmax made, does not grow with what it sums over.
    """
    ordinals: Counter[str] = Counter()
    found: list[Product] = []
    for node, left, _ in _products(graph):
        if _until_softmax(node, {}) is None and not _averages(left):
            module = module_path(node)
            found.append(Product(module, ordinals[module], _contracted(node)))
            ordinals[module] += 1
    return found


def _products(graph: Graph) -> Iterator[tuple[fx.Node, fx.Node, fx.Node]]:
    """(op, left, right) of products of two activations but cosines; learned queries count once a layer made them."""
    flow = ScaleFlow(graph)
    for node in graph.nodes:
        if op(node) == "scaled_dot_product_attention":
            operands = list(node.args[:2])
        elif op(node) in PRODUCTS and node in flow.from_inputs:
            operands = sequence(node.args[1]) if op(node) == "einsum" else list(node.args[:3])[-2:]
        else:
            continue
        nodes = [o for o in operands if isinstance(o, fx.Node)]
        plain = op(node) in PRODUCTS and any(_is_weight(o, flow) for o in nodes)
        if len(nodes) == len(operands) == 2 and not plain and not all(_is_unit(n) for n in nodes):
            yield node, nodes[0], nodes[1]


def _is_weight(node: fx.Node, flow: ScaleFlow) -> bool:
    """A parameter, or several put together."""
    if op(node) in {"cat", "stack"}:
        return all(isinstance(part, fx.Node) and _is_weight(part, flow) for part in sequence(node.args[0]))
    return flow.parameter_behind(node) is not None


_NORM_STEPS = {"linalg_vector_norm", "norm", "sum", "sqrt", "pow", "square", "clamp_min", "clamp", "add", "expand",
               "expand_as", "to", "_to_copy"}  # fmt: skip


def _is_unit(node: fx.Node) -> bool:
    """Vectors divided by their own norm: a product of two such is a cosine, of order one at any size."""
    while op(node) in PASSES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    if op(node) != "div":
        return False
    vectors, norm, met = node.args[0], node.args[1], set[str]()
    while isinstance(norm, fx.Node) and norm is not vectors and op(norm) in _NORM_STEPS:
        met.add(op(norm))
        norm = norm.args[0]
    return norm is vectors and bool(met & {"linalg_vector_norm", "norm", "sum"})


def _contracted(node: fx.Node) -> int:
    """Size of the axis that a product sums over: the left factor's last, or an einsum's missing letters."""
    if op(node) != "einsum":
        left = node.args[1] if op(node) == "baddbmm" else node.args[0]
        return shape(left)[-1]
    equation, left = str(node.args[0]).replace(" ", ""), sequence(node.args[1])[0]
    terms, _, out = equation.partition("->")
    letters = terms.split(",")[0].replace("...", "")
    sizes = dict(zip(letters[::-1], shape(left)[::-1], strict=False))
    return math.prod(size for letter, size in sizes.items() if letter not in out)


def _own_scale(node: fx.Node) -> float:
    """The multiplier inside the op: sdpa's scale (1/sqrt(d) by default), baddbmm's alpha."""
    if op(node) == "baddbmm":
        return float(node.kwargs.get("alpha", 1.0))  # pyright: ignore[reportArgumentType]
    if op(node) != "scaled_dot_product_attention":
        return 1.0
    scale = node.kwargs.get("scale", node.args[6] if len(node.args) > 6 else None)
    return float(scale) if isinstance(scale, (int, float)) else 1 / math.sqrt(_contracted(node))


_ONWARD = PASSES | {
    "add",
    "add_",
    "masked_fill",
    "masked_fill_",
    "where",
    "mul",
    "div",
    "mul_",
    "div_",
    "maximum",
    "tanh",
    "cat",
    "sub",
    "max",
    "pad",
    "copy_",
    "as_strided_scatter",
    "index_put",
    "index_put_",
}
_STEPS = 64


def _until_softmax(node: fx.Node, known: Mapping[fx.Node, float]) -> list[fx.Node] | None:
    """The constant multiplications of the logits before their softmax; None where no softmax reads them.

    A soft cap, c tanh(logits / c), lies on the way; what stands behind the tanh does not scale the logits. Further
    logits may stand beside them (attention sinks), and their largest may be subtracted.
    """
    if op(node) == "scaled_dot_product_attention":
        return []
    met: list[fx.Node] = []
    capped = False
    for _ in range(_STEPS):
        readers = users(node)
        if any(op(r) in SOFTMAXES or _adds_to_logits(r, node) for r in readers):
            return met
        onward = [r for r in readers if op(r) in _ONWARD]
        if not onward:
            return None
        node = onward[0]
        capped = capped or op(node) == "tanh"
        met += [node] if node in known and not capped else []
    return None


def _adds_to_logits(node: fx.Node, operand: fx.Node) -> bool:
    """A fused attention takes further logits as its mask."""
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    return op(node) == "scaled_dot_product_attention" and mask is operand


def _behind(node: fx.Node, reader: fx.Node, known: Mapping[fx.Node, float]) -> list[fx.Node]:
    """The constant multiplications of a factor before it enters its product, as long as nothing else reads it."""
    met: list[fx.Node] = []
    for _ in range(_STEPS):
        if set(users(node)) != {reader} or (op(node) not in PASSES and node not in known):
            break
        met += [node] if node in known else []
        parent = next((a for a in node.args[:2] if isinstance(a, fx.Node) and a.op != "placeholder"), None)
        if parent is None:
            break
        node, reader = parent, node
    return met
