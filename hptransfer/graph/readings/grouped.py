"""Grouped heads: weights that make heads of a fixed size of a growing width, for attention to read from more and more.

Under grouped-query attention (2305.13245) key-value heads may stay as they are while query heads grow with the width;
one head read by all of them is multi-query attention. Told by what is done with the heads, not by any name: whichever
way they are repeated (expanded, interleaved, inside a fused attention, by an einsum's letters, by broadcasting), every
way on from them ends as a factor of a product of two activations. A latent that growing heads are made of as well is no
exception: it ends in the weight that does so. A pointer or a pooled class score ends likewise but makes outputs; what a
softmax turns into weights (a router, a pooling) makes no heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx

from hptransfer.core.roles import Role
from hptransfer.graph.graph import Graph, shape, users
from hptransfer.graph.ops import law
from hptransfer.graph.parameters.uses import Use, depends_on_inputs
from hptransfer.graph.readings.outputs import output_uses
from hptransfer.graph.scales.arithmetic import factors_of

_FACTOR, _MADE_OF, _OTHER = "factor", "made of", "other"


def grouped_heads(graph: Graph, uses: Mapping[str, Sequence[Use]], roles: Mapping[str, Role]) -> list[str]:
    """The weights with a growing fan_in and a fixed fan_out whose results are read as heads, by attention or its like.

    uses: parameter -> its uses; roles: parameter -> the role that its fans give it.
    """
    read = [name for name, own in uses.items() if roles[name].kind == "readout" and own]
    walk = _Walk(graph, uses, roles) if read else None
    found = [name for name in read if walk is not None and _are_heads({e for u in uses[name] for e in walk.ends(u)})]
    outputs = output_uses(graph, uses) if found else {}
    return [name for name in found if name not in outputs]


def _are_heads(ends: set[str]) -> bool:
    return _FACTOR in ends and _OTHER not in ends


class _Walk:
    """Follows heads of a fixed size to the ops that read them together with what grows."""

    def __init__(self, graph: Graph, uses: Mapping[str, Sequence[Use]], roles: Mapping[str, Role]) -> None:
        self.from_inputs = depends_on_inputs(graph)
        settled = [u for own in uses.values() for u in own if "contracted" in u.axes and u.operand is not None]
        self.weights = {use.node: (roles[use.parameter].kind, use.operand) for use in settled}

    def ends(self, use: Use) -> Iterator[str]:
        """What stands at every end: a product, a weight that makes growing heads of it, or anything else."""
        pending, seen = [use.node], {use.node}
        while pending:
            node = pending.pop()
            for user in users(node):
                end = self.end(node, user)
                if end is not None:
                    yield end
                elif user not in seen:
                    seen.add(user)
                    pending.append(user)

    def end(self, node: fx.Node, user: fx.Node) -> str | None:
        """What `user` is to the heads in `node`, None where it passes them on."""
        if user.op == "output":
            return _OTHER
        kind, operand = self.weights.get(user, ("", None))
        if operand is node:
            return {"input": _MADE_OF, "scalar": None}.get(kind, _OTHER)
        factors = self.factors(user)
        if len(factors) > 1:
            return _FACTOR if node in factors else _OTHER
        return _OTHER if law(user) == "softmax" or self.gates(node, user) else None

    def factors(self, node: fx.Node) -> list[fx.Node]:
        """The activations that a product multiplies: a fused attention's three, or any other's two."""
        if law(node) == "attention":
            return [part for part in node.args[:3] if isinstance(part, fx.Node)]
        parts = factors_of(node) if law(node) == "contract" else []
        return [part for part in parts if isinstance(part, fx.Node) and part in self.from_inputs]

    def gates(self, node: fx.Node, user: fx.Node) -> bool:
        """True where `user` is pointwise with a larger activation: the heads only scale, shift or mask that one."""
        read = (other for other in user.all_input_nodes if other is not node and user in users(other))
        others = [other for other in read if other in self.from_inputs]
        sizes = [shape(part) for part in (node, *others)]
        return any(_size(other) > _size(sizes[0]) for other in sizes[1:]) and _spread(sizes) == shape(user)


def _size(of: Sequence[int]) -> int:
    return int(torch.Size(of).numel())


def _spread(sizes: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    try:
        return tuple(torch.broadcast_shapes(*sizes))
    except RuntimeError:
        return None
