"""Every use of every parameter, read off the graph: which axes are contracted, produced, indexed or elementwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, fx

from hptransfer.graph.axes import NONE, Dims, broadcast, through_view
from hptransfer.graph.graph import Graph, module_path, number, operand, shape, users
from hptransfer.graph.homogeneity import WEIGHT, Form, forms
from hptransfer.graph.labels import Label, consumer_of, groups_of, label_of, positions, written_letters
from hptransfer.graph.operands import argument
from hptransfer.graph.ops import facts, law, op

Norm = Literal["", "rows", "columns", "taps", "whole", "entries"]


@dataclass(frozen=True)
class Use:
    """One use of a parameter.

    op: the consuming aten op; module: path of the module whose forward ran it; node: that op in the graph.
    axes: a label per parameter axis; operand: the activation that the parameter is contracted with.
    groups: a grouped convolution's groups (1 elsewhere): a transposed one contracts only 1/groups of its axis 0.
    normalised: the parameter was divided by its own norm first, so that its scale is lost: per row (produced axis), per
    column (contracted), per tap of a kernel (over all rows and columns), or as a whole by its largest singular value;
    entries: by their standard deviation, so that each entry has order 1 (weight standardization, 1903.10520).
    form: what the op sees as a function of the parameter; mate: the op that multiplied it with a weight of its shape.
    """

    parameter: str
    op: str
    module: str
    node: fx.Node
    axes: tuple[Label, ...]
    operand: fx.Node | None = None
    groups: int = 1
    normalised: Norm = ""
    form: Form = WEIGHT
    mate: fx.Node | None = None

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
    trained = {node for node in graph.parameters.values() if getattr(node.meta.get("val"), "requires_grad", True)}
    learned = downstream(graph, trained)
    return {
        name: list(_Walk(name, graph, from_inputs, learned).uses(node, len(shape(node))))
        for name, node in graph.parameters.items()
    }


def hosts(uses: Mapping[str, Sequence[Use | Unsettled]]) -> dict[str, str]:
    """Bias -> the weight that is contracted in the same op."""
    settled = [use for own in uses.values() for use in own if isinstance(use, Use)]
    weights = {use.node: use.parameter for use in reversed(settled) if "contracted" in use.axes}
    return {u.parameter: weights[u.node] for u in settled if u.node in weights and "contracted" not in u.axes}


def inner_weights(graph: Graph, uses: Mapping[str, Sequence[Use | Unsettled]]) -> frozenset[str]:
    """Parameters contracted with what an earlier weight made, for a later weight to read: neither first nor last.

    Read off one graph alone, so that a model has the same inner weights at every size, its base's own included.
    """
    settled = [use for own in uses.values() for use in own if isinstance(use, Use)]
    reads, made, needed = around_weights(graph, settled)
    outer = {u.parameter for u in settled if u.node in reads and (u.operand not in made or u.node not in needed)}
    return frozenset(use.parameter for use in settled if "contracted" in use.axes and use.parameter not in outer)


def around_weights(graph: Graph, settled: Iterable[Use]) -> tuple[set[fx.Node], set[fx.Node], set[fx.Node]]:
    """(ops that contract a parameter, all that they and lookups made, all that they read)."""
    settled = list(settled)
    reads = {use.node for use in settled if "contracted" in use.axes}
    makes = reads | {use.node for use in settled if "indexed" in use.axes}
    return reads, downstream(graph, makes), upstream(graph, reads)


def downstream(graph: Graph, start: set[fx.Node]) -> set[fx.Node]:
    """The start nodes and all that is computed from them."""
    found = set(start)
    for node in graph.nodes:
        if any(parent in found for parent in node.all_input_nodes):
            found.add(node)
    return found


def upstream(graph: Graph, end: set[fx.Node]) -> set[fx.Node]:
    """The nodes that the end nodes are computed from; an end node only where another needs it."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if any(user in found or user in end for user in node.users):
            found.add(node)
    return found


def depends_on_inputs(graph: Graph) -> set[fx.Node]:
    """Nodes whose value depends on the model's inputs (and not on parameters and constants alone)."""
    return downstream(graph, set(graph.inputs))


def _lends_shape(node: fx.Node, source: fx.Node) -> bool:
    """A reshape reads the values of its first argument only (reshape_as)."""
    return facts(node).layout == "reshape" and node.args[0] is not source


def _is_single(node: fx.Node) -> bool:
    return node.op == "call_function" and shape(node) in {(), (1,)}


