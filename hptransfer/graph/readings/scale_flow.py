"""Which parameters can hold a forward multiplier: scaling them scales exactly one activation, and nothing else.

An abc-parametrization may move a constant between the forward pass, the initial weights and the learning rate
without changing the trained function (abc-symmetry, Yang & Hu 2020, 2011.14522). This file finds *where* it may go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from hptransfer.graph.graph import Graph, module_path, sequence, users
from hptransfer.graph.operands import argument, gained, passes
from hptransfer.graph.ops import facts, op
from hptransfer.graph.parameters.uses import depends_on_inputs
from hptransfer.graph.scales.arithmetic import factors_of

STAND_IN = "(activation)"


@dataclass(frozen=True)
class Holders:
    """Parameters that together hold a multiplier theta.

    scaled: multiplied by theta. compensated: multiplied by 1/theta, where scaling reaches a second consumer whose
    next weight undoes it (a fused qkv projection also scales v; the output projection takes it back).
    """

    scaled: frozenset[str]
    compensated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class NotAbsorbed:
    """Why no set of parameters can hold the multiplier."""

    reason: str


@dataclass(frozen=True)
class _Trail:
    """What a backward walk met: the parameters that scale the activation, the nodes on the way and the edges taken."""

    scaled: frozenset[str] = frozenset()
    nodes: frozenset[fx.Node] = frozenset()
    edges: frozenset[tuple[fx.Node, fx.Node]] = frozenset()

    def join(self, other: _Trail) -> _Trail:
        return _Trail(self.scaled | other.scaled, self.nodes | other.nodes, self.edges | other.edges)

    def onto(self, node: fx.Node, operands: Iterable[fx.Node]) -> _Trail:
        """The trail with one more node, which scales because these operands of it do."""
        edges = {(node, o) for o in operands if o in self.nodes}
        return _Trail(self.scaled, self.nodes | {node}, self.edges | edges)


class ScaleFlow:
    """Answers, for one graph, which parameters can hold a multiplier on given activations."""

    def __init__(self, graph: Graph, *, stand_in: fx.Node | None = None) -> None:
        """stand_in: an activation that can be multiplied itself, as if it were a parameter named STAND_IN."""
        self.graph, self.stand_in = graph, stand_in
        self.from_inputs = depends_on_inputs(graph)
        self._trained = {n for n in graph.parameters.values() if getattr(n.meta.get("val"), "requires_grad", True)}

    def holders(self, targets: Iterable[fx.Node], *, consumers: Iterable[fx.Node]) -> Holders | NotAbsorbed:
        """Parameters that scale every target by the same theta as `consumers` see it, and change nothing else.

        targets: activations to be multiplied; consumers: the ops that should see them multiplied.
        """
        targets, consumers = set(targets), set(consumers)
        trail = self._all(targets)
        if isinstance(trail, NotAbsorbed):
            return trail
        if not trail.scaled:
            return NotAbsorbed("no parameter stands before it")
        twice = self._scaled_twice(trail, targets, consumers)
        if twice is not None:
            return NotAbsorbed(f"{op(twice)} in {module_path(twice) or 'the root module'} would be scaled twice over")
        compensated: set[str] = set()
        for leak in self._leaks(trail, consumers):
            undone = self._compensate(leak, trail, consumers)
            if undone is None:
                return NotAbsorbed(
                    f"scaling {', '.join(sorted(trail.scaled))} would also change {op(leak)} in "
                    f"{module_path(leak) or 'the root module'}"
                )
            compensated |= undone
        if compensated & trail.scaled:
            return NotAbsorbed(f"{sorted(compensated & trail.scaled)} would have to be both scaled and compensated")
        return Holders(trail.scaled, frozenset(compensated))

    def parameter_behind(self, node: object) -> str | None:
        """The parameter that this node is a view, cast or slice of, or None."""
        while isinstance(node, fx.Node):
            name = self.graph.parameter_name(node)
            if name is not None:
                return name
            if not passes(node) or node in self.from_inputs:
                return None
            node = node.args[0]
        return None

    # Backward: who scales this activation?

    def _back(self, node: object) -> _Trail | NotAbsorbed:
        if not isinstance(node, fx.Node):
            return NotAbsorbed("it is a constant")
        if node is self.stand_in:
            return _Trail(frozenset({STAND_IN}), frozenset({node}))
        name = self.parameter_behind(node)
        if name is not None:
            return _Trail(frozenset({name}), frozenset(self._chain(node)))
        if facts(node).zeros:
            return _Trail()
        found = self._through(node)
        return found if isinstance(found, NotAbsorbed) else found.onto(node, node.all_input_nodes)

    def _through(self, node: fx.Node) -> _Trail | NotAbsorbed:
        """The walk continued behind one op, through every operand that must scale for its output to scale."""
        known, at = facts(node), argument
        if known.weight is not None:
            return self._weighted(node)
        if passes(node) or known.law in {"quotient", "extreme"}:
            return self._back(node.args[0])
        if known.law == "join" and known.listed:
            return self._all(sequence(node.args[0]))
        if known.adds and not known.factors:
            return self._all(node.args[:2])
        if known.law == "write":
            return self._all((node.args[0], at(node, known.summand)))
        if known.law == "product" or (known.law == "contract" and known.summand is None):
            return self._one_of(node, factors_of(node))
        if known.law == "attention":
            return self._back(node.args[2])  # linear in the values
        return NotAbsorbed(f"{op(node)} in {module_path(node) or 'the root module'} does not pass a scale on")

    def _weighted(self, node: fx.Node) -> _Trail | NotAbsorbed:
        present = gained(node)
        if argument(node, facts(node).weight) not in present:
            return NotAbsorbed(f"{op(node)} in {module_path(node)} has no gain")
        if any(self.parameter_behind(o) is None for o in present):
            return NotAbsorbed(f"the weight of {op(node)} in {module_path(node)} is computed, not a plain parameter")
        return self._all(present)

    def _all(self, nodes: Iterable[object]) -> _Trail | NotAbsorbed:
        trail = _Trail()
        for node in nodes:
            found = self._back(node)
            if isinstance(found, NotAbsorbed):
                return found
            trail = trail.join(found)
        return trail

    def _one_of(self, node: fx.Node, factors: list[object]) -> _Trail | NotAbsorbed:
        """A product scales with one of its factors: a plain parameter, else the rightmost, last a frozen table."""
        nodes = [f for f in factors if isinstance(f, fx.Node)]
        if len(set(nodes)) < len(nodes):
            return NotAbsorbed(f"{op(node)} in {module_path(node) or 'the root module'} multiplies a value by itself")
        frozen = [n for n in nodes if self._is_frozen(n)]
        nodes = frozen + [n for n in nodes if n not in frozen]
        plain = [n for n in nodes if self.parameter_behind(n) is not None and n not in frozen]
        found: _Trail | NotAbsorbed = NotAbsorbed("no factor depends on a parameter")
        tried: list[NotAbsorbed] = []
        for factor in plain or nodes[::-1]:
            found = self._back(factor)
            if isinstance(found, _Trail) and found.scaled:
                return found
            tried += [found] if isinstance(found, NotAbsorbed) else []
        return tried[0] if tried and tried[-1] is found else found  # what stops the preferred factor

    def _is_frozen(self, node: fx.Node) -> bool:
        """Made of constants and parameters that are not trained: a table, such as the sinusoids of positions."""
        if node in self.from_inputs:
            return False
        pending, seen = [node], {node}
        while pending:
            current = pending.pop()
            if current in self._trained:
                return False
            fresh = [parent for parent in current.all_input_nodes if parent not in seen]
            seen.update(fresh)
            pending += fresh
        return True

    def _chain(self, node: fx.Node) -> set[fx.Node]:
        chain = {node}
        while self.graph.parameter_name(node) is None:
            node = node.all_input_nodes[0]
            chain.add(node)
        return chain

    # Forward: what else would change, and can the next weight undo it?

    def _scaled_twice(self, trail: _Trail, targets: set[fx.Node], consumers: set[fx.Node]) -> fx.Node | None:
        """A node that reads a scaled value where it should not: beside the trail (x f(x)), or beside the targets."""
        for node in trail.nodes | consumers:
            if self.parameter_behind(node) is not None:
                continue
            for operand in node.all_input_nodes:
                scaled = operand in trail.nodes or self.parameter_behind(operand) in trail.scaled
                expected = operand in targets if node in consumers else (node, operand) in trail.edges
                if scaled and not expected:
                    return node
        return None

    def _leaks(self, trail: _Trail, consumers: set[fx.Node]) -> list[fx.Node]:
        """Nodes outside the trail that read a scaled value."""
        met = set(trail.nodes)
        leaks: list[fx.Node] = []
        pending = list(trail.nodes) + [self.graph.parameters[name] for name in trail.scaled - {STAND_IN}]
        while pending:
            node = pending.pop()
            for user in users(node):
                if user in met or user in consumers or facts(user).scale_free:
                    continue
                met.add(user)
                if self.parameter_behind(user) is not None:
                    pending.append(user)  # another slice of a scaled parameter
                else:
                    leaks.append(user)
        return leaks

    def _compensate(self, leak: fx.Node, trail: _Trail, consumers: set[fx.Node]) -> set[str] | None:
        """Weights that undo the scale downstream of a leak; None where something nonlinear comes first."""
        wholly = facts(leak).weight is not None and self._wholly_scaled(leak, trail)
        if not (wholly or (passes(leak) and leak.args[0] in trail.nodes)):
            return None
        undone: set[str] = set()
        pending, seen = [leak], {leak}
        while pending:
            node = pending.pop()
            for user in users(node):
                if user in seen:
                    continue
                seen.add(user)
                weight = None if user in trail.nodes | consumers else self.weight_reading(user, node)
                if weight is not None:
                    undone.add(weight)
                elif self._carries(user, node, trail, consumers):
                    pending.append(user)
                else:
                    return None
        return undone or None

    def _carries(self, user: fx.Node, node: fx.Node, trail: _Trail, consumers: set[fx.Node]) -> bool:
        """True when `user` scales as `node` does, and nothing else in it scales."""
        if user in trail.nodes:
            return False
        known = facts(user)
        if known.law == "attention":
            return user.args[2] is node and node not in user.args[:2]
        if user in consumers or any(o in trail.nodes for o in user.all_input_nodes):
            return False
        bare = known.law == "contract" and known.summand is None and not any(o is not None for o in self._bias(user))
        return (passes(user) and user.args[0] is node) or (bare and factors_of(user).count(node) == 1)

    def _bias(self, node: fx.Node) -> list[object]:
        return [argument(node, facts(node).bias)]

    def _wholly_scaled(self, node: fx.Node, trail: _Trail) -> bool:
        return all(self.parameter_behind(operand) in trail.scaled for operand in gained(node))

    def weight_reading(self, node: fx.Node, operand: fx.Node) -> str | None:
        """The weight of a contraction that reads `operand`, when it is a parameter with this one use."""
        known = facts(node)
        if known.law == "contract" and known.weight is not None:
            weight = self.parameter_behind(argument(node, known.weight))
        elif known.law == "contract" and len(factors_of(node)) == 2:
            weight = next((self.parameter_behind(a) for a in factors_of(node) if a is not operand), None)
        else:
            return None
        return weight if weight is not None and self._single_use(weight) else None

    def _single_use(self, name: str) -> bool:
        node = self.graph.parameters[name]
        while True:
            readers = users(node)
            if len(readers) != 1:
                return False
            if self.parameter_behind(readers[0]) is None:
                return True
            node = readers[0]
