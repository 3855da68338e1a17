"""What a weight's function is of the weight: of which degree it is homogeneous, and whether its entries share a sign.

A rule sets the scale of a weight as an op sees it, so f(W) must scale as W does: f(t W) = t f(W). Entries of one sign
add up in full over the width, where those of a centred weight add up as a random walk does: no init and no rate mend
that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import fx

from hptransfer.graph.graph import Graph, operand
from hptransfer.graph.ops import Op, facts
from hptransfer.graph.scales.arithmetic import bounds, factors_of, filled_with, terms

SMALL = 1e-3
"""An eps: a number that what it is added to, or bounded by, does not notice."""


@dataclass(frozen=True)
class Form:
    """f(t W) = t^degree f(W) for t > 0; nan where it is of none. one_sign: its entries add up coherently; by: the
    op that made it so.
    """

    degree: float = 1.0
    one_sign: bool = False
    by: fx.Node | None = None

    @property
    def is_weight(self) -> bool:
        """A weight in another form, whose scale is the parameter's."""
        return self.degree == 1 and not self.one_sign

    def is_like(self, other: Form) -> bool:
        same = self.degree == other.degree or (math.isnan(self.degree) and math.isnan(other.degree))
        return same and self.one_sign == other.one_sign


WEIGHT = Form()
"""The parameter itself."""

CONSTANT = Form(0.0, one_sign=True)
"""What does not depend on the parameter: masks, counts, other parameters."""


def forms(graph: Graph, placeholder: fx.Node, made: Collection[fx.Node]) -> Mapping[fx.Node, Form]:
    """The form of everything that is computed from one parameter and no input, and of that parameter itself.

    made: those nodes, see uses.
    """
    known = {placeholder: WEIGHT}
    for node in sorted(made, key=graph.order.__getitem__):
        if node is not placeholder:
            known[node] = _Step(node, known, graph.values).form()
    return known


class _Step:
    """One op's form from those of its operands."""

    def __init__(self, node: fx.Node, known: Mapping[fx.Node, Form], values: Mapping[fx.Node, float]) -> None:
        self.node, self.known, self.values, self.facts = node, known, values, facts(node)

    def of(self, argument: object) -> Form:
        if isinstance(argument, (int, float)):
            return Form(0.0, one_sign=argument > 0)
        return self.known.get(argument, CONSTANT) if isinstance(argument, fx.Node) else CONSTANT

    def form(self) -> Form:
        inside = [self.of(operand) for operand in self.node.all_input_nodes]
        form = self.by_law(self.facts, self.of(self.node.args[0] if self.node.args else None), inside)
        before = next((f for f in inside if f.by is not None and f.is_like(form)), None)
        return replace(form, by=None if form.is_weight else before.by if before is not None else self.node)

    def by_law(self, known: Op, first: Form, inside: list[Form]) -> Form:
        kind = known.law
        if kind in {"view", "sum", "scan", "mean", "extreme", "lookup", "transform"}:
            fill = filled_with(self.node)
            kept = fill is None or fill == 0 or math.isinf(fill)
            return replace(first, one_sign=first.one_sign and kind != "transform") if kept else self.bent(inside)
        if kind in {"power", "spread", "norm"}:
            degree = first.degree * (1.0 if kind == "norm" else known.degree)
            even = kind != "power" or known.positive or (known.degree != 0 and known.degree % 2 == 0)
            return Form(degree, even or first.one_sign)
        if kind == "clamp" and all(bound is None or abs(bound) <= SMALL for bound in bounds(self.node)):
            return replace(first, one_sign=True)
        if kind in {"bend", "softmax", "clamp", "recurrent", "attention"}:
            return self.bent(inside)
        if kind in {"normalise", "weight norm"}:
            return Form(0.0 if operand(self.node) in self.known else 1.0)
        return self.by_operands(known, inside)

    def by_operands(self, known: Op, inside: list[Form]) -> Form:
        if known.law in {"product", "contract"} and known.summand is None:
            parts = [self.of(factor) for factor in factors_of(self.node)]
            twice = len(set(self.node.all_input_nodes)) < len(parts) and not any(p.degree == 0 for p in parts)
            signs = twice if known.law == "product" else False
            return Form(sum(part.degree for part in parts), signs or all(part.one_sign for part in parts))
        if known.law == "quotient":
            above, below = self.of(self.node.args[0]), self.of(self.node.args[1])
            return Form(above.degree - below.degree, above.one_sign and below.one_sign)
        if known.bounds:
            return self.extreme_of_two()
        if known.law in {"join", "write", "contract"}:
            return self.joined()
        return Form(0.0, known.law == "index") if known.law in {"index", "fresh"} else Form(math.nan)

    def bent(self, inside: list[Form]) -> Form:
        """A function without a degree: of what does not scale it does not scale either."""
        degree = 0.0 if all(form.degree == 0 for form in inside) else math.nan
        odd = self.facts.zero == "odd" and all(form.one_sign for form in inside)
        return Form(degree, self.facts.positive or odd)

    def extreme_of_two(self) -> Form:
        """The larger, or the smaller, of a function of the parameter and of one, or of a bound."""
        bound = next((a for a in self.node.args if a not in self.known), None)
        if bound is None:
            return self.joined()
        inside = next(self.of(a) for a in self.node.args if a in self.known)
        value = self.values.get(bound) if isinstance(bound, fx.Node) else bound
        free = isinstance(value, (int, float)) and abs(value) <= SMALL
        return replace(inside, one_sign=True) if free else self.bent([inside])

    def joined(self) -> Form:
        """Summands of one degree; other tensors are counted with their own parameter, a small number is none."""
        summed = [(self.of(term), factor) for term, factor in terms(self.node) if self.matters(term)]
        if not summed:
            return CONSTANT
        degrees = {form.degree for form, _ in summed}
        signs = {factor > 0 for _, factor in summed}
        return Form(
            degrees.pop() if len(degrees) == 1 else math.nan,
            all(form.one_sign for form, _ in summed) and len(signs) == 1,
        )

    def matters(self, term: object) -> bool:
        if isinstance(term, (int, float)):
            return SMALL < abs(term) < math.inf
        return term in self.known
