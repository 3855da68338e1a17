"""Every use of every parameter, read off the graph: which axes are contracted, produced, indexed or elementwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx

from hptransfer.core.axes import NONE, POINTWISE, Dims, broadcast, through_view
from hptransfer.core.graph import Graph, module_path, op, shape, users

Label = Literal["contracted", "produced", "indexed", "elementwise", "kernel", "batched"]


@dataclass(frozen=True)
class Use:
    """One use of a parameter.

    op: the consuming aten op; module: path of the module whose forward ran it; node: that op in the graph.
    axes: a label per parameter axis; operand: the activation that the parameter is contracted with.
    groups: a grouped convolution's groups (1 elsewhere): a transposed one contracts only 1/groups of its axis 0.
    """

    parameter: str
    op: str
    module: str
    node: fx.Node
    axes: tuple[Label, ...]
    operand: fx.Node | None = None
    groups: int = 1

    def __str__(self) -> str:
        return f"{self.op}[{', '.join(self.axes)}] in {self.module or 'the root module'}"


@dataclass(frozen=True)
class Unsettled:
    """A use that the trace cannot label: the op that stopped it."""

    parameter: str
    op: str
    module: str

    def __str__(self) -> str:
        return f"{self.op} (not understood) in {self.module or 'the root module'}"


def parameter_uses(graph: Graph) -> dict[str, list[Use | Unsettled]]:
    """All uses of all parameters of a graph, by parameter name. An unused parameter has an empty list."""
    from_inputs = depends_on_inputs(graph)
    return {
        name: list(_Walk(name, graph, from_inputs).uses(node, len(shape(node))))
        for name, node in graph.parameters.items()
    }


def depends_on_inputs(graph: Graph) -> set[fx.Node]:
    """Nodes whose value depends on the model's inputs (and not on parameters and constants alone)."""
    stored = set(graph.parameters.values())
    found: set[fx.Node] = set()
    for node in graph.nodes:
        is_input = node.op == "placeholder" and node not in stored and not str(node.target).startswith(("b_", "c_"))
        if is_input or any(parent in found for parent in node.all_input_nodes):
            found.add(node)
    return found


class _Walk:
    """Follows one parameter from its placeholder to the ops that consume it."""

    def __init__(self, parameter: str, graph: Graph, from_inputs: set[fx.Node]) -> None:
        self.parameter, self.graph, self.from_inputs = parameter, graph, from_inputs

    def uses(self, placeholder: fx.Node, rank: int) -> Iterator[Use | Unsettled]:
        self.rank = rank
        pending: list[tuple[fx.Node, Dims]] = [(placeholder, tuple(frozenset({a}) for a in range(rank)))]
        seen: set[tuple[fx.Node, fx.Node]] = set()
        while pending:
            source, dims = pending.pop()
            for node in users(source):
                if (source, node) in seen or op(node) in {"output", *_STATISTICS}:
                    continue
                seen.add((source, node))
                onward = self.onward(node, source, dims)
                if onward is not None:
                    pending.append((node, onward))
                else:
                    yield from self.consume(node, source, dims)

    def onward(self, node: fx.Node, source: fx.Node, dims: Dims) -> Dims | None:
        """Axes of `node` when it is still the parameter in another form, None when it consumes the parameter."""
        if op(node) == "getitem":
            return dims[1:] if op(source) == "unbind" and len(dims) > len(shape(node)) else dims
        if op(node) == "unbind":
            at = int(node.args[1]) % len(dims) if len(node.args) > 1 else 0  # type: ignore[arg-type]
            return (*dims[:at], *dims[at + 1 :])
        viewed = through_view(node, source, dims)
        if viewed is not None:
            return viewed
        if node in self.from_inputs:
            return None
        if op(node) in POINTWISE | {"_weight_norm", "_weight_norm_interface"}:
            return dims
        if op(node) in {"mul", "add", "sub", "div", "rsub", "cat", "stack", "where", "maximum", "minimum"}:
            return broadcast(dims, len(shape(node)))
        return None

    def consume(self, node: fx.Node, source: fx.Node, dims: Dims) -> Iterator[Use | Unsettled]:
        consumers = [(key, f) for key, f in _CONSUMERS.items() if key == op(node)]
        if not consumers and "grouped_mm" in op(node):
            consumers = [("grouped_mm", _matmul)]
        if not consumers:
            yield Unsettled(self.parameter, op(node), module_path(node))
            return
        for position in _positions(node, source):
            found = consumers[0][1](node, position, dims, self.from_inputs)
            if found is None:
                yield Unsettled(self.parameter, op(node), module_path(node))
                continue
            labels, operand = found
            axes = tuple(_label_of(axis, dims, labels) for axis in range(self.rank))
            groups = _groups(node)
            yield Use(self.parameter, op(node), module_path(node), node, axes, operand, groups)


_STATISTICS = {"norm", "linalg_vector_norm", "amax", "amin", "std", "var", "numel", "linalg_norm"}
"""Reductions of a weight to a statistic (as weight normalisation takes): the weight itself is used elsewhere."""

_STRENGTH: tuple[Label, ...] = ("contracted", "kernel", "produced", "elementwise", "indexed", "batched")

Found = tuple[list[Label], fx.Node | None] | None
Consumer = Callable[[fx.Node, Any, Dims, set[fx.Node]], Found]


def _label_of(axis: int, dims: Dims, labels: list[Label]) -> Label:
    """An axis that was split over several dimensions takes the strongest of their labels."""
    carried = [label for held, label in zip(dims, labels, strict=True) if axis in held]
    return next((label for label in _STRENGTH if label in carried), "batched")


