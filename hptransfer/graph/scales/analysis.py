"""Dimensional analysis: how the typical entry of every tensor differs between target and base, once trained.

The rules of a parametrization promise that a weight turns entries of order one into entries of order one, at the start
and in their change (core.rules). Everything else in the forward is counted here, as a ratio target / base (Tensor
Programs IV, 2011.14522; spectral condition, 2310.17813):
- a sum over an axis that grows by r, be it of products of two activations or of entries of one sign, adds up in full
  once training has aligned them: r (law of large numbers; r^1/2, the central limit theorem, where a scheme takes q and
  k to stay independent), a mean divides by r, a norm of order p grows by r^(1/p);
- a sum of terms that were added up one by one grows with their number (parallel.py), and one over an axis of which a
  router chose k entries, the others being zero, with k;
- a norm leaves 1 behind it, a unit vector has entries r^-1/2 and a softmax 1/r, by that same count;
- a constant of the code is counted and not restored;
- a homogeneous function of degree k has the ratio's kth power; any other one, a sum of different ratios, a weight and
  an output of the model need entries of order one: there a ratio other than one is a factor that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import fx

from hptransfer.graph.graph import operand, shape, users
from hptransfer.graph.operands import argument
from hptransfer.graph.ops import facts, law, row
from hptransfer.graph.parameters.uses import upstream
from hptransfer.graph.scales.arithmetic import (
    Term,
    bounds,
    contracted_size,
    factors_of,
    filled_with,
    own_scale,
    softmax_size,
    summed_size,
    terms,
    turned_gain,
    vector_order,
)
from hptransfer.graph.scales.counted import Counted
from hptransfer.graph.scales.sizes import FREE, ONE, Scale, floats, is_free, quotient


@dataclass
class Analysis(Counted):
    """One pass over the target's graph, in order."""

    def __post_init__(self) -> None:
        graph = self.sizes.target
        self.from_inputs, self.learned = self.sizes.from_inputs, self.sizes.learned
        self.weights_side = self.sizes.weights_side
        self.needed = upstream(graph, {node for node in graph.nodes if node.op == "output"})
        for node in graph.nodes:
            scale = self.summed_up(node, users(node), self.scale(node))
            factor = self.applied.get(node, 1.0)
            self.scales[node] = replace(scale, ratio=scale.ratio * factor) if factor != 1.0 else scale

    def scale(self, node: fx.Node) -> Scale:
        known = row(node)
        if known is None:
            if node.op == "call_function" and node in self.learned and node in self.needed and floats(node):
                self.unknown.append(node)
            return ONE
        if node not in self.from_inputs and node in self.weights_side:
            return self.of_weight(node)
        return _LAWS[known.law](self, node)

    def of_weight(self, node: fx.Node) -> Scale:
        """On the weights' side only the code's constants count: the rest is the rule's, or a norm's, see uses."""
        known = facts(node)
        if known.multiplies:
            inside = math.prod(self.of(a).ratio for a in node.all_input_nodes if a in self.weights_side)
            return Scale(inside * self.sizes.constants.get(node, 1.0))
        if known.law in {"power", "spread"}:
            degree = 1.0 if math.isnan(known.degree) else known.degree
            return Scale(self.of(operand(node)).ratio ** degree)
        if known.law == "transform":
            return self.transform(node)
        if known.passes or known.law in {"norm", "extreme", "clamp"}:
            return self.of(operand(node))
        if known.law == "normalise":  # its gain is all that scales it
            return self.of(argument(node, known.weight))
        return self.join(node) if known.law == "join" else ONE

    # One method per law

    def first(self, node: fx.Node) -> Scale:
        return self.of(operand(node))

    def view(self, node: fx.Node) -> Scale:
        fill = filled_with(node)
        if fill is not None and not is_free(fill):
            return self.bend(node)
        known = row(node)
        return FREE if known is not None and known.zeros else self.first(node)

    def one(self, node: fx.Node) -> Scale:
        known, fill = row(node), argument(node, "fill_value")
        free = isinstance(fill, (int, float)) and is_free(fill)
        if known is not None and known.one_hot:
            return self.choosing(node, Scale(positive=True))
        return FREE if free or (known is not None and known.zeros) else ONE

    def normalise(self, node: fx.Node) -> Scale:
        self.resets |= {(a, node) for a in node.all_input_nodes[:1]}
        return ONE

    def power(self, node: fx.Node) -> Scale:
        known, inside = row(node), self.first(node)
        assert known is not None
        if math.isnan(known.degree):
            return self.bend(node)
        even = known.degree % 2 == 0
        ratio = inside.ratio**known.degree if inside.ratio > 0 else 1.0
        return replace(inside, ratio=ratio, positive=known.positive or even or inside.positive)

    def bend(self, node: fx.Node) -> Scale:
        known = row(node)
        self.settle(node, [a for a in node.all_input_nodes if floats(a)])
        inside = self.first(node)
        return Scale(positive=known is not None and known.positive, share=inside.share, among=inside.among)

    def clamp(self, node: fx.Node) -> Scale:
        """Bounds at zero, at next to nothing or far away do not bend."""
        if all(bound is None or is_free(bound) for bound in bounds(node)):
            return self.first(node)
        return self.bend(node)

    def join(self, node: fx.Node) -> Scale:
        """Summands of different scales must each have order one; of one scale they go on together."""
        joined = [(term, scale) for term, scale in self.terms(node) if not scale.free]
        if not joined:
            return FREE
        first = joined[0][1].ratio
        positive = all(scale.positive for _, scale in joined)
        if all(math.isclose(scale.ratio, first, rel_tol=1e-6) for _, scale in joined):
            bounded = all(scale.bounded for _, scale in joined)
            return self.share_of(node, [scale for _, scale in joined], Scale(first, positive, bounded))
        self.settled.add(node)
        for term, scale in joined:
            if scale.deviates and (lacking := self.activation(term)) is not None:
                self.missing[lacking, node] = 1 / scale.ratio
        return Scale(positive=positive)

    def terms(self, node: fx.Node) -> list[tuple[Term, Scale]]:
        """The summands' scales, a branch's relative to the one that it shall have."""
        twin = self.sizes.pairs.get(node)
        at_base = terms(twin) if twin is not None else []
        scaled: list[tuple[Term, Scale]] = []
        for at, (term, factor) in enumerate(terms(node)):
            theirs = at_base[at] if len(at_base) > at else (term, factor)
            scale, branch = self.of_term(term, theirs[0]), self.activation(term)
            shall = self.sizes.depth.get((branch, node), 1.0) if branch is not None else 1.0
            self.closed |= {(branch, node)} if branch is not None else set()
            if branch is not None and len(users(branch)) > 1:
                scale = self.summed_up(branch, [node], scale)
            ratio = scale.ratio * quotient(factor, theirs[1]) / shall
            scaled.append((term, replace(scale, ratio=ratio, positive=scale.positive and factor > 0)))
        return scaled

    def of_term(self, term: Term, theirs: Term) -> Scale:
        if isinstance(term, fx.Node):
            return self.of(term)
        if isinstance(term, tuple):
            parts = [self.of(a) for a in term]  # type: ignore[reportUnknownVariableType]
            return Scale(math.prod(part.ratio for part in parts))
        if not isinstance(term, (int, float)) or is_free(term):
            return FREE
        return Scale(abs(quotient(term, theirs if isinstance(theirs, (int, float)) else term)), term > 0)

    def product(self, node: fx.Node) -> Scale:
        parts = [self.of(a) for a in node.args[:2]]
        twice = node.args[0] is node.args[1] if len(node.args) > 1 else False
        ratio = math.prod(part.ratio for part in parts) * self.sizes.constants.get(node, 1.0)
        odd = [part for part in parts if part.deviates]
        bounded = bool(odd) and all(part.bounded for part in odd)
        positive = twice or all(self.has_sign(a) for a in node.args[:2])
        share = parts[0].share if twice else math.prod(part.share for part in parts)
        among = max((part.among for part in parts), key=lambda sizes: sizes != (1, 1))
        return Scale(ratio, positive, bounded, any(p.free for p in parts), share, among)

    def quotient(self, node: fx.Node) -> Scale:
        above, below = self.of(node.args[0]), self.of(node.args[1])
        ratio = above.ratio / below.ratio * self.sizes.constants.get(node, 1.0)
        bounded = above.bounded or (below.deviates and not above.deviates)
        return Scale(
            ratio, above.positive and self.has_sign(node.args[1]), bounded, above.free, above.share, above.among
        )

    def has_sign(self, argument: object) -> bool:
        return argument > 0 if isinstance(argument, (int, float)) else self.of(argument).positive

    def contract(self, node: fx.Node) -> Scale:
        factors = [f for f in factors_of(node) if isinstance(f, fx.Node)]
        if node in self.sizes.lost:  # the function depends on the weight's direction alone: any scale goes on
            return Scale(self.sizes.lost[node] * math.prod(self.of(f).ratio for f in factors))
        if node in self.sizes.weights or any(f in self.weights_side for f in factors):
            self.settle(node, factors)
            return self.unmixed(node, factors)
        self.growth[node] = self.sizes.ratio(node, contracted_size)
        inside = [self.of(f) for f in factors]
        scale = self.summed(inside, self.growth[node] * self.terms_over(node, inside))
        if self.growth[node] != 1:
            self.deferred |= {(f, node) for f in factors}
        known = row(node)
        return scale if known is None or known.summand is None else self.with_summand(node, scale)

    def summed(self, factors: list[Scale], growth: float) -> Scale:
        """A sum of products: its entries, and whether they are of one sign."""
        positive = all(f.positive for f in factors)
        whole = positive or any(f.bounded for f in factors)
        ratio = math.prod(f.ratio for f in factors) * growth ** (1.0 if whole else self.sizes.alignment)
        return Scale(ratio, positive)

    def with_summand(self, node: fx.Node, scale: Scale) -> Scale:
        """baddbmm: what is added must be of the product's scale."""
        (_, beta), (_, alpha) = terms(node)
        twin = self.sizes.pairs.get(node)
        theirs = terms(twin) if twin is not None else terms(node)
        scale = replace(scale, ratio=scale.ratio * quotient(alpha, theirs[1][1]))
        if beta and not self.of(node.args[0]).free and scale.deviates:
            self.logits[node] = 1 / scale.ratio
            return replace(scale, ratio=1.0)
        return scale

    def attention(self, node: fx.Node) -> Scale:
        query, key, value = (self.of(a) for a in node.args[:3])
        self.growth[node] = self.sizes.ratio(node, contracted_size)
        scale = self.summed([query, key], self.growth[node])
        ratio = scale.ratio * self.sizes.ratio(node, own_scale)
        if not math.isclose(ratio, 1.0, rel_tol=1e-9):
            self.logits[node] = 1 / ratio
        self.deferred |= {(a, node) for a in node.args[:2] if isinstance(a, fx.Node)}
        mask = argument(node, "attn_mask")
        if isinstance(mask, fx.Node) and self.of(mask).deviates:
            self.missing[mask, node] = 1 / self.of(mask).ratio
        return replace(value, free=False)

    def sum(self, node: fx.Node) -> Scale:
        inside, source = self.first(node), self.summed_over(node)
        size = self.sizes.ratio(node, summed_size)
        growth = self.growth[node] = 1.0 if node in self.sizes.sums else size  # (x w).sum
        mean = size if law(node) == "mean" else 1.0
        alone = law(source) != "product" or inside.positive or inside.bounded or len(set(source.args[:2])) < 2
        seen = self.terms_over(node, [inside])
        terms = growth * seen
        ratio = inside.ratio * terms ** (1.0 if alone else self.sizes.alignment) / mean
        return replace(inside, ratio=ratio, share=inside.share / seen)

    def summed_over(self, node: fx.Node) -> fx.Node:
        """What stands behind the views that a sum reads."""
        source = operand(node) or node
        while law(source) == "view" and isinstance(operand(source), fx.Node):
            source = operand(source) or source
        return source

    def scan(self, node: fx.Node) -> Scale:
        along = self.sizes.ratio(node, lambda n: shape(n)[int(n.args[1])] if shape(n) else 1)  # type: ignore[arg-type]
        return replace(self.first(node), ratio=self.first(node).ratio * along)

    def norm(self, node: fx.Node) -> Scale:
        growth = self.sizes.ratio(node, summed_size)
        order = vector_order(node)
        return Scale(self.first(node).ratio * (growth ** (1 / order) if order else 1.0), positive=True)

    def softmax(self, node: fx.Node) -> Scale:
        self.settle(node, [operand(node)])
        inside = self.first(node)
        growth = self.sizes.ratio(node, softmax_size) * self.terms_over(node, [inside])
        whole = Scale(1 / growth, positive=True, bounded=growth != 1)
        return replace(whole, share=inside.share, among=inside.among)

    def transform(self, node: fx.Node) -> Scale:
        """It keeps the sum of squares up to its norm, whatever enters: no alignment matters."""
        return Scale(self.first(node).ratio * self.sizes.ratio(node, turned_gain))

    def end(self, node: fx.Node) -> Scale:
        """Outputs that share a length or a sum stay as they are."""
        small = {a for a in node.all_input_nodes if self.of(a).bounded and self.of(a).ratio < 1}
        self.resets |= {(a, node) for a in small}
        self.settle(node, [a for a in node.all_input_nodes if a not in small])
        return ONE


_LAWS: Mapping[str, Callable[[Analysis, fx.Node], Scale]] = {
    "view": Analysis.view, "power": Analysis.power, "bend": Analysis.bend, "clamp": Analysis.clamp,
    "join": Analysis.join, "write": Analysis.join, "product": Analysis.product, "quotient": Analysis.quotient,
    "contract": Analysis.contract, "attention": Analysis.attention, "recurrent": Analysis.bend,
    "lookup": Analysis.first, "sum": Analysis.sum, "scan": Analysis.scan, "mean": Analysis.sum,
    "norm": Analysis.norm, "spread": Analysis.power, "extreme": Analysis.first, "softmax": Analysis.softmax,
    "normalise": Analysis.normalise, "weight norm": Analysis.one, "transform": Analysis.transform,
    "index": Analysis.one, "fresh": Analysis.one, "end": Analysis.end,
}  # fmt: skip
