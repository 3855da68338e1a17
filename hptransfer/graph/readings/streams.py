"""Residual streams: what an op carries on from block to block, and the branches that are added to it.

Every tensor has a line: itself and all that it carries on unchanged in kind. Views, casts, norms, clamps and other
functions of each entry carry their operand; products with a constant, a learned scalar or a vector carry the
activation, as does a product with a statistic of itself (a norm written by hand); a sum carries all its summands.
A summand that a weight computed from the line of another summand is a branch, and that other one is the stream: in any
order, over any number of summands, with the stream's start added in again or not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from torch import fx

from hptransfer.graph.graph import Graph, module_path, operand, sequence, shape, users
from hptransfer.graph.ops import law, row
from hptransfer.graph.parameters.uses import depends_on_inputs
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.readings.paths import between, is_post_norm, parameters_read


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


@dataclass(frozen=True)
class Streams:
    """branches: in execution order; on_stream: parameter that acts on a stream itself (a gain behind the add, a learned
    scalar) -> its stream; sums: adds of two activations that close no branch.
    """

    branches: tuple[Branch, ...]
    on_stream: Mapping[str, int]
    sums: tuple[fx.Node, ...]

    @property
    def depths(self) -> dict[int, int]:
        """Number of residual branches on each stream."""
        return dict(Counter(branch.stream for branch in self.branches))

    @property
    def post_norm(self) -> set[int]:
        """Streams that are normalised after most of their adds: no identity path runs along them."""
        post = Counter(branch.stream for branch in self.branches if branch.post_norm)
        return {stream for stream, depth in self.depths.items() if post[stream] > depth / 2}


def residual_streams(graph: Graph) -> Streams:
    """All residual branches of a graph. A net without residual adds has none."""
    return _Walk(graph).streams()


def summands(node: fx.Node) -> list[fx.Node]:
    """The activations that an add (or a lerp, an addcmul, the sum of a stack) adds up; [] for any other op."""
    known = row(node)
    if known is not None and known.law == "sum":
        stacked = operand(node)
        listed = row(stacked) if stacked is not None else None
        inside = sequence(stacked.args[0]) if stacked is not None and listed is not None and listed.listed else []
        return [n for n in inside if isinstance(n, fx.Node) and shape(n) == shape(node)]
    if known is None or not known.adds:
        return []
    return [a for a in node.args[:3] if isinstance(a, fx.Node) and shape(a) == shape(node)]


@dataclass
class _Facts:
    """bit: of one node; above: ancestors and itself; weighted: those that a weight stands between; line: see above, and
    since: the part of it since the last norm or other function of each entry, which a branch must read.
    """

    bit: int
    above: int
    weighted: int
    line: int
    since: int
    stream: int | None = None


@dataclass
class _Walk:
    graph: Graph
    facts: dict[fx.Node, _Facts] = field(default_factory=dict[fx.Node, _Facts])
    branches: list[Branch] = field(default_factory=list[Branch])
    on_stream: dict[str, int] = field(default_factory=dict[str, int])
    sums: list[fx.Node] = field(default_factory=list[fx.Node])
    acting: dict[fx.Node, frozenset[str]] = field(default_factory=dict[fx.Node, frozenset[str]])
    early: dict[fx.Node, frozenset[str]] = field(default_factory=dict[fx.Node, frozenset[str]])

    def __post_init__(self) -> None:
        self.from_inputs = depends_on_inputs(self.graph)
        self.read = parameters_read(self.graph, self.from_inputs)
        self.multiplications = {constant.node for constant in constants(self.graph)}

    def streams(self) -> Streams:
        for node in self.graph.nodes:
            self.facts[node] = self.visit(node)
        return Streams(tuple(self.branches), self.on_stream, tuple(self.sums))

    def visit(self, node: fx.Node) -> _Facts:
        parents = [self.facts[parent] for parent in node.all_input_nodes]
        bit = 1 << self.graph.order[node]
        above = reduce(or_, (p.above for p in parents), bit)
        weighted = reduce(or_, (p.weighted for p in parents), 0)
        if self.is_weighted(node):
            weighted |= above & ~bit
        facts = _Facts(bit, above, weighted, bit, bit)
        if node in self.from_inputs:
            self.carry(node, facts)
        return facts

    def is_weighted(self, node: fx.Node) -> bool:
        return law(node) in {"contract", "recurrent"} and bool(self.read.get(node))

    def carry(self, node: fx.Node, facts: _Facts) -> None:
        """Give the node the lines that it carries on, and close a branch where one summand is computed from another."""
        carried = self.carried(node)
        closing = self.closing(carried) if len(carried) > 1 else None
        streams = [s for c in carried if (s := self.facts[c].stream) is not None]
        facts.line = reduce(or_, (self.facts[c].line for c in carried), facts.bit)
        if not (_bends(node) or _cuts(node, carried)):
            facts.since = reduce(or_, (self.facts[c].since for c in carried), facts.bit)
        facts.stream = max(streams) if streams else None
        if closing is not None:
            stream, ends = closing
            facts.line, facts.since = self.facts[stream].line | facts.bit, self.facts[stream].since | facts.bit
            facts.stream = self.stream_of(stream)
            self.confirm(facts)
            for end in ends:
                self.branches.append(self.branch(node, stream, end, facts.stream))
        elif len(carried) > 1:
            self.sums.append(node)
            self.begin_late(carried)
        elif len(carried) == 1 and self.read.get(node):
            (self.early if facts.stream is None else self.acting)[node] = self.read[node]

    def begin_late(self, carried: Sequence[fx.Node]) -> None:
        """What acts on a stream's start where it is added in again acts on the stream."""
        line = reduce(or_, (self.facts[c].line for c in carried if self.facts[c].stream is not None), 0)
        again = reduce(or_, (self.facts[c].line for c in carried if self.facts[c].stream is None), 0) & ~line
        for node in [node for node in self.early if line and self.facts[node].bit & again]:
            self.acting[node] = self.early.pop(node)

    def confirm(self, facts: _Facts) -> None:
        """What acts on a line acts on the stream once a further branch is added to it: a last norm does not."""
        for node in [node for node in self.acting if self.facts[node].bit & facts.line]:
            assert facts.stream is not None
            self.on_stream |= dict.fromkeys(self.acting.pop(node), facts.stream)

    def carried(self, node: fx.Node) -> list[fx.Node]:
        """The operands whose lines go on in this node."""
        known = row(node)
        if known is None:
            return []
        live = [a for a in node.all_input_nodes if a in self.from_inputs]
        if added := [a for a in summands(node) if a in self.from_inputs]:
            return added
        if known.law in {"product", "quotient"} or known.adds:
            return self.carried_by_product(node, live)
        first = operand(node)
        carries = known.law in {"view", "normalise"} or known.pointwise or (known.passes and known.law == "power")
        return [first] if carries and first in live and first is not None else []

    def carried_by_product(self, node: fx.Node, live: Sequence[fx.Node]) -> list[fx.Node]:
        if len(live) == 1 and shape(live[0]) == shape(node):
            return list(live)
        whole = [a for a in live if shape(a) == shape(node)]
        others = [a for a in live if a not in whole]
        if len(whole) != 1 or not all(self.is_statistic(other, whole[0]) for other in others):
            return [a for a in whole[:1] if len(whole) == 2 and self.is_statistic(whole[1], a)]
        return whole

    def is_statistic(self, other: fx.Node, of: fx.Node) -> bool:
        """Computed from the line of `of` by no weight: its norm, say."""
        last = (self.facts[other].above & self.facts[of].line).bit_length() - 1
        return last >= 0 and not self.facts[other].weighted >> last & 1

    def closing(self, carried: Sequence[fx.Node]) -> tuple[fx.Node, list[fx.Node]] | None:
        """(stream, branches' ends): the summand from whose line a weight computed others."""
        for stream in carried:
            line, since = self.facts[stream].line, self.facts[stream].since
            # what carries the same stream on (its start, added in again; a skip) is no branch of it
            ends = [c for c in carried if self.facts[c].weighted & since and not self.facts[c].line & line]
            if ends:
                return stream, ends
        return None

    def stream_of(self, node: fx.Node) -> int:
        known = self.facts[node].stream
        return known if known is not None else len({branch.stream for branch in self.branches})

    def branch(self, add: fx.Node, stream: fx.Node, end: fx.Node, index: int) -> Branch:
        start = self.graph.nodes[(self.facts[stream].since & self.facts[end].weighted).bit_length() - 1]
        inside = between(self.graph, start, end)
        parameters = frozenset().union(*(self.read.get(n, frozenset()) for n in inside))
        parameters |= self.beside(inside, parameters)
        post_norm = is_post_norm(add, start, inside)
        multiplications = {*self.factors(stream, start), *self.factors(end, start)}
        closing = next(user for user in users(end) if user is add or operand(add) is user)  # a sum's is its stack
        return Branch(module_path(add), closing, end, index, parameters, post_norm, frozenset(multiplications))

    def beside(self, inside: set[fx.Node], parameters: frozenset[str]) -> frozenset[str]:
        """Weights of the same layers that only feed the branch: cross-attention's keys and values, made of memory."""
        layers = {layer for name in parameters if (layer := layer_of(name))}
        feeding: set[str] = set()
        pending = [p for node in inside for p in node.all_input_nodes if p not in inside]
        seen = set(pending)
        while pending:
            node = pending.pop()
            if node not in self.from_inputs or not all(user in inside or user in seen for user in users(node)):
                continue
            names = self.read.get(node, frozenset())
            if names and not all(layer_of(name) in layers for name in names):
                continue
            feeding |= names
            fresh = [p for p in node.all_input_nodes if p not in seen]
            seen.update(fresh)
            pending += fresh
        return frozenset(feeding)

    def factors(self, node: fx.Node, start: fx.Node) -> Iterator[fx.Node]:
        """Multiplications by a constant behind casts, copies and dropout, back to the stream's last value."""
        order = self.graph.order
        while order[node] > order[start]:
            known = row(node)
            if node in self.multiplications:
                yield node
            elif known is None or not known.copies:
                return
            parents = [p for p in node.all_input_nodes if p in self.from_inputs]
            if len(parents) != 1:
                return
            node = parents[0]


def _bends(node: fx.Node) -> bool:
    known = row(node)
    return known is not None and (known.pointwise or known.law == "normalise")


def _cuts(node: fx.Node, carried: Sequence[fx.Node]) -> bool:
    """A part of a tensor, or copies of it, is no longer what a branch of the whole is added to."""
    return any(math.prod(shape(c)) != math.prod(shape(node)) for c in carried)


def layer_of(name: str) -> str:
    """The module of a parameter up to its first layer index: decoder.layers.3.mlp.up -> decoder.layers.3; else ""."""
    parts = name.split(".")
    at = next((k for k, part in enumerate(parts) if part.isdigit()), None)
    return "" if at is None else ".".join(parts[: at + 1])
