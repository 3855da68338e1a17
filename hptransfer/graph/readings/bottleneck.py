"""Bottlenecks: a matrix that contracts the width to a fixed rank, for another matrix to make width of again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import fx

from hptransfer.core.roles import Role
from hptransfer.graph.graph import Graph, users
from hptransfer.graph.operands import passes
from hptransfer.graph.ops import facts, law
from hptransfer.graph.parameters.uses import Use


def bottlenecks(
    graph: Graph, uses: Mapping[str, Sequence[Use]], roles: Mapping[str, Role]
) -> dict[str, frozenset[str]]:
    """Down-projection -> the up-projections that alone read what it makes (a LoRA's A and B, an adapter's two layers).

    A down-projection has a growing fan_in and a fixed fan_out, like a readout, but what it makes is no output.
    """
    up = {u.node: name for name, own in uses.items() for u in own if _enters(roles[name], u)}
    found: dict[str, frozenset[str]] = {}
    for name, own in uses.items():
        if roles[name].kind == "readout" and own:
            ends = [end for use in own for end in _ends(use.node, set(up))]
            if ends and all(end in up for end in ends):
                found[name] = frozenset(up[end] for end in ends)
    return found


def normalised_readouts(uses: Mapping[str, Sequence[Use]], roles: Mapping[str, Role]) -> list[str]:
    """Weights from a growing to a fixed size whose output, or a pointwise function of it, is read by a norm alone."""
    found: list[str] = []
    for name, own in uses.items():
        ends = [end for use in own if roles[name].kind == "readout" for end in _ends(use.node, set())]
        if ends and all(law(end) == "normalise" for end in ends):
            found.append(name)
    return found


def _enters(role: Role, use: Use) -> bool:
    return role.kind == "input" and "contracted" in use.axes


def _ends(node: fx.Node, stops: set[fx.Node]) -> Iterator[fx.Node]:
    """The nodes that consume an activation, behind views and pointwise functions."""
    pending, seen = [node], {node}
    while pending:
        for user in users(pending.pop()):
            if user in seen:
                continue
            seen.add(user)
            if user not in stops and _goes_on(user):
                pending.append(user)
            else:
                yield user


def _goes_on(node: fx.Node) -> bool:
    known = facts(node)
    return passes(node) or known.pointwise or known.multiplies or (known.adds and known.sums)
