"""The factors that a forward lacks, each at the one op where it serves every reader.

The analysis (scales) says on which edges an operand must be multiplied. By abc-symmetry (2011.14522) a factor may stand
anywhere on the way to such an edge that scales pass, its power by the degree of what follows. Going back from the edges
every op gets the factor that all its readers agree on; the first op on the way whose entries deviate takes it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from hptransfer.graph.graph import users
from hptransfer.graph.ops import law, row
from hptransfer.graph.scales.analysis import Analysis
from hptransfer.graph.scales.arithmetic import factors_of
from hptransfer.graph.scales.sizes import Edge, Sizes

DISAGREE = math.nan
"""Readers ask for different factors."""


@dataclass(frozen=True)
class Missing:
    """A factor that activations must be multiplied with.

    targets: each is multiplied by `factor`; consumers: the ops that see them multiplied, a product of two targets by
    the factor's square. node: the op that it is about. kind: a product of two activations, a size that an op sums
    over, a constant, or a residual branch. parts: the same further on, for where nothing can hold it here.
    """

    targets: tuple[fx.Node, ...]
    consumers: tuple[fx.Node, ...]
    factor: float
    node: fx.Node
    kind: str
    parts: tuple[Missing, ...] = ()


def missing_factors(sizes: Sizes) -> tuple[list[Missing], Analysis]:
    """All factors that the target's forward lacks, and the analysis with them in place."""
    applied: dict[fx.Node, float] = {}
    done: set[Edge | fx.Node] = set()
    lacking: list[Missing] = []
    analysis = Analysis(sizes, applied)
    while fresh := list(_Sweep(analysis, done).lacking()):
        lacking += fresh
        for one in fresh:
            if one.kind == "edge":
                done |= {(one.targets[0], one.consumers[0])}
            elif one.node in analysis.logits:
                done.add(one.node)
            else:
                applied[one.node] = applied.get(one.node, 1.0) * one.factor ** len(one.targets)
        analysis = Analysis(sizes, applied)
    return sorted(lacking, key=lambda one: sizes.target.order[one.node]), analysis


@dataclass(frozen=True)
class _Reach:
    """What a factor t on one op would change: need: the t that all readers agree on, None where none minds, DISAGREE;
    nodes: those whose entries would change; edges: where it would end and is missing.
    """

    need: float | None
    nodes: frozenset[fx.Node]
    edges: tuple[Edge, ...]


