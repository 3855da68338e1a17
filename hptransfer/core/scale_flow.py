"""Which parameters can hold a forward multiplier: scaling them scales exactly one activation, and nothing else.

An abc-parametrization may move a constant between the forward pass, the initial weights and the learning rate
without changing the trained function (Yang & Hu 2020, 2011.14522, section on abc-symmetry). This file finds *where* it may go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx

from hptransfer.core.axes import RESHAPES, SAME
from hptransfer.core.graph import Graph, module_path, op, users
from hptransfer.core.uses import depends_on_inputs

PASSES = (
    SAME
    | RESHAPES
    | {
        "t", "numpy_T", "mT", "transpose", "permute", "movedim", "swapaxes", "unsqueeze", "squeeze", "select", "unbind",
        "getitem", "expand", "repeat", "tile", "broadcast_to", "index", "index_select", "gather", "relu", "relu_",
        "leaky_relu", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "sum",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "cumsum", "upsample_nearest2d",
        "upsample_bilinear2d", "zero_", "pixel_shuffle", "unfold", "dropout_", "feature_dropout",
    }
)  # fmt: skip
"""Ops through which a positive scale of the first argument passes unchanged."""

WEIGHTED = {
    "linear": (1, 2), "addmm": (2, 0), "conv1d": (1, 2), "conv2d": (1, 2), "conv3d": (1, 2), "conv_transpose1d": (1, 2),
    "conv_transpose2d": (1, 2), "conv_transpose3d": (1, 2), "layer_norm": (2, 3), "rms_norm": (2, None),
    "group_norm": (2, 3), "batch_norm": (1, 2), "instance_norm": (1, 2), "embedding": (0, None),
}  # fmt: skip
"""Positions of (weight, bias): scaling both scales the op's output."""

CONTRACTIONS = {"matmul", "mm", "bmm", "mv", "_grouped_mm"}
NORMS = {"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"}


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


@dataclass
class _Trail:
    """What a backward walk met: the parameters that scale the activation and the nodes on the way."""

    scaled: set[str] = field(default_factory=set)
    nodes: set[fx.Node] = field(default_factory=set)

    def join(self, other: _Trail) -> _Trail:
        return _Trail(self.scaled | other.scaled, self.nodes | other.nodes)


