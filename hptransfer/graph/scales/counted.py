"""What one pass of the scale analysis counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from hptransfer.graph.operands import argument
from hptransfer.graph.ops import facts, law
from hptransfer.graph.scales.arithmetic import Term, chosen, summed_axes
from hptransfer.graph.scales.sizes import ONE, Edge, Scale, Sizes


@dataclass
class Counted:
    """scales: of every node. missing: (operand, reader) -> the factor by which the operand must be multiplied there;
    logits: attention ops -> the factor that their logits lack. resets: edges on which a scale does not matter.
    deferred: edges into a product over a growing axis, which answers for its factors. growth: op -> ratio of the size
    that it sums over. unknown: ops without a row on the way from a parameter to an output. settled: ops all of whose
    operands must have order one; closed: (summand, add), all that were met.
    """

    sizes: Sizes
    applied: Mapping[fx.Node, float] = field(default_factory=dict[fx.Node, float])
    scales: dict[fx.Node, Scale] = field(default_factory=dict[fx.Node, Scale])
    missing: dict[Edge, float] = field(default_factory=dict[Edge, float])
    logits: dict[fx.Node, float] = field(default_factory=dict[fx.Node, float])
    resets: set[Edge] = field(default_factory=set[Edge])
    deferred: set[Edge] = field(default_factory=set[Edge])
    growth: dict[fx.Node, float] = field(default_factory=dict[fx.Node, float])
    unknown: list[fx.Node] = field(default_factory=list[fx.Node])
    settled: set[fx.Node] = field(default_factory=set[fx.Node])
    closed: set[Edge] = field(default_factory=set[Edge])

    def of(self, argument: object) -> Scale:
        return self.scales.get(argument, ONE) if isinstance(argument, fx.Node) else ONE

    def settle(self, node: fx.Node, operands: Iterable[object]) -> None:
        """These operands must have entries of order one as this op sees them."""
        self.settled.add(node)
        for a in operands:
            if self.of(a).deviates and isinstance(a, fx.Node):
                self.missing[a, node] = 1 / self.of(a).ratio

    def summed_up(self, term: fx.Node, readers: Sequence[fx.Node], scale: Scale) -> Scale:
        """The scale of one of several parallel terms, as its only reader sees what they all add up to."""
        ratio = self.sizes.parallel.get((term, readers[0])) if len(readers) == 1 else None
        return scale if ratio is None else replace(scale, ratio=scale.ratio * ratio * scale.share, share=1.0)

    def activation(self, term: Term) -> fx.Node | None:
        """The node that a factor can be put on: of a product, the one that depends on inputs."""
        if isinstance(term, fx.Node):
            return term
        parts = [a for a in term if isinstance(a, fx.Node)] if isinstance(term, tuple) else []
        return next((a for a in parts if a in self.sizes.from_inputs), parts[0] if parts else None)

    def share_of(self, node: fx.Node, joined: Sequence[Scale], whole: Scale) -> Scale:
        """The share of a sum that is not zero: its summands' where they agree, what is written into zeros."""
        if law(node) == "write" and self.of(node.args[0]).free:
            return self.choosing(node, whole)
        alike = len({scale.share for scale in joined}) == 1
        return replace(whole, share=joined[0].share, among=joined[0].among) if alike else whole

    def choosing(self, node: fx.Node, whole: Scale) -> Scale:
        """What an op makes that chooses entries of an axis."""
        twin = self.sizes.pairs.get(node, node)
        share = self.sizes.ratio(node, lambda n: chosen(n)[0])
        return replace(whole, share=share, among=(chosen(node)[1], chosen(twin)[1]))

    def terms_over(self, node: fx.Node, factors: Iterable[Scale]) -> float:
        """Ratio of the share of terms that are not zero in what an op sums over; 1 where it sums over other axes."""
        axes = list(zip(summed_axes(node), summed_axes(self.sizes.pairs.get(node, node)), strict=False))
        return math.prod(factor.share for factor in factors if factor.among in axes)

    def unmixed(self, node: fx.Node, factors: Sequence[fx.Node]) -> Scale:
        """What a weight makes of entries of order one: zero where the examples of an axis that it leaves alone are."""
        inside = [self.of(f) for f in factors if f in self.sizes.from_inputs]
        added = facts(node).bias is not None and isinstance(argument(node, facts(node).bias), fx.Node)
        kept = [one for one in inside if one.share != 1.0 and self.terms_over(node, [one]) == 1.0 and not added]
        return Scale(share=kept[0].share, among=kept[0].among) if kept else ONE
