"""What one pass of the scale analysis counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from hptransfer.graph.scales.arithmetic import Term
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
