"""What weights that start at zero make of the values behind them, and where that stops their own gradient.

Behind weights of size t every value is v(t) = v(0) + O(t^k). A weight learns from the start only where k = 1 for it at
an output. A product of two values that both vanish has k = 2: d(ab) = a db + b da = 0, so neither weight moves and the
product stays zero for ever. A value that vanishes has no direction, so dividing it by its own norm is 0 / 0, or with an
eps a slope of 1 / eps. Biases count as zero here: they start so, or small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from hptransfer.graph.graph import Graph, module_path, shape, users
from hptransfer.graph.operands import passes
from hptransfer.graph.ops import Op, facts, op
from hptransfer.graph.parameters.uses import depends_on_inputs
from hptransfer.graph.scales.arithmetic import factors_of


@dataclass(frozen=True)
class Stopped:
    """Weights that could not learn from zero; where: the op that stops them, and how."""

    names: tuple[str, ...]
    where: str


def keeps_zero(node: fx.Node, operand: fx.Node) -> bool:
    """True where a zero operand gives a zero result, up to what is added: products, sums, odd functions and norms."""
    known = facts(node)
    if known.law == "attention":
        return node.args[2] is operand
    kept = passes(node) or known.law in {"normalise", "quotient"} or known.zero in {"odd", "flat"} or _rises(known)
    return (kept and node.args[:1] == (operand,)) or operand in factors_of(node) or known.sums


def _rises(known: Op) -> bool:
    """A power that is zero at zero, or one whose exponent is not known."""
    return known.law == "power" and not known.degree <= 0


def stopped(graph: Graph, zeros: Collection[str]) -> Stopped | None:
    """Those of these weights, all zero at the start, that then never learn or have no gradient; None if all learn."""
    return _Orders(graph, frozenset(zeros)).stopped() if zeros else None


@dataclass(frozen=True)
class _Value:
    """orders: weight -> k, the power of its size with which it moves this value; vanishes: it is zero at zero."""

    orders: Mapping[str, int] = field(default_factory=dict[str, int])
    vanishes: bool = False


class _Orders:
    def __init__(self, graph: Graph, zeros: frozenset[str]) -> None:
        self.graph, self.from_inputs = graph, depends_on_inputs(graph)
        self.values = {graph.parameters[n]: _Value({n: 1}, True) for n in zeros if n in graph.parameters}
        self.flattened: dict[str, fx.Node] = {}

    def stopped(self) -> Stopped | None:
        least: dict[str, int] = {}
        for node in self.graph.nodes:
            operands = [p for p in node.all_input_nodes if p in self.values and node in users(p)]
            if node.op == "output" or not operands:
                for parent in operands:
                    least |= {n: min(k, least.get(n, k)) for n, k in self.values[parent].orders.items()}
                continue
            if how := self.fault(node):
                names = {name for parent in operands for name in self.values[parent].orders}
                return Stopped(tuple(sorted(names)), f"{_place(node)} {how}")
            self.values[node] = found = self.value(node, operands)
            for name in (n for n, k in found.orders.items() if k > 1):
                self.flattened.setdefault(name, node)
        dead = sorted(name for name, order in least.items() if order > 1)
        return Stopped(tuple(dead), f"{_place(self.flattened[dead[0]])} has no slope at zero") if dead else None

    def fault(self, node: fx.Node) -> str:
        """What is wrong with this op alone, "" for nothing."""
        if sum(self.of(factor).vanishes for factor in factors_of(node)) > 1:
            return "multiplies zeros with each other, so that no gradient passes"
        return "divides zeros by their own norm" if self.is_singular(node) else ""

    def is_singular(self, node: fx.Node) -> bool:
        """0 / 0, or a value beside an even function of itself: its own norm, with an eps or without."""
        known, args = facts(node), [self.of(argument) for argument in node.args]
        if known.law in {"normalise", "weight norm"} or known.zero == "singular":
            return args[0].vanishes
        if not known.multiplies:
            return False
        divides = known.law == "quotient"
        if divides and args[1].vanishes:
            return True
        pairs = [args[:2]] if divides else [args[:2], args[1::-1]]
        return any(
            a.vanishes and not b.vanishes and any(b.orders.get(name, 1) > 1 for name in a.orders) for a, b in pairs
        )

    def value(self, node: fx.Node, operands: Sequence[fx.Node]) -> _Value:
        known = facts(node)
        orders: dict[str, int] = {}
        for parent in operands:
            own = self.values[parent]
            times = max(2, int(known.degree)) if own.vanishes and known.zero == "flat" else 1
            for name, order in own.orders.items():
                orders[name] = min(order * times, orders.get(name, order * times))
        return _Value(orders, self.vanishes(node, operands))

    def vanishes(self, node: fx.Node, operands: Sequence[fx.Node]) -> bool:
        zero = [parent for parent in operands if self.values[parent].vanishes]
        if not facts(node).sums:
            return any(keeps_zero(node, parent) for parent in zero)
        numbers = [a for a in node.args if isinstance(a, (int, float)) and not isinstance(a, bool) and a != 0]
        others = [parent for parent in node.all_input_nodes if parent not in zero]
        added = not facts(node).adds or not numbers
        return bool(zero) and added and all(self.is_bias(parent) for parent in others)

    def is_bias(self, node: fx.Node) -> bool:
        return node not in self.from_inputs and sum(size != 1 for size in shape(node)) == 1

    def of(self, argument: object) -> _Value:
        return self.values.get(argument, _Value()) if isinstance(argument, fx.Node) else _Value()


def _place(node: fx.Node) -> str:
    return f"{op(node)} in {module_path(node) or 'the root module'}"
