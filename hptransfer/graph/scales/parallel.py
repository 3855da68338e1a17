"""Sums of parallel terms: experts, branches or heads with weights of their own, added up one by one.

What a loop over modules adds up is no axis of any tensor, so no shape tells how many there are. Terms of a chain of
adds are parallel where none is computed from another or from a part of the sum; layers, which read what earlier ones
added, are not. Of r times as many terms the sum is r times as large once training has aligned them, and every one of
them gets 1/r of the gradient. A term that is added to some rows only (an expert, to the tokens that were routed to it)
counts as that share of the rows. What is put side by side instead (stack, cat) makes an axis, which shapes tell the
size of; its parts' gradients shrink alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

from torch import fx

from hptransfer.graph.graph import Graph, module_path, operand, sequence, shape, template, users
from hptransfer.graph.ops import facts
from hptransfer.graph.scales.arithmetic import accumulates, rows_share

Edge = tuple[fx.Node, fx.Node]
Kind = tuple[str, ...]
"""What alike terms have in common: the parameters that they alone read, layer indices left out."""


@dataclass(frozen=True)
class Term:
    """One summand: its node, the add that adds it, the share of the sum's rows that it is added to, and the parameters
    that no other term of the sum reads.
    """

    node: fx.Node
    add: fx.Node
    share: float
    parameters: frozenset[str] = frozenset()

    @property
    def kind(self) -> Kind:
        """The names of its parameters, layer indices left out."""
        return tuple(sorted({template(name) for name in self.parameters}))


@dataclass(frozen=True)
class Parallel:
    """How sums of parallel terms grow from base to target.

    sums: (term, add) -> ratio of what all such terms' shares add up to; copies: parameter that only one term reads ->
    how many alike there are, in the target and in the base.
    """

    sums: Mapping[Edge, float] = field(default_factory=dict[Edge, float])
    copies: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def divides(self, constant: fx.Node) -> bool:
        """A multiplication by a constant right behind a sum of more terms than the base's: a mean, written by hand."""
        return any(add is operand(constant) and ratio != 1 for (_, add), ratio in self.sums.items())


@dataclass(frozen=True)
class _Group:
    """Alike terms of one sum; parameters: theirs, and those of alike modules beside them that no token reached."""

    terms: tuple[Term, ...]
    parameters: frozenset[str]

    @property
    def shares(self) -> float:
        """What the shares of the rows add up to."""
        return math.fsum(term.share for term in self.terms)

    @property
    def copies(self) -> int:
        """How many sets of parameters there are; a single term is one, whatever it is made of."""
        return len(self.parameters) // len(self.terms[0].kind) if len(self.terms) > 1 else 1


def parallel_sums(target: Graph, base: Graph) -> Parallel:
    """The target's sums of parallel terms against the base's."""
    ours, theirs = _groups(target), _groups(base)
    sums: dict[Edge, float] = {}
    copies: dict[str, tuple[int, int]] = {}
    for place, groups in ours.items():
        for number, group in enumerate(groups if place in theirs else []):
            twin = theirs[place][min(number, len(theirs[place]) - 1)]
            alone = len(group.terms) == len(twin.terms) == 1
            if not alone and not facts(group.terms[0].add).listed:
                sums |= dict.fromkeys(((term.node, term.add) for term in group.terms), group.shares / twin.shares)
            if group.copies != twin.copies:
                copies |= dict.fromkeys(group.parameters, (group.copies, twin.copies))
    return Parallel(sums, copies)


def _groups(graph: Graph) -> dict[tuple[str, bool, Kind], list[_Group]]:
    """(module of the sum, side by side or added, kind) -> the alike terms of each such sum, in execution order."""
    groups: dict[tuple[str, bool, Kind], list[_Group]] = defaultdict(list)
    for terms in _Chains(graph).sums():
        alike: dict[Kind, list[Term]] = defaultdict(list)
        for term in terms:
            alike[term.kind].append(term)
        for kind, members in alike.items():
            if kind:
                last = members[-1].add
                place = template(module_path(last)), facts(last).listed, kind
                groups[place].append(_Group(tuple(members), _beside(graph, members)))
    return groups


