"""What share of an activation's entries is not zero, target against base: a router's k of E experts.

A weight that contracts such an activation sums k terms and not E, however the product is written: its fan_in is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from hptransfer.graph.graph import Graph
from hptransfer.graph.ops import facts
from hptransfer.graph.parameters.uses import Use
from hptransfer.graph.scales.analysis import Analysis
from hptransfer.graph.scales.sizes import Scale, Sizes


def shares(target: Graph, base: Graph, uses: Iterable[Use]) -> Mapping[fx.Node, Scale]:
    """Node of the target -> that share's ratio and its axis; nodes where it is the base's are left out."""
    if not any(facts(node).one_hot or facts(node).law == "write" for node in target.nodes):
        return {}
    scales = Analysis(Sizes.of(target, base, uses)).scales
    return {node: scale for node, scale in scales.items() if scale.share != 1.0}