class ScaleFlow:
    """Answers, for one graph, which parameters can hold a multiplier on given activations."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.from_inputs = depends_on_inputs(graph)

    def holders(self, targets: Iterable[fx.Node], *, consumers: Iterable[fx.Node]) -> Holders | NotAbsorbed:
        """Parameters that scale every target by the same theta as `consumers` see it, and change nothing else.

        targets: activations to be multiplied; consumers: the ops that should see them multiplied.
        """
        trail = _Trail()
        for target in targets:
            found = self._back(target)
            if isinstance(found, NotAbsorbed):
                return found
            trail = trail.join(found)
        if not trail.scaled:
            return NotAbsorbed("no parameter stands before it")
        compensated: set[str] = set()
        for leak in self._leaks(trail, set(consumers)):
            undone = self._compensate(leak, trail)
            if undone is None:
                return NotAbsorbed(
                    f"scaling {sorted(trail.scaled)} would also change {op(leak)} in {module_path(leak)}"
                )
            compensated |= undone
        if compensated & trail.scaled:
            return NotAbsorbed(f"{sorted(compensated & trail.scaled)} would have to be both scaled and compensated")
        return Holders(frozenset(trail.scaled), frozenset(compensated))

    def parameter_behind(self, node: object) -> str | None:
        """The parameter that this node is a view, cast or slice of, or None."""
        while isinstance(node, fx.Node):
            name = self.graph.parameter_name(node)
            if name is not None:
                return name
            if op(node) not in PASSES or node in self.from_inputs:
                return None
            node = node.args[0]
        return None

    # Backward: who scales this activation?

    def _back(self, node: object) -> _Trail | NotAbsorbed:
        if not isinstance(node, fx.Node):
            return NotAbsorbed("it is a constant")
        name = self.parameter_behind(node)
        if name is not None:
            return _Trail({name}, self._chain(node))
        kind = op(node)
        if kind in WEIGHTED:
            found = self._weighted(node)
        elif kind in PASSES:
            found = self._back(node.args[0])
        elif kind in {"cat", "stack"}:
            found = self._all(node.args[0])  # type: ignore[arg-type]
        elif kind in {"add", "sub", "add_"}:
            found = self._all(node.args[:2])
        elif kind in {"mul", "mul_"} or kind in CONTRACTIONS or "grouped_mm" in kind:
            found = self._either(node)
        elif kind in {"div", "div_", "index_add", "masked_fill"}:
            found = self._back(node.args[3 if kind == "index_add" else 0])
        elif kind == "einsum":
            found = self._one_of(list(node.args[1]))  # type: ignore[arg-type]
        elif kind == "scaled_dot_product_attention":
            found = self._back(node.args[2])  # linear in the values
        else:
            found = NotAbsorbed(f"{kind} in {module_path(node) or 'the root module'} does not pass a scale on")
        if isinstance(found, _Trail):
            found.nodes.add(node)
        return found

    def _weighted(self, node: fx.Node) -> _Trail | NotAbsorbed:
        where = [at for at in WEIGHTED[op(node)] if at is not None]
        operands = [_argument(node, at) for at in where]
        present = [o for o in operands if isinstance(o, fx.Node)]
        if not present or not isinstance(operands[0], fx.Node):
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

    def _either(self, node: fx.Node) -> _Trail | NotAbsorbed:
        """A product scales with either factor: prefer a plain parameter, then the right factor, then the left."""
        factors = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        plain = [f for f in factors if self.parameter_behind(f) is not None]
        return self._one_of(plain or factors[::-1])

    def _one_of(self, nodes: list[fx.Node]) -> _Trail | NotAbsorbed:
        plain = [n for n in nodes if self.parameter_behind(n) is not None]
        found: _Trail | NotAbsorbed = NotAbsorbed("no factor depends on a parameter")
        for node in plain or nodes:
            found = self._back(node)
            if isinstance(found, _Trail):
                return found
        return found

    def _chain(self, node: fx.Node) -> set[fx.Node]:
        chain = {node}
        while self.graph.parameter_name(node) is None:
            node = node.args[0]  # type: ignore[assignment]
            chain.add(node)
        return chain

    # Forward: what else would change, and can the next weight undo it?

    def _leaks(self, trail: _Trail, consumers: set[fx.Node]) -> list[fx.Node]:
        """Nodes outside the trail that read a scaled value."""
        met = set(trail.nodes)
        leaks: list[fx.Node] = []
        pending = list(trail.nodes) + [self.graph.parameters[name] for name in trail.scaled]
        while pending:
            node = pending.pop()
            for user in users(node):
                if user in met or user in consumers:
                    continue
                met.add(user)
                if self.parameter_behind(user) is not None:
                    pending.append(user)  # another slice of a scaled parameter
                else:
                    leaks.append(user)
        return leaks

    def _compensate(self, leak: fx.Node, trail: _Trail) -> set[str] | None:
        """Weights that undo the scale downstream of a leak; None where something nonlinear comes first."""
        if op(leak) in WEIGHTED and not self._wholly_scaled(leak, trail):
            return None
        starts_scaled = op(leak) in WEIGHTED or op(leak) in PASSES
        if not starts_scaled:
            return None
        undone: set[str] = set()
        pending, seen = [leak], {leak}
        while pending:
            node = pending.pop()
            for user in users(node):
                if user in seen or user in trail.nodes:
                    continue
                seen.add(user)
                weight = self._weight_reading(user, node)
                if weight is not None:
                    undone.add(weight)
                elif op(user) in PASSES and user.args[0] is node or self._linear_in(user, node):
                    pending.append(user)
                else:
                    return None
        return undone or None

    def _wholly_scaled(self, node: fx.Node, trail: _Trail) -> bool:
        operands = [_argument(node, at) for at in WEIGHTED[op(node)] if at is not None]
        return all(self.parameter_behind(o) in trail.scaled for o in operands if isinstance(o, fx.Node))

    def _weight_reading(self, node: fx.Node, operand: fx.Node) -> str | None:
        """The weight of a contraction that reads `operand`, when it is a parameter with this one use."""
        if op(node) in WEIGHTED and op(node) not in NORMS and op(node) != "embedding":
            weight = self.parameter_behind(_argument(node, WEIGHTED[op(node)][0]))
        elif op(node) in CONTRACTIONS:
            weight = next((self.parameter_behind(a) for a in node.args[:2] if a is not operand), None)
        else:
            return None
        if weight is None:
            return None
        return weight if self._single_use(weight) else None

    def _single_use(self, name: str) -> bool:
        node = self.graph.parameters[name]
        while True:
            readers = users(node)
            if len(readers) != 1:
                return False
            if self.parameter_behind(readers[0]) is None:
                return True
            node = readers[0]

    def _linear_in(self, node: fx.Node, operand: fx.Node) -> bool:
        if op(node) == "scaled_dot_product_attention":
            return node.args[2] is operand and operand not in node.args[:2]
        return op(node) in CONTRACTIONS and node.args[0] is not node.args[1]


def _argument(node: fx.Node, position: int | None) -> object:
    """A positional argument, or the keyword that stands for it."""
    if position is None:
        return None
    if len(node.args) > position:
        return node.args[position]
    names = {"bias": {2, 3}, "weight": {1, 2}}
    return next((node.kwargs[k] for k, at in names.items() if position in at and k in node.kwargs), None)