def _both_sides(axis: int, dims: Dims, labels: Sequence[Label]) -> bool:
    """True for an axis that was split, part of which is contracted and part produced (a matrix kept flat)."""
    held = {label for own, label in zip(dims, labels, strict=True) if axis in own}
    return {"contracted", "produced"} <= held


def _one_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.numel() == 1


@dataclass(frozen=True)
class _Seen:
    """The parameter as one node holds it.

    dims: axes of the node's dimensions. gain: it scales slices of another weight; mate: the op that multiplied it
    entry by entry with another weight of its shape.
    """

    dims: Dims
    gain: bool = False
    mate: fx.Node | None = None


class _Walk:
    """Follows one parameter from its placeholder to the ops that consume it."""

    def __init__(self, parameter: str, graph: Graph, from_inputs: set[fx.Node], learned: set[fx.Node]) -> None:
        self.parameter, self.graph, self.from_inputs, self.learned = parameter, graph, from_inputs, learned
        self.normalised: Norm = ""
        self.kept: int | None = None

    def uses(self, placeholder: fx.Node, rank: int) -> Iterator[Use | Unsettled]:
        self.rank, self.own = rank, self.descendants(placeholder)
        self.forms = forms(self.graph, placeholder, self.own)
        pending = [(placeholder, _Seen(tuple(frozenset({a}) for a in range(rank))))]
        seen: set[tuple[fx.Node, fx.Node]] = set()
        while pending:
            source, held = pending.pop()
            for node in users(source):
                if (source, node) in seen or node.op == "output" or _lends_shape(node, source):
                    continue
                if facts(node).statistic:
                    continue
                seen.add((source, node))
                onward = self.onward(node, source, held)
                if onward is not None:
                    pending.append((node, onward))
                elif node in self.from_inputs or not self.is_statistic(node):
                    yield from self.consume(node, source, held)

    def descendants(self, placeholder: fx.Node) -> set[fx.Node]:
        """Nodes that depend on this parameter and on no input."""
        found, pending = {placeholder}, [placeholder]
        while pending:
            for user in pending.pop().users:
                if user not in found and user not in self.from_inputs:
                    found.add(user)
                    pending.append(user)
        return found

    def is_statistic(self, node: fx.Node) -> bool:
        """True where an input-independent reduction of the parameter ends in single numbers (power iteration)."""
        pending, seen, numbers = [node], {node}, set[fx.Node]()
        while pending:
            current = pending.pop()
            single = _one_number(current) or current in numbers
            if current in self.from_inputs or (not single and not current.users):
                return False
            # a single number is a statistic unless it meets an activation, by whatever is made of such numbers alone
            numbers |= {current} if single else set()
            onward = [user for user in current.users if not single or self.made_of(user, numbers)]
            numbers.update(onward if single else ())
            fresh = [user for user in onward if user not in seen]
            seen.update(fresh)
            pending += fresh
        return True

    def made_of(self, node: fx.Node, numbers: set[fx.Node]) -> bool:
        """True for a single number, an activation, and what no other part of the parameter enters."""
        entering = [parent for parent in node.all_input_nodes if parent in self.own and parent not in numbers]
        return node in self.from_inputs or _is_single(node) or not entering

    def onward(self, node: fx.Node, source: fx.Node, held: _Seen) -> _Seen | None:
        """The parameter in another form, None where `node` consumes it."""
        known, dims = facts(node), held.dims
        if known.layout == "pick":
            return held
        viewed = through_view(node, source, dims)
        if viewed is not None:
            return replace(held, dims=viewed)
        if node in self.from_inputs:
            return None
        if known.diagonal and len(dims) < len(shape(node)):
            return _Seen(broadcast(dims, len(shape(node))), gain=True)
        if known.per_channel and node.args[0] is source:
            self.normalised = "entries"  # each row over all its entries
            return held
        if known.law == "weight norm":
            return self.weight_normed(node, source, held)
        if known.pointwise:
            return held
        if known.multiplies or known.law == "contract":
            return self.multiplied(node, source, held)
        if known.combines:
            return replace(held, dims=self.joined(node, dims))
        return None

    def weight_normed(self, node: fx.Node, source: fx.Node, held: _Seen) -> _Seen:
        """g v / |v|: the scale of v is lost, and g is a gain on the slices that |v| is taken of."""
        if operand(node) is not source:
            return replace(held, gain=True)
        self.normalised, self.kept = "rows", number(argument(node, 2, 0))
        return held

    def multiplied(self, node: fx.Node, source: fx.Node, held: _Seen) -> _Seen | None:
        """A product on the weights' side: with a statistic of itself, with a gain, or as one."""
        self.note_normalisation(node, source)
        others = [a for a in node.all_input_nodes if a is not source and a not in self.own and a in self.learned]
        letters = written_letters(node, source, held.dims)
        if facts(node).law == "contract" and letters is None:
            diagonal = held.gain or any(self.is_diagonal(other) for other in others)
            return held if diagonal and len(shape(node)) == len(held.dims) else None
        dims = letters if letters is not None else broadcast(held.dims, len(shape(node)))
        spread = any(not axes and size > 1 for axes, size in zip(dims, shape(node), strict=True))
        spread = spread or math.prod(shape(node)) > math.prod(shape(source))
        gain = held.gain or (bool(others) and spread)
        full = [other for other in others if math.prod(shape(other)) == math.prod(shape(node))]
        mate = node if full and not gain and len(dims) > 1 else None
        return _Seen(dims, gain, held.mate or mate)

    def is_diagonal(self, node: fx.Node) -> bool:
        while not facts(node).diagonal:
            source = operand(node)
            if source is None or not (facts(node).passes or facts(node).multiplies or facts(node).pointwise):
                return False
            node = source
        return True

    def joined(self, node: fx.Node, dims: Dims) -> Dims:
        return self.stacked(node, dims) if facts(node).layout == "insert" else broadcast(dims, len(shape(node)))

    def stacked(self, node: fx.Node, dims: Dims) -> Dims:
        """A new dimension; putting pieces of the parameter together, it holds the axis that they were cut along."""
        pieces = [piece for piece in node.all_input_nodes if piece in self.own]
        lost = frozenset(range(self.rank)).difference(*dims) if len(pieces) > 1 else NONE
        at = number(node.args[1]) % (len(dims) + 1) if len(node.args) > 1 else 0
        return (*dims[:at], lost, *dims[at:])

    def note_normalisation(self, node: fx.Node, source: fx.Node) -> None:
        """Record that the parameter meets a statistic of itself (W / |W|)."""
        others = [a for a in node.all_input_nodes if a is not source and a in self.own]
        if facts(node).multiplies and others:
            whole = all(size == 1 for other in others for size in shape(other))
            spread = any(self.from_spread(other) for other in others)
            self.normalised = "entries" if spread else "whole" if whole else "rows"

    def from_spread(self, node: fx.Node) -> bool:
        """True for a statistic made from the parameter's variance or standard deviation."""
        pending, seen = [node], {node}
        while pending:
            current = pending.pop()
            if law(current) == "spread":
                return True
            fresh = [parent for parent in current.all_input_nodes if parent in self.own and parent not in seen]
            seen.update(fresh)
            pending += fresh
        return False

    def consume(self, node: fx.Node, source: fx.Node, held: _Seen) -> Iterator[Use | Unsettled]:
        consumer, dims = consumer_of(node), held.dims
        for position in positions(node, source) if consumer else [None]:
            labelled = consumer(node, position, dims, self.from_inputs) if consumer else None
            if labelled is None:
                yield Unsettled(self.parameter, op(node), module_path(node))
                continue
            labels, contracted = labelled
            if any(_both_sides(axis, dims, labels) for axis in range(self.rank)):
                yield Unsettled(self.parameter, f"{op(node)} that contracts and produces one axis", module_path(node))
                continue
            axes: tuple[Label, ...] = tuple(label_of(axis, dims, labels) for axis in range(self.rank))
            axes = tuple("stacked" if axis == "stacked" else "elementwise" for axis in axes) if held.gain else axes
            form = self.forms.get(source, WEIGHT)
            norm = self.norm(axes) if form.degree == 0 else ""
            where, groups = module_path(node), groups_of(node)
            yield Use(self.parameter, op(node), where, node, axes, contracted, groups, norm, form, held.mate)

    def norm(self, axes: tuple[Label, ...]) -> Norm:
        """What a weight normalisation normalises, by the label of the axis that it keeps."""
        if self.normalised == "entries":
            return "entries"
        kept = "produced" if self.kept is None else "kernel" if self.kept < 0 else axes[self.kept]
        return self.normalised if kept == "produced" else "columns" if kept == "contracted" else "taps"
