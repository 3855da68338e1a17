"""One parameter followed from its placeholder to the ops that consume it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx

from hptransfer.graph.graph import Graph, module_path, number, operand, shape, users
from hptransfer.graph.operands import argument
from hptransfer.graph.ops import facts, law, op
from hptransfer.graph.parameters.axes import NONE, Dims, broadcast, through_view
from hptransfer.graph.parameters.homogeneity import WEIGHT, forms
from hptransfer.graph.parameters.labels import (
    Label,
    consumer_of,
    groups_of,
    label_of,
    positions,
    relabelled,
    written_letters,
)
from hptransfer.graph.parameters.summed import summed_behind
from hptransfer.graph.parameters.use import Norm, Unsettled, Use


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


def _entries(node: fx.Node) -> int:
    """How many entries of its own a node has: as few as what it is a view, a repetition or a function of."""
    entries = math.prod(shape(node))
    while (source := operand(node)) is not None and (facts(node).passes or facts(node).pointwise):
        node = source
        entries = min(entries, math.prod(shape(node)))
    return entries


@dataclass(frozen=True)
class _Seen:
    """The parameter as one node holds it.

    dims: axes of the node's dimensions. gain: it scales slices of another weight; mate: the op that multiplied it
    entry by entry with another weight of its shape; reduced: the op that summed over axes of it; compared: it is the
    outcome of a comparison.
    """

    dims: Dims
    gain: bool = False
    mate: fx.Node | None = None
    reduced: fx.Node | None = None
    compared: bool = False


def _of_gain(label: Label) -> Label:
    return label if label == "stacked" else "elementwise"


class Walk:
    """Follows one parameter from its placeholder to the ops that consume it."""

    def __init__(self, parameter: str, graph: Graph, from_inputs: set[fx.Node], learned: set[fx.Node]) -> None:
        self.parameter, self.graph, self.from_inputs, self.learned = parameter, graph, from_inputs, learned
        self.normalised: Norm = ""
        self.kept: int | None = None
        self.hidden: frozenset[int] = frozenset()

    def uses(self, placeholder: fx.Node, rank: int) -> Iterator[Use | Unsettled]:
        self.rank, self.own = rank, self.descendants(placeholder)
        self.mixed, self.is_trained = self.made_with_others(placeholder), placeholder in self.learned
        self.forms = forms(self.graph, placeholder, self.own)
        pending = [(placeholder, _Seen(tuple(frozenset({a}) for a in range(rank))))]
        seen: set[tuple[fx.Node, fx.Node]] = set()
        while pending:
            source, held = pending.pop()
            for node in users(source):
                if (source, node) in seen or node.op == "output" or _lends_shape(node, source):
                    continue
                meets_itself = any(a is not source and a in self.own for a in node.all_input_nodes)
                if facts(node).statistic or (held.reduced is not None and meets_itself):
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

    def made_with_others(self, placeholder: fx.Node) -> set[fx.Node]:
        """The descendants that another trained parameter enters, too."""
        mixed: set[fx.Node] = set()
        for node in sorted(self.own - {placeholder}, key=self.graph.order.__getitem__):
            if any(p in mixed or (p in self.learned and p not in self.own) for p in node.all_input_nodes):
                mixed.add(node)
        return mixed

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
            if known.layout == "hide":  # by vmap: the axis comes back as one of the result's
                self.hidden |= frozenset().union(*dims).difference(*viewed)
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
        if known.law == "index" and shape(node) == shape(source):
            return replace(held, compared=True)
        if known.law in {"sum", "mean"} and not _one_number(node):
            return replace(held, dims=(NONE,) * len(shape(node)), reduced=node)
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
        others = [a for a in node.all_input_nodes if a is not source and self.is_other(a)]
        letters = written_letters(node, source, held.dims)
        if facts(node).law == "contract" and letters is None:
            diagonal = held.gain or any(self.is_diagonal(other) for other in others)
            return held if diagonal and len(shape(node)) == len(held.dims) else None
        dims = letters if letters is not None else broadcast(held.dims, len(shape(node)))
        spread = any(not axes and size > 1 for axes, size in zip(dims, shape(node), strict=True))
        spread = spread or math.prod(shape(node)) > math.prod(shape(source))
        gain = held.gain or (bool(others) and (spread or not self.is_trained))
        full = [other for other in others if _entries(other) == math.prod(shape(node))]
        mate = node if full and not gain and len(dims) > 1 else None
        return _Seen(dims, gain, held.mate or mate)

    def is_other(self, node: fx.Node) -> bool:
        """True for what another trained parameter enters."""
        return node in self.mixed or (node in self.learned and node not in self.own)

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
            if labelled is None or held.reduced is not None:
                if not held.compared:
                    yield Unsettled(self.parameter, op(held.reduced or node), module_path(node))
                continue
            labels, contracted = labelled
            summed = summed_behind(node, source, dims, self.from_inputs)
            labels = relabelled(labels, dims, summed.axes)
            if any(_both_sides(axis, dims, labels) for axis in range(self.rank)):
                yield Unsettled(self.parameter, f"{op(node)} that contracts and produces one axis", module_path(node))
                continue
            axes: tuple[Label, ...] = tuple(self.label(axis, dims, labels) for axis in range(self.rank))
            axes = tuple(_of_gain(label) for label in axes) if held.gain else axes
            form = self.forms.get(source, WEIGHT)
            norm = self.norm(axes) if form.degree == 0 else ""
            where, groups = module_path(node), groups_of(node)
            made = (self.parameter, op(node), where, node, axes, contracted, groups, norm, form, held.mate)
            yield Use(*made, sums=summed.by)

    def label(self, axis: int, dims: Dims, labels: list[Label]) -> Label:
        label = label_of(axis, dims, labels)
        return "batched" if label == "stacked" and axis in self.hidden else label

    def norm(self, axes: tuple[Label, ...]) -> Norm:
        """What a weight normalisation normalises, by the label of the axis that it keeps."""
        if self.normalised == "entries":
            return "entries"
        kept = "produced" if self.kept is None else "kernel" if self.kept < 0 else axes[self.kept]
        return self.normalised if kept == "produced" else "columns" if kept == "contracted" else "taps"
