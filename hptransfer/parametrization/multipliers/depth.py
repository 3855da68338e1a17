"""Depth: which parameters stand in residual branches, how much deeper their streams are, and what that asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import Scheme
from hptransfer.graph.graph import Graph, module_path, template
from hptransfer.graph.ops import op
from hptransfer.graph.readings.streams import Streams, layer_of, residual_streams


@dataclass(frozen=True)
class Depth:
    """Residual depth of a target against its base.

    in_branch: parameter of a branch -> m_L of its stream; on_stream: parameter that acts on the stream itself -> m_L.
    branches: (branch's end, add) -> the ratio m_L^-alpha that it shall have; why: the same -> the reason.
    own_constants: the code's own factors on branches and streams, which a scheme without a depth rule leaves alone.
    """

    in_branch: Mapping[str, float] = field(default_factory=dict[str, float])
    on_stream: Mapping[str, float] = field(default_factory=dict[str, float])
    branches: Mapping[tuple[fx.Node, fx.Node], float] = field(default_factory=dict[tuple[fx.Node, fx.Node], float])
    why: Mapping[tuple[fx.Node, fx.Node], str] = field(default_factory=dict[tuple[fx.Node, fx.Node], str])
    notes: tuple[str, ...] = ()
    own_constants: frozenset[fx.Node] = frozenset()


def depth_of(target: Graph, base: Graph, scheme: Scheme, *, refuse: bool = True) -> Depth:
    """Residual branches, their depth ratio m_L per stream, and their multipliers m_L^-alpha (2505.01618, Table 1).

    refuse: raise UsageError where layers were gained that no residual add explains; otherwise a note says so.
    """
    streams, at_base = residual_streams(target), residual_streams(base).depths
    ratios = {stream: depth / at_base.get(stream, depth) for stream, depth in streams.depths.items()}
    if scheme.depth_alpha is None:
        grown = ", ".join(sorted({f"{r:g}x" for r in ratios.values() if r != 1}))
        notes = (f"depth grows {grown}; scheme {scheme.name} has no depth rule (completep has)",) if grown else ()
        constants = frozenset[fx.Node]().union(*(b.constants for b in streams.branches))
        return Depth(notes=notes, own_constants=constants)
    alpha = float(scheme.depth_alpha)
    grown = [b for b in streams.branches if ratios[b.stream] != 1]
    depth = Depth(
        in_branch={name: ratios[b.stream] for b in streams.branches for name in b.parameters},
        on_stream=_on_stream(target, streams, ratios),
        branches={(b.end, b.add): ratios[b.stream] ** -alpha for b in grown},
        why={(b.end, b.add): f"residual branch in {b.module}: x m_L^-{alpha:g}" for b in grown},
        notes=tuple(_post_norm_notes(streams, ratios)),
    )
    unexplained = _unexplained(target, base, depth)
    if not unexplained:
        return depth
    text = _without_rule(unexplained, streams, scheme)
    if refuse:
        raise UsageError(text)
    return Depth(depth.in_branch, depth.on_stream, depth.branches, depth.why, (*depth.notes, text))


def _on_stream(target: Graph, streams: Streams, ratios: Mapping[int, float]) -> dict[str, float]:
    """Gains behind the adds and learned scalars of a stream, in the last layer too, where no further add tells."""
    templates = {template(name): ratios.get(stream, 1.0) for name, stream in streams.on_stream.items()}
    inside = frozenset[str]().union(*(branch.parameters for branch in streams.branches))
    return {n: templates[template(n)] for n in target.parameters if template(n) in templates and n not in inside}


def _post_norm_notes(streams: Streams, ratios: Mapping[int, float]) -> Iterable[str]:
    for stream in sorted(s for s in streams.post_norm if ratios[s] != 1):
        yield f"residual stream {stream} is normalised after its adds (post-norm): L^-alpha has no identity path there"


def _unexplained(target: Graph, base: Graph, depth: Depth) -> list[str]:
    """Parameters of layers that the base lacks for which no residual add was found.

    A layer is gained where more names have its template than at the base: a head behind more blocks only moves on.
    """
    ours, theirs = (Counter(template(name) for name in graph.parameters) for graph in (target, base))
    gained = [n for n in target.parameters if ours[template(n)] > theirs[template(n)] and n not in base.parameters]
    used = [name for name in gained if layer_of(name) and target.parameters[name].users]
    return [name for name in used if name not in depth.in_branch and name not in depth.on_stream]


def _without_rule(names: list[str], streams: Streams, scheme: Scheme) -> str:
    layers = {layer_of(name) for name in names}
    sums = [node for node in streams.sums if any(f"{module_path(node)}.".startswith(f"{layer}.") for layer in layers)]
    adds = sorted({f"{op(node)} in {module_path(node) or 'the root module'}" for node in sums or streams.sums})
    seen = f"the adds there close no branch: {', '.join(adds[:3])}" if adds else "there is no residual add"
    return (
        f"{names[0]!r} ({len(names)} parameters in {len(layers)} layers that the base lacks) stands in no residual "
        f"branch that was understood, so {scheme.name}'s depth rule does not reach it: {seen}. Write the blocks as "
        f"x + f(x), where f reads x through a weight; choose a scheme without a depth rule (mup); or pass "
        f"options=Options(depth='note') to go on without one."
    )
