"""Two recorded runs must have gone the same way: what stands at the nth place in one stands there in the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import Graph, module_path
from hptransfer.graph.ops import law, op
from hptransfer.graph.parameters.uses import depends_on_inputs
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.readings.streams import residual_streams
from hptransfer.graph.scales.arithmetic import factors_of
from hptransfer.graph.scales.pairs import Counterparts

Sites = Mapping[str, list[Any]]
"""Module path -> what a plan compares there, in execution order."""


def check_same_way(target: Graph, base: Graph) -> None:
    """Where a module ran other ops at the base, what the plan compares by its place must agree nevertheless.

    Experts reached in another number change only how often the same ops ran, and pass. Exported graphs hold every
    branch there is and are not checked; numbers of sites are not where the depth differs.
    Raises UsageError where attention products or residual branches differ in number, or constants in value.
    """
    if not (target.ran or base.ran):
        return
    ours, theirs = _sequences(target), _sequences(base)
    counterparts = Counterparts(theirs)
    pairs = ((path, twin) for path in ours if (twin := counterparts.of(path)) is not None)
    differing = [(path, twin) for path, twin in pairs if ours[path] != theirs[twin]]
    same_depth = set(target.parameters) == set(base.parameters)
    for what, sites, agree in _COMPARED if differing else ():
        at_target, at_base = sites(target), sites(base)
        for path, twin in differing:
            if (same_depth or agree is _same_factors) and not agree(at_target.get(path, []), at_base.get(twin, [])):
                raise UsageError(
                    f"The example inputs lead target and base along different branches in {path or 'the root module'}: "
                    f"their {what} do not correspond. Give example_inputs (base_example_inputs for the base) for which "
                    f"both go the same way, larger ones that reach every expert for instance."
                )


def _sequences(graph: Graph) -> dict[str, list[str]]:
    """Module path -> the ops that it ran itself, in order."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            found.setdefault(module_path(node), []).append(op(node))
    return found


def _constants(graph: Graph) -> Sites:
    return _by_module((c.module, (c.op, c.ordinal, c.value or c.unread)) for c in constants(graph))


def _products(graph: Graph) -> Sites:
    """Products of two activations, attention's among them."""
    live = depends_on_inputs(graph)
    factors = {node: factors_of(node) for node in graph.nodes if law(node) in {"contract", "attention"}}
    return _by_module((module_path(n), op(n)) for n, both in factors.items() if all(factor in live for factor in both))


def _branches(graph: Graph) -> Sites:
    return _by_module((branch.module, branch.stream) for branch in residual_streams(graph).branches)


def _by_module(sites: Iterable[tuple[str, Any]]) -> Sites:
    found: dict[str, list[Any]] = {}
    for module, site in sites:
        found.setdefault(module, []).append(site)
    return found


def _same_number(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs)


def _same_factors(ours: list[Any], theirs: list[Any]) -> bool:
    """The same values under the same op, and nothing that stands at one place with two values."""
    values = [{(kind, value) for kind, _, value in own} for own in (ours, theirs)]
    places = Counter((kind, at) for own in (ours, theirs) for kind, at, _ in set(own))
    shared = {(kind, at) for (kind, at), times in places.items() if times > 1}
    at_place = [{site for site in own if site[:2] in shared} for own in (ours, theirs)]
    return values[0] == values[1] and at_place[0] == at_place[1]


_COMPARED: tuple[tuple[str, Callable[[Graph], Sites], Callable[[list[Any], list[Any]], bool]], ...] = (
    ("constants", _constants, _same_factors),
    ("products of activations", _products, _same_number),
    ("residual branches", _branches, _same_number),
)
