"""What one pass of the scale analysis counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

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
