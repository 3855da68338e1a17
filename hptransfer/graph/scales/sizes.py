"""What the scale analysis compares: two graphs, which ops correspond, and the ratios of sizes and constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx

from hptransfer.graph.graph import Graph
from hptransfer.graph.parameters.uses import Use, depends_on_inputs, downstream
from hptransfer.graph.scales.pairs import Pairs, node_pairs

Edge = tuple[fx.Node, fx.Node]


@dataclass(frozen=True)
class Scale:
    """ratio: target / base of a typical entry; positive: no entry is negative; bounded: small because a vector's
    entries share a length or a sum of one; free: zeros or infinities, which no scale changes. share: target / base of
    the share of entries that are not zero (of the k experts that a router chose among all), which a sum over them sees;
    among: the size of that axis in the target and in the base.
    """

    ratio: float = 1.0
    positive: bool = False
    bounded: bool = False
    free: bool = False
    share: float = 1.0
    among: tuple[int, int] = (1, 1)

    @property
    def deviates(self) -> bool:
        return not self.free and not math.isclose(self.ratio, 1.0, rel_tol=1e-6)


ONE, FREE = Scale(), Scale(free=True)


@dataclass(frozen=True)
class Sizes:
    """What the analysis compares: two graphs, which ops correspond, and the constants' ratios.

    alignment: exponent with which a product of two activations adds up over a growing axis (see above). constants:
    multiplication by a constant -> target / base; weights: ops in which a parameter is contracted; sums: those behind
    a product written out that contract it; depth: (branch, add) -> the ratio that the branch shall have; lost: op that
    contracts a weight divided by a statistic of itself -> how far that leaves its entries from what the weight's rule
    asks for. parallel: (term, add) -> ratio of the number of such terms in the sum.
    """

    target: Graph
    base: Graph
    alignment: float
    constants: Mapping[fx.Node, float]
    weights: frozenset[fx.Node]
    sums: frozenset[fx.Node] = frozenset()
    depth: Mapping[Edge, float] = field(default_factory=dict[Edge, float])
    lost: Mapping[fx.Node, float] = field(default_factory=dict[fx.Node, float])
    pairs: Mapping[fx.Node, fx.Node] = field(default_factory=dict[fx.Node, fx.Node])
    parallel: Mapping[Edge, float] = field(default_factory=dict[Edge, float])

    @staticmethod
    def of(
        target: Graph,
        base: Graph,
        uses: Iterable[Use],
        *,
        alignment: float = 1.0,
        constants: Mapping[fx.Node, float] | None = None,
        depth: Mapping[Edge, float] | None = None,
        lost: Mapping[fx.Node, float] | None = None,
        parallel: Mapping[Edge, float] | None = None,
        pairs: Pairs | None = None,
    ) -> Sizes:
        uses = list(uses)
        contracting = frozenset(use.node for use in uses if "contracted" in use.axes)
        sums = frozenset[fx.Node]().union(*(use.sums for use in uses))
        known = node_pairs(target, base) if pairs is None else pairs
        maps = {"depth": depth or {}, "lost": lost or {}, "pairs": known, "parallel": parallel or {}}
        return Sizes(target, base, alignment, constants or {}, contracting, sums, **maps)

    @cached_property
    def from_inputs(self) -> set[fx.Node]:
        """Nodes of the target whose value depends on its inputs."""
        return depends_on_inputs(self.target)

    @cached_property
    def learned(self) -> set[fx.Node]:
        """Nodes of the target whose value depends on its parameters."""
        return downstream(self.target, set(self.target.parameters.values()))

    @cached_property
    def weights_side(self) -> set[fx.Node]:
        """Parameters and what is computed from them alone, up to where a weight is contracted (a learned query's)."""
        side = set(self.target.parameters.values())
        for node in self.target.nodes:
            apart = node in self.from_inputs or node in self.weights
            if not apart and any(parent in side for parent in node.all_input_nodes):
                side.add(node)
        return side

    def ratio(self, node: fx.Node, size: Callable[[fx.Node], float]) -> float:
        """A size of an op, target / base; 1 where the base has no such op."""
        twin = self.pairs.get(node)
        return 1.0 if twin is None else max(size(node), 1e-30) / max(size(twin), 1e-30)


def is_free(number: float) -> bool:
    """Next to nothing (an eps), or so far away that it masks: no scale of the activations changes it."""
    return abs(number) <= 1e-3 or abs(number) >= 1e4


def quotient(ours: float, theirs: float) -> float:
    return ours / theirs if ours and theirs else 1.0


def floats(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    return value is None or not hasattr(value, "is_floating_point") or value.is_floating_point() or value.is_complex()