def _positions(node: fx.Node, source: fx.Node) -> list[Any]:
    """Where `source` stands among a node's arguments: indices, keyword names, or (index, k) inside a list."""
    found: list[Any] = []
    for key, value in [*enumerate(node.args), *node.kwargs.items()]:
        if value is source:
            found.append(key)
        elif isinstance(value, (list, tuple)):
            found += [(key, k) for k, item in enumerate(value) if item is source]
    return found


def _groups(node: fx.Node) -> int:
    if not op(node).startswith("conv"):
        return 1
    at = 8 if op(node) == "convolution" else 7 if op(node).startswith("conv_transpose") else 6
    return int(node.args[at]) if len(node.args) > at else int(node.kwargs.get("groups", 1))  # type: ignore[arg-type]


def _elementwise(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    return ["elementwise"] * len(dims), None


def _scaled(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    """Multiplied with an activation; a sum right after it makes the summed dimensions contracted."""
    aligned = broadcast(dims, len(shape(node)))
    labels: list[Label] = ["elementwise"] * len(aligned)
    readers = users(node)
    if readers and all(op(r) in {"sum", "mean"} and len(r.args) > 1 for r in readers):
        for where in (r.args[1] for r in readers):
            for dim in where if isinstance(where, (list, tuple)) else [where]:  # type: ignore[union-attr]
                labels[int(dim)] = "contracted"  # type: ignore[arg-type]
    return labels[len(aligned) - len(dims) :], node.args[1 - position] if isinstance(position, int) else None  # type: ignore[return-value]


def _linear(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position == 1:
        return ["produced"] * (len(dims) - 1) + ["contracted"], node.args[0]  # type: ignore[return-value]
    return _elementwise(node, position, dims, from_inputs)


def _addmm(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position == 0:
        return _elementwise(node, position, dims, from_inputs)
    return _matmul_at(node, position - 1, dims, node.args[3 - position], from_inputs)


def _matmul(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position not in (0, 1):
        return _elementwise(node, position, dims, from_inputs)
    return _matmul_at(node, position, dims, node.args[1 - position], from_inputs)


def _matmul_at(node: fx.Node, side: int, dims: Dims, other: Any, from_inputs: set[fx.Node]) -> Found:
    """A left (0) or right (1) factor. A left factor facing a weight is data (learned queries), not a weight."""
    if side == 0 and other not in from_inputs:
        return ["elementwise"] * len(dims), None
    if len(dims) == 1:
        return ["contracted"], other
    batch: list[Label] = ["batched"] * (len(dims) - 2)
    return [*batch, *(["produced", "contracted"] if side == 0 else ["contracted", "produced"])], other  # type: ignore[list-item]


def _einsum(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    if not isinstance(position, tuple) or "." in equation:
        return None
    left, _, right = equation.partition("->")
    terms = left.split(",")
    mine = terms[position[1]]
    others = "".join(t for k, t in enumerate(terms) if k != position[1])
    if "->" not in equation:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    other = next((o for k, o in enumerate(operands) if k != position[1]), None)  # type: ignore[arg-type]
    return [_einsum_label(c, others, right) for c in mine], other


def _einsum_label(letter: str, others: str, right: str) -> Label:
    if letter not in right:
        return "contracted"
    return "batched" if letter in others else "produced"


def _conv(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position != 1:
        return _elementwise(node, position, dims, from_inputs)
    turned = op(node).startswith("conv_transpose") or (op(node) == "convolution" and bool(node.args[6]))
    first: list[Label] = ["contracted", "produced"] if turned else ["produced", "contracted"]
    return [*first, *(["kernel"] * (len(dims) - 2))], node.args[0]  # type: ignore[list-item,return-value]


def _embedding(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    return ["indexed", *(["produced"] * (len(dims) - 1))], None  # type: ignore[list-item]


def _index(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    indices = node.args[1] if op(node) == "index" else [None] * int(node.args[1]) + [1]  # type: ignore[arg-type]
    indexed = [k < len(indices) and indices[k] is not None for k in range(len(dims))]  # type: ignore[arg-type,index]
    return ["indexed" if hit else "produced" for hit in indexed], None


def _bilinear(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if position != 2:
        return _elementwise(node, position, dims, from_inputs)
    return ["produced", "contracted", "contracted"], node.args[0]  # type: ignore[return-value]


def _recurrent(node: fx.Node, position: Any, dims: Dims, from_inputs: set[fx.Node]) -> Found:
    if len(dims) == 1 or not (isinstance(position, tuple) or position in (2, 3)):
        return _elementwise(node, position, dims, from_inputs)
    return ["produced", "contracted"], node.args[0]  # type: ignore[return-value]


_CONSUMERS: Mapping[str, Consumer] = {
    **dict.fromkeys(("mul", "mul_", "div"), _scaled),
    **dict.fromkeys(
        ("add", "add_", "sub", "rsub", "cat", "stack", "where", "maximum", "minimum", "prelu", "_prelu_kernel", "lerp",
         "layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm", "group_norm", "batch_norm", "instance_norm",
         "native_group_norm", "_native_batch_norm_legit_functional", "scaled_dot_product_attention", "addcmul", "pow",
         "index_put", "masked_scatter", "addcdiv", "fmod", "remainder", "copy_", "slice_scatter", "eq", "ne", "gt", "lt"),
        _elementwise,
    ),
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _addmm,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot", "grouped_mm", "_grouped_mm"), _matmul),
    "einsum": _einsum,
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"), _conv
    ),
    **dict.fromkeys(("embedding", "embedding_bag", "_embedding_bag"), _embedding),
    **dict.fromkeys(("index", "index_select"), _index),
    "bilinear": _bilinear,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _recurrent),
}  # fmt: skip
"""What each consuming op does with a parameter's axes."""

_ = NONE
