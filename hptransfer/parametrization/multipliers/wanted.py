"""Forward multipliers that a scheme asks for: attention 1/d, the tied readout's 1/m, residual branches, constants."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import fx

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import Scheme
from hptransfer.graph.graph import Graph, operand, shape, users
from hptransfer.graph.ops import op
from hptransfer.graph.readings.attention import Attention, Product, Softmax, attentions, softmaxes, unscaled_products
from hptransfer.graph.readings.constants import Constant, constants
from hptransfer.graph.readings.residual import post_norm_streams, residual_branches, stream_depths
from hptransfer.graph.readings.scale_flow import Holders, NotAbsorbed, ScaleFlow
from hptransfer.graph.uses import Use
from hptransfer.parametrization.multipliers.placement import Multiplier
from hptransfer.parametrization.names import Counterparts

Site = TypeVar("Site")
Sized = TypeVar("Sized", Product, Softmax)
Values = Mapping[str, float | tuple[float, float]]
"""Buffer name or glob -> its value in the target, or (in the target, in the base)."""


def twins(
    target: Sequence[Site], base: Sequence[Site], where: Callable[[Site], tuple[str, object]]
) -> list[Site | None]:
    """For every site of the target the base's: same kind and place in the module, in the module that corresponds.

    where: site -> (module path, kind and place).
    """
    known = {where(site): site for site in base}
    modules: dict[object, list[str]] = {}
    for module, kind in known:
        modules.setdefault(kind, []).append(module)
    counterparts = {kind: Counterparts(paths) for kind, paths in modules.items()}
    found: list[Site | None] = []
    for module, kind in map(where, target):
        path = counterparts[kind].of(module) if kind in counterparts else None
        found.append(None if path is None else known[path, kind])
    return found


def attention_multipliers(target: Graph, base: Graph, scheme: Scheme) -> list[Multiplier]:
    """Logits keep the base's multiplier times d_base/d ("1/d") or its root ("1/sqrt(d)").

    Source: 2203.03466, definition 4.1: aligned q and k give q.k of order d, so the logits take 1/d.
    """
    exponent = 1.0 if scheme.attention == "1/d" else 0.5
    sites = attentions(target)
    found: dict[tuple[str, float], list[Multiplier]] = {}
    for site, twin in zip(sites, twins(sites, attentions(base), lambda s: (s.module, s.ordinal)), strict=True):
        if twin is None:
            continue
        factor = twin.scale * (twin.head_dim / site.head_dim) ** exponent / site.scale
        if not math.isclose(factor, 1.0, rel_tol=1e-9):
            beside = found.setdefault((site.module, round(factor, 9)), [])
            beside.append(_on_logits(site, twin, factor, scheme.attention))
    return [_together(multipliers) for multipliers in found.values()]


def _on_logits(site: Attention, twin: Attention, factor: float, law: str) -> Multiplier:
    why = (
        f"attention in {site.module or 'the root module'}: logits x {factor:.4g} so that q.k is scaled by {law} "
        f"(d {twin.head_dim} -> {site.head_dim}; 2203.03466 def. 4.1), split evenly over q and k"
    )
    return Multiplier((site.query, site.key_node), (site.consumer,), math.sqrt(factor), why)


def _together(parts: Sequence[Multiplier]) -> Multiplier:
    """One module's products: they may share a factor (logits against positions) or weights (a layer called again)."""
    if len(parts) == 1:
        return parts[0]
    targets, consumers = (
        dict.fromkeys(n for p in parts for n in getattr(p, which)) for which in ("targets", "consumers")
    )
    return replace(parts[0], targets=tuple(targets), consumers=tuple(consumers), parts=tuple(parts))


def unscaled_notes(target: Graph, base: Graph) -> list[str]:
    """What no rule covers: a product of two activations over an axis that grows, or a softmax over one."""
    return [*_product_notes(target, base), *_softmax_notes(target, base)]


def _softmax_notes(target: Graph, base: Graph) -> list[str]:
    return [
        f"in {site.module or 'the root module'} a softmax runs over an axis that grows ({twin.size} -> {site.size}): "
        f"its entries shrink in proportion, and no rule scales them"
        for site, twin in _growing(softmaxes(target), softmaxes(base), lambda site: site.size)
    ]


def _product_notes(target: Graph, base: Graph) -> list[str]:
    return [
        f"in {site.module or 'the root module'} two activations are multiplied over an axis that grows "
        f"({twin.contracted} -> {site.contracted}) with no softmax after it: no rule scales that product"
        for site, twin in _growing(unscaled_products(target), unscaled_products(base), lambda site: site.contracted)
    ]


def _growing(
    sites: Sequence[Sized], at_base: Sequence[Sized], size: Callable[[Sized], int]
) -> list[tuple[Sized, Sized]]:
    """The sites whose axis differs in size from their twin's, with the twin."""
    pairs = zip(sites, twins(sites, at_base, lambda site: (site.module, site.ordinal)), strict=True)
    return [(site, twin) for site, twin in pairs if twin is not None and size(twin) != size(site)]


def tied_readout_multipliers(uses: Mapping[str, list[Use]], factors: Mapping[str, float]) -> list[Multiplier]:
    """A tied head reads the embedding's own weight: the readout's 1/m goes to its input.

    uses: parameter -> its uses as a readout; factors: parameter -> 1/m.
    """
    return [
        Multiplier((use.operand,), (use.node,), factors[name], f"tied readout {name}: its input x {factors[name]:.4g}")
        for name, own in uses.items()
        for use in own
        if use.operand is not None and not math.isclose(factors[name], 1.0)
    ]