def _beside(graph: Graph, terms: Sequence[Term]) -> frozenset[str]:
    """The terms' parameters, and all others named alike within the module that holds them all."""
    named = frozenset[str]().union(*(term.parameters for term in terms))
    if len(terms) < 2:
        return named
    holders = {kind: _holder([name for name in named if template(name) == kind]) for kind in terms[0].kind}
    alike = [(name, holders[template(name)]) for name in graph.parameters if template(name) in holders]
    return frozenset(name for name, holder in alike if name.split(".")[: len(holder)] == holder)


def _holder(names: Sequence[str]) -> list[str]:
    """The path that all names begin with."""
    levels = zip(*(name.split(".") for name in names), strict=True)
    return [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]


@dataclass(frozen=True)
class _Chains:
    graph: Graph

    def sums(self) -> Iterator[list[Term]]:
        """The parallel terms of every sum, with the parameters that each reads alone."""
        inside = {part for node in self.graph.nodes for part, _ in self.parts(node) if self.goes_on(part, node)}
        for node in self.graph.nodes:
            if node not in inside:
                terms = self.side_by_side(node) or list(self.terms(node))
                if parallel := self.parallel(terms):
                    yield [self.alone(term, terms) for term in parallel]

    def side_by_side(self, node: fx.Node) -> list[Term]:
        known = facts(node)
        listed = sequence(node.args[0]) if known.listed and known.law == "join" else []
        return [Term(item, node, 1.0) for item in listed if isinstance(item, fx.Node)]

    def parts(self, node: fx.Node) -> list[tuple[fx.Node, float]]:
        """(summand, share of the rows that it is added to) of an op that adds tensors up."""
        known = facts(node)
        if accumulates(node):
            both = [(node.args[0], 1.0), (node.args[known.summand or 0], rows_share(node))]
        elif known.adds and known.law == "join":
            last = 0.0 if node.kwargs.get("alpha") == 0 else 1.0
            both = [(node.args[0], 1.0), *((a, last) for a in node.args[1:2])]
        else:
            return []
        whole = accumulates(node)
        return [(a, share) for a, share in both if isinstance(a, fx.Node) and (whole or shape(a) == shape(node))]

    def goes_on(self, part: fx.Node, node: fx.Node) -> bool:
        """A sum so far, which nothing else reads."""
        return bool(self.parts(part)) and users(part) == [node]

    def terms(self, node: fx.Node) -> Iterator[Term]:
        for part, share in self.parts(node):
            if share == 1.0 and self.goes_on(part, node):
                yield from self.terms(part)
            elif share and not facts(part).zeros:
                yield Term(part, node, share)

    def parallel(self, terms: Sequence[Term]) -> list[Term]:
        """Those that no other is computed from (a residual stream); none where a term reads a part of the sum."""
        bits = {term.node: self.bit(term.node) for term in terms}
        read = 0
        for term in terms:
            read |= self.above[term.node] & ~bits[term.node]
        apart = [term for term in terms if not read & bits[term.node]]
        adds = {self.bit(term.add) for term in terms}
        return [] if any(self.above[term.node] & add for term in apart for add in adds) else apart

    def bit(self, node: fx.Node) -> int:
        return 1 << self.graph.order[node]

    @cached_property
    def above(self) -> Mapping[fx.Node, int]:
        """Every node's ancestors and itself, one bit each."""
        seen: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            bits = self.bit(node)
            for parent in node.all_input_nodes:
                bits |= seen[parent]
            seen[node] = bits
        return seen

    def alone(self, term: Term, terms: Sequence[Term]) -> Term:
        """The term with the parameters that no other one reads."""
        others = 0
        for other in terms:
            others |= self.above[other.node] if other is not term else 0
        apart = self.above[term.node] & ~others
        names = (name for name, node in self.graph.parameters.items() if apart & self.bit(node))
        return Term(term.node, term.add, term.share, frozenset(names))