@dataclass
class _Sweep:
    """One pass: as many factors as do not depend on each other."""

    analysis: Analysis
    done: set[Edge | fx.Node]
    covered: set[fx.Node] = field(default_factory=set[fx.Node])

    def lacking(self) -> Iterator[Missing]:
        for node in self.analysis.sizes.target.nodes:
            if node in self.analysis.logits and node not in self.done:
                yield self.of_logits(node, self.analysis.logits[node])
            if self.analysis.scales[node].deviates and node not in self.covered:
                yield from self.of_node(node)
            yield from self.direct(node)

    def of_logits(self, node: fx.Node, factor: float) -> Missing:
        """A fused attention: its logits are a product inside it."""
        targets = tuple(f for f in factors_of(node) if isinstance(f, fx.Node))
        return Missing(targets, (node,), factor ** (1 / len(targets)), node, "product")

    def direct(self, node: fx.Node) -> Iterator[Missing]:
        """Edges whose operand is as it should be, but for a residual branch's depth."""
        if not self.analysis.scales[node].deviates:
            yield from (self.on_edge((node, user)) for user in users(node) if self.is_open((node, user)))

    def is_open(self, edge: Edge) -> bool:
        return edge in self.analysis.missing and edge not in self.done

    def on_edge(self, edge: Edge) -> Missing:
        return Missing(edge[:1], edge[1:], self.analysis.missing[edge], edge[1], "edge")

    def of_node(self, node: fx.Node) -> Iterator[Missing]:
        reach = self.reach(node)
        if reach.need is None or math.isclose(reach.need, 1.0, rel_tol=1e-6):
            return
        if math.isnan(reach.need):  # each reader that minds on its own; others follow further on
            yield from (self.on_edge((node, user)) for user in users(node) if self.is_open((node, user)))
            return
        if not self.meets(reach.nodes):
            self.covered |= reach.nodes
            whole, parts = self.whole(node, reach.need), tuple(self.on_edge(edge) for edge in reach.edges)
            yield replace(whole, parts=parts)

    def meets(self, nodes: frozenset[fx.Node]) -> bool:
        """True where another factor of this pass is multiplied with this one. Summands each need theirs."""
        summed = set[fx.Node]()
        for node in sorted(nodes, key=self.analysis.sizes.target.order.__getitem__):
            if node in self.covered and (law(node) == "join" or any(a in summed for a in node.all_input_nodes)):
                summed.add(node)
            elif node in self.covered:
                return True
        return False

    def reach(self, start: fx.Node) -> _Reach:
        """Follow t^degree from op to op, in order: x / |x| has degree 0 in x, and nothing behind it changes."""
        degrees, order = {start: 1.0}, self.analysis.sizes.target.order
        pending, seen = [(order[user], user) for user in users(start)], set(users(start))
        asked, edges = list[float](), list[Edge]()
        heapq.heapify(pending)
        while pending:
            _, node = heapq.heappop(pending)
            operands = [a for a in node.all_input_nodes if degrees.get(a) and self.minds((a, node))]
            degree = self.degree(node, degrees) if operands else 0.0
            missing = [(a, node) for a in operands if self.is_open((a, node))]
            edges += missing
            asked += [self.analysis.missing[edge] ** (1 / degrees[edge[0]]) for edge in missing]
            if degree is None:
                asked += [1.0] * (len(operands) - len(missing))
            elif degree and not missing:
                degrees[node] = degree
                pending_users = [user for user in users(node) if user not in seen]
                seen.update(pending_users)
                for user in pending_users:
                    heapq.heappush(pending, (order[user], user))
        agree = all(math.isclose(t, asked[0], rel_tol=1e-6) for t in asked)
        need = None if not asked else asked[0] if agree else DISAGREE
        return _Reach(need, frozenset(degrees), tuple(edges))

    def minds(self, edge: Edge) -> bool:
        return edge not in self.analysis.resets and edge not in self.analysis.deferred

    def degree(self, node: fx.Node, degrees: Mapping[fx.Node, float]) -> float | None:
        """k, where a result is multiplied by t^k if its operands are by t to these; None where it must not be."""
        known = row(node)
        first = degrees.get(node.args[0], 0.0) if node.args and isinstance(node.args[0], fx.Node) else 0.0
        if known is None or node in self.analysis.settled:
            return None
        if known.law in {"index", "fresh"}:
            return 0.0
        if known.law in {"power", "spread"}:
            return known.degree * first
        if known.law == "quotient":
            return first - degrees.get(node.args[1], 0.0) if isinstance(node.args[1], fx.Node) else first
        if known.law in {"product", "contract"} and node not in self.analysis.sizes.weights:
            return sum(degrees.get(factor, 0.0) for factor in factors_of(node) if isinstance(factor, fx.Node))
        if known.law == "attention":
            value = node.args[2]
            return degrees.get(value, 0.0) if isinstance(value, fx.Node) else 0.0
        if known.law in {"join", "write"}:
            return self.joint(node, degrees)
        return first if known.law in _ONWARD else None

    def joint(self, node: fx.Node, degrees: Mapping[fx.Node, float]) -> float | None:
        """Summands scale together, or where they deviate together each by a factor of its own."""
        counted = [t for t in node.all_input_nodes if not self.analysis.scales[t].free and t in self.analysis.learned]
        held = {degrees.get(term, 0.0) for term in counted}
        if len(held) == 1:
            return held.pop()
        return max(held, key=abs, default=0.0) if self.analysis.scales[node].deviates else None

    def whole(self, node: fx.Node, need: float) -> Missing:
        """The factor where the deviation arises: a product's on both its factors."""
        product = self.product(node)
        if product is not None:
            targets = tuple(f for f in factors_of(product) if isinstance(f, fx.Node))
            return Missing(targets, (product,), need ** (1 / len(targets)), node, "product")
        kind = "constant" if node in self.analysis.sizes.constants else "size"
        return Missing((node,), tuple(users(node)), need, node, kind)

    def product(self, node: fx.Node) -> fx.Node | None:
        """The product of two activations that a node sums, be it itself or one that it alone reads."""
        if self.analysis.growth.get(node, 1.0) == 1.0:
            return None
        source = node if law(node) == "contract" else self.analysis.summed_over(node)
        if law(source) not in {"contract", "product"} or source in self.analysis.sizes.weights:
            return None
        inside = factors_of(source)
        live = [f for f in inside if isinstance(f, fx.Node) and f not in self.analysis.weights_side]
        only = source is node or all(self.leads_to(user, node) for user in users(source))
        return source if len(set(live)) == len(inside) == 2 and only else None

    def leads_to(self, node: fx.Node, end: fx.Node) -> bool:
        while node is not end and law(node) == "view" and len(users(node)) == 1:
            node = users(node)[0]
        return node is end


_ONWARD = {"view", "lookup", "sum", "scan", "mean", "norm", "extreme", "transform", "clamp"}
