"""The factors that a forward lacks, each at the one op where it serves every reader.

The analysis (scales) says on which edges an operand must be multiplied. By abc-symmetry (2011.14522) a factor may stand
anywhere on the way to such an edge that scales pass, its power by the degree of what follows. Going back from the edges
every op gets the factor that all its readers agree on; the first op on the way whose entries deviate takes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import fx

from hptransfer.graph.arithmetic import factors_of
from hptransfer.graph.graph import users
from hptransfer.graph.ops import law, row
from hptransfer.graph.scales import Analysis, Edge, Sizes

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


@dataclass
class _Sweep:
    """One pass: as many factors as do not depend on each other."""

    analysis: Analysis
    done: set[Edge | fx.Node]
    needs: dict[fx.Node, float | None] = field(default_factory=dict[fx.Node, float | None])
    covered: set[fx.Node] = field(default_factory=set[fx.Node])

    def __post_init__(self) -> None:
        for node in reversed(self.analysis.sizes.target.nodes):
            self.needs[node] = self.need(node)

    def need(self, node: fx.Node) -> float | None:
        """The factor that all readers of a node agree on; None where no scale matters to any of them."""
        asked = [n for user in users(node) if (n := self.asked(node, user)) is not None]
        if not asked:
            return None
        return asked[0] if all(math.isclose(n, asked[0], rel_tol=1e-6) for n in asked) else DISAGREE

    def asked(self, node: fx.Node, user: fx.Node) -> float | None:
        edge = (node, user)
        if edge in self.analysis.missing:
            direct = edge in self.done or not self.analysis.scales[node].deviates
            return 1.0 if direct else self.analysis.missing[edge]
        if edge in self.analysis.resets or edge in self.analysis.deferred:
            return None
        degree = self.degree(node, user)
        behind = self.needs.get(user)
        if degree is None:
            return 1.0
        return None if degree == 0 or behind is None else behind ** (1 / degree)

    def degree(self, node: fx.Node, user: fx.Node) -> float | None:
        """k, where a factor t on the operand is t^k on the result; None where nothing may change."""
        known = row(user)
        if known is None or user in self.analysis.settled:
            return None
        if known.law in {"index", "fresh"}:
            return 0.0
        if known.law in {"power", "spread"}:
            return known.degree
        if known.law == "quotient":
            return float((user.args[0] is node) - (user.args[1] is node))
        if known.law in {"product", "contract"} and user not in self.analysis.sizes.weights:
            return float(sum(factor is node for factor in factors_of(user)))
        if known.law == "attention":
            return 1.0 if user.args[2] is node else None
        return 1.0 if known.law in _ONWARD else None

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
        for user in users(node):
            edge = (node, user)
            if edge in self.analysis.missing and edge not in self.done and not self.analysis.scales[node].deviates:
                yield Missing((node,), (user,), self.analysis.missing[edge], user, "edge")

    def of_node(self, node: fx.Node) -> Iterator[Missing]:
        need = self.needs[node]
        if need is None or math.isclose(need, 1.0, rel_tol=1e-6):
            return
        if math.isnan(need):
            yield from (part for user in users(node) if (part := self.on_edge(node, user)) is not None)
            return
        region, parts, apart = self.region(node)
        if not apart:
            self.covered |= region
            whole = self.whole(node, need)
            yield replace(whole, parts=parts) if parts != (whole,) else whole

    def on_edge(self, node: fx.Node, user: fx.Node) -> Missing | None:
        edge = (node, user)
        if edge not in self.analysis.missing or edge in self.done:
            return None
        return Missing((node,), (user,), self.analysis.missing[edge], user, "edge")

    def region(self, node: fx.Node) -> tuple[set[fx.Node], tuple[Missing, ...], bool]:
        """(what a factor on this op reaches, the edges where it ends, whether it meets another factor on its way)."""
        region, edges, apart = {node}, list[Missing](), False
        pending = [node]
        while pending:
            current = pending.pop()
            for user in users(current):
                if (edge := self.on_edge(current, user)) is not None:
                    edges.append(edge)
                elif self.asked(current, user) is not None and user not in region:
                    apart = apart or (user in self.covered and law(user) != "join")
                    region.add(user)
                    pending.append(user)
        return region, tuple(edges), apart

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
        live = [f for f in inside if isinstance(f, fx.Node) and f in self.analysis.from_inputs]
        only = source is node or all(self.leads_to(user, node) for user in users(source))
        return source if len(set(live)) == len(inside) == 2 and only else None

    def leads_to(self, node: fx.Node, end: fx.Node) -> bool:
        while node is not end and law(node) == "view" and len(users(node)) == 1:
            node = users(node)[0]
        return node is end


_ONWARD = {"view", "join", "write", "lookup", "sum", "scan", "mean", "norm", "extreme", "transform", "clamp"}