@dataclass(frozen=True)
class Depth:
    """Residual depth of a target against its base.

    multipliers: the branches' L^-alpha; in_branch: parameter -> m_L of its stream; ratios: stream -> m_L; notes.
    own_constants: the code's own factors on branches and streams, which a scheme without a depth rule leaves alone.
    """

    multipliers: tuple[Multiplier, ...]
    in_branch: Mapping[str, float]
    ratios: Mapping[int, float]
    notes: tuple[str, ...]
    own_constants: frozenset[fx.Node]


def depth_of(target: Graph, base: Graph, scheme: Scheme) -> Depth:
    """Residual branches, their depth ratio m_L per stream, and their multipliers m_L^-alpha (2505.01618, Table 1)."""
    branches = residual_branches(target)
    base_depths = stream_depths(residual_branches(base))
    ratios = {stream: depth / base_depths.get(stream, depth) for stream, depth in stream_depths(branches).items()}
    if scheme.depth_alpha is None:
        grown = ", ".join(sorted({f"{r:g}x" for r in ratios.values() if r != 1}))
        notes = (f"depth grows {grown}; scheme {scheme.name} has no depth rule (completep has)",) if grown else ()
        return Depth((), {}, ratios, notes, frozenset().union(*(b.constants for b in branches)))
    alpha = float(scheme.depth_alpha)
    multipliers = tuple(
        Multiplier((b.end,), (b.add,), ratios[b.stream] ** -alpha, f"residual branch in {b.module}: x m_L^-{alpha:g}")
        for b in branches
        if ratios[b.stream] != 1
    )
    in_branch = {name: ratios[b.stream] for b in branches for name in b.parameters}
    post = sorted(stream for stream in post_norm_streams(branches) if ratios[stream] != 1)
    notes = tuple(
        f"residual stream {s} is normalised after its adds (post-norm): L^-alpha has no identity path there"
        for s in post
    )
    return Depth(multipliers, in_branch, ratios, notes, frozenset())


def constant_multipliers(
    target: Graph, base: Graph, flow: ScaleFlow, *, skip: frozenset[fx.Node] = frozenset(), given: Values | None = None
) -> list[Multiplier]:
    """Constants in the code that differ from the base's (an embedding times sqrt(d)): the base's value is restored.

    skip: multiplications that another rule takes care of; those on attention logits always are. A sum over an axis that
    grows, divided by its length, is a mean and stays one. given: values of buffers that cannot be read.
    Raises UsageError where a constant is held in a buffer on the meta device and is not given.
    """
    skip = skip.union(*(site.constants for site in attentions(target)))
    sites = constants(target)
    pairs = zip(sites, twins(sites, constants(base), lambda s: (s.module, (s.op, s.ordinal))), strict=True)
    valued = [_valued(site, twin, given or {}) for site, twin in pairs if twin is not None and site.node not in skip]
    wanted = [_restored(site, twin) for site, twin in valued if _differs(site, twin)]
    means = {site.node for site, twin in valued if _is_mean(site, twin)}
    return [m for m in wanted if m.targets[0] not in means or isinstance(_held(m, flow), Holders)]


def _ratio(site: Constant, twin: Constant) -> float:
    return (twin.value or 0.0) / (site.value or 1.0)


def _differs(site: Constant, twin: Constant) -> bool:
    return _ratio(site, twin) > 0 and not math.isclose(_ratio(site, twin), 1.0, rel_tol=1e-6)


def _restored(site: Constant, twin: Constant) -> Multiplier:
    why = f"{site.op} by {site.value:.4g} in {site.module or 'the root module'} is {twin.value:.4g} at the base"
    return Multiplier((site.node,), tuple(users(site.node)), _ratio(site, twin), why)


def _held(multiplier: Multiplier, flow: ScaleFlow) -> Holders | NotAbsorbed:
    return flow.holders(multiplier.targets, consumers=multiplier.consumers)


def _is_mean(site: Constant, twin: Constant) -> bool:
    """A sum divided by its own length, at both sizes."""
    return math.isclose(_summed(site.node) / _summed(twin.node), _ratio(site, twin), rel_tol=1e-6)


def _summed(node: fx.Node) -> float:
    """How many entries each entry of a factor's operand is the sum of: 1 unless it is a sum."""
    source = operand(node)
    if source is None or op(source) != "sum":
        return 1.0
    return math.prod(shape(source.all_input_nodes[0])) / max(1, math.prod(shape(source)))


def _valued(site: Constant, twin: Constant, given: Values) -> tuple[Constant, Constant]:
    """Both with their values, the given ones where a buffer hides them."""
    name = site.unread or twin.unread
    values = next((v for pattern, v in given.items() if fnmatch.fnmatchcase(name, pattern)), None)
    known = values if isinstance(values, tuple) else (values, None)
    ours = site.value if site.value is not None else known[0]
    theirs = twin.value if twin.value is not None else known[1]
    if ours is None or theirs is None:
        at_base = "" if theirs is None else f"; at the base it is {theirs:.4g}"
        raise UsageError(
            f"{site.module or 'The model'} multiplies by the buffer {name!r}, which is on the meta device, so its "
            f"value cannot be read{at_base}. If it depends on the size (as a square root of the width does), the plan "
            f"must undo that: pass constants={{{name!r}: value}}, or (value, value at the base) where both are on meta."
        )
    return replace(site, value=float(ours)), replace(twin, value=float(theirs))
