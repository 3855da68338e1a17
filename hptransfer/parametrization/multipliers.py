"""Forward multipliers that a scheme asks for: attention 1/d, the tied readout's 1/m, residual branches, constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from hptransfer.core.attention import Attention, attentions
from hptransfer.core.graph import Graph, module_path, op, template, users
from hptransfer.core.residual import residual_branches, stream_depths
from hptransfer.core.rules import Scheme
from hptransfer.core.scale_flow import Holders, ScaleFlow
from hptransfer.core.uses import Use


@dataclass(frozen=True)
class Multiplier:
    """A factor that activations must be multiplied with, before it is known what holds it.

    targets: each is multiplied by `factor`; consumers: the ops that see them multiplied.
    """

    targets: tuple[fx.Node, ...]
    consumers: tuple[fx.Node, ...]
    factor: float
    why: str


@dataclass(frozen=True)
class Absorbed:
    """A multiplier placed: parameter -> factor on its effective weight; or a hook where nothing can hold it.

    compensated: those of the parameters whose factor takes the multiplier back from a second reader.
    """

    factors: Mapping[str, float]
    why: str
    hook: Hook | None = None
    note: str | None = None
    compensated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Hook:
    """A forward (pre-)hook: multiplies the first input or the output of one module. Used only where nothing absorbs.

    module: its dotted name; where: "input" or "output"; factor: the multiplier; why: what asks for it.
    """

    module: str
    where: str
    factor: float
    why: str


def attention_multipliers(target: Graph, base: Graph, scheme: Scheme) -> list[Multiplier]:
    """Logits keep the base's multiplier times d_base/d ("1/d") or its root ("1/sqrt(d)").

    Source: 2203.03466, definition 4.1: aligned q and k give q.k of order d, so the logits take 1/d.
    """
    exponent = 1.0 if scheme.attention == "1/d" else 0.5
    known = {site.key: site for site in attentions(base)}
    found: list[Multiplier] = []
    for site in attentions(target):
        twin = known.get(site.key)
        if twin is None or twin.head_dim == site.head_dim:
            continue
        factor = twin.scale * (twin.head_dim / site.head_dim) ** exponent / site.scale
        if not math.isclose(factor, 1.0, rel_tol=1e-9):
            found.append(_on_logits(site, twin, factor, scheme.attention))
    return found


def _on_logits(site: Attention, twin: Attention, factor: float, law: str) -> Multiplier:
    why = (
        f"attention in {site.module}: logits x {factor:.4g} so that q.k is scaled by {law} "
        f"(d {twin.head_dim} -> {site.head_dim}; 2203.03466 def. 4.1), split evenly over q and k"
    )
    return Multiplier((site.query, site.key_node), (site.consumer,), math.sqrt(factor), why)


def tied_readout_multipliers(uses: Mapping[str, list[Use]], factors: Mapping[str, float]) -> list[Multiplier]:
    """A tied head reads the embedding's own weight: the readout's 1/m goes to its input. factors: parameter -> 1/m."""
    return [
        Multiplier((use.operand,), (use.node,), factors[name], f"tied readout {name}: its input x {factors[name]:.4g}")
        for name, own in uses.items()
        if name in factors
        for use in own
        if use.operand is not None and "contracted" in use.axes and not math.isclose(factors[name], 1.0)
    ]


@dataclass(frozen=True)
class Depth:
    """Residual depth of a target against its base.

    multipliers: the branches' L^-alpha; in_branch: parameter -> m_L of its stream; ratios: stream -> m_L; notes.
    """

    multipliers: tuple[Multiplier, ...]
    in_branch: Mapping[str, float]
    ratios: Mapping[int, float]
    notes: tuple[str, ...]


def depth_of(target: Graph, base: Graph, scheme: Scheme) -> Depth:
    """Residual branches, their depth ratio m_L per stream, and their multipliers m_L^-alpha (2505.01618, Table 1)."""
    branches = residual_branches(target)
    base_depths = stream_depths(residual_branches(base))
    ratios = {stream: depth / base_depths.get(stream, depth) for stream, depth in stream_depths(branches).items()}
    in_branch = {name: ratios[b.stream] for b in branches for name in b.parameters}
    if scheme.depth_alpha is None:
        grown = sorted({f"{r:g}x" for r in ratios.values() if r != 1})
        note = (
            (f"depth grows {', '.join(grown)}; scheme {scheme.name} has no depth rule (completep has)",)
            if grown
            else ()
        )
        return Depth((), {}, ratios, note)
    alpha = float(scheme.depth_alpha)
    multipliers = tuple(
        Multiplier((b.end,), (b.add,), ratios[b.stream] ** -alpha, f"residual branch in {b.module}: x m_L^-{alpha:g}")
        for b in branches
        if ratios[b.stream] != 1
    )
    post = sum(b.post_norm for b in branches)
    notes = (
        (
            f"{post} of {len(branches)} residual adds are normalised afterwards (post-norm): L^-alpha has no identity path",
        )
        if post > len(branches) / 2
        else ()
    )
    return Depth(multipliers, in_branch, ratios, notes)


def constant_multipliers(target: Graph, base: Graph, flow: ScaleFlow) -> list[Multiplier]:
    """Constants in the code that differ from the base's (an embedding times sqrt(d)): the base's value is restored.

    Those behind attention logits are left to `attention_multipliers`.
    """
    known = {key: value for key, _, value in _constants(base, set())}
    logits = {node for site in attentions(target) for node in site.constants}
    found: list[Multiplier] = []
    for key, node, value in _constants(target, logits):
        twin = known.get(key)
        if twin is None or twin == 0 or value == 0 or math.isclose(twin, value, rel_tol=1e-6) or value * twin < 0:
            continue
        why = f"{op(node)} by {value:.4g} in {module_path(node) or 'the root module'} is {twin:.4g} at the base"
        readers = tuple(users(node))
        if readers and isinstance(flow.holders([node], consumers=readers), Holders):
            found.append(Multiplier((node,), readers, twin / value, why))
    return found


def _constants(graph: Graph, skip: set[fx.Node]) -> list[tuple[tuple[str, str, int], fx.Node, float]]:
    """((module template, op, ordinal), node, multiplier) of every multiplication by a constant."""
    found: list[tuple[tuple[str, str, int], fx.Node, float]] = []
    ordinals: dict[tuple[str, str], int] = {}
    for node in graph.nodes:
        if op(node) not in {"mul", "div", "mul_", "div_"} or len(node.args) < 2:
            continue
        where = (module_path(node), op(node))
        ordinal = ordinals[where] = ordinals.get(where, -1) + 1
        value = _constant(graph, node.args[1])
        if value is None and op(node).startswith("mul"):
            value = _constant(graph, node.args[0])
        if value is not None and value != 0 and node not in skip:
            key = (template(where[0]), where[1], ordinal)
            found.append((key, node, value if op(node).startswith("mul") else 1 / value))
    return found


def _constant(graph: Graph, argument: object) -> float | None:
    if isinstance(argument, (int, float)) and not isinstance(argument, bool):
        return float(argument)
    seen = argument
    while isinstance(seen, fx.Node):
        if seen in graph.values:
            return graph.values[seen]
        if op(seen) not in {"to", "_to_copy", "clone", "detach", "lift_fresh_copy", "alias", "detach_"}:
            return None
        seen = seen.args[0]
    return None


def place(multiplier: Multiplier, flow: ScaleFlow) -> Absorbed:
    """Put a multiplier on parameters that can hold it, else on a hook, else say that it is left out.

    The absorption rules (2011.14522): W -> theta W changes nothing if init and learning rate follow; see plan.py.
    """
    held = flow.holders(multiplier.targets, consumers=multiplier.consumers)
    if isinstance(held, Holders):
        factors = dict.fromkeys(held.scaled, multiplier.factor) | dict.fromkeys(held.compensated, 1 / multiplier.factor)
        return Absorbed(factors, multiplier.why, compensated=held.compensated)
    hook = _hook(multiplier)
    if hook is not None:
        return Absorbed({}, multiplier.why, hook=hook)
    return Absorbed({}, multiplier.why, note=f"NOT APPLIED: {multiplier.why}; nothing can hold it ({held.reason})")


def _hook(multiplier: Multiplier) -> Hook | None:
    """Multiply one module's input or output: for logits one of the two factors takes the whole multiplier."""
    factor = multiplier.factor ** len(multiplier.targets)
    consumer = module_path(multiplier.consumers[0])
    for target in multiplier.targets:
        module = _module_ending_at(target)
        if module is not None and module != consumer:
            return Hook(module, "output", factor, multiplier.why)
    single = len(multiplier.targets) == 1 and len(multiplier.consumers) == 1
    if single and consumer and _enters(multiplier.targets[0], multiplier.consumers[0]):
        return Hook(consumer, "input", factor, multiplier.why)
    return None


def _module_ending_at(node: fx.Node) -> str | None:
    """The module whose output this node is a view of, when nothing outside reads that output otherwise."""
    while op(node) in {"transpose", "view", "reshape", "contiguous", "permute", "to", "unsqueeze", "expand"}:
        if len(users(node)) != 1:
            return None
        node = node.args[0]  # type: ignore[assignment]
    module = module_path(node)
    outside = [u for u in users(node) if not _within(module_path(u), module)]
    return module if module and outside and len(outside) == len(users(node)) else None


def _enters(operand: fx.Node, consumer: fx.Node) -> bool:
    """True when the operand comes from outside the consumer's module: a pre-hook on it sees exactly this value."""
    return not _within(module_path(operand), module_path(consumer))


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(module + ".")
