"""Where a forward multiplier goes: into parameters that can hold it, else on a hook, else nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import Graph, module_path, users
from hptransfer.graph.ops import facts
from hptransfer.graph.readings.scale_flow import STAND_IN, Holders, NotAbsorbed, ScaleFlow
from hptransfer.graph.scales.arithmetic import factors_of


@dataclass(frozen=True)
class Multiplier:
    """A factor that activations must be multiplied with, before it is known what holds it.

    targets: each is multiplied by `factor`; consumers: the ops that see them multiplied, a product of two targets by
    the factor's square. parts: the same piece by piece, for where nothing can hold it as a whole.
    """

    targets: tuple[fx.Node, ...]
    consumers: tuple[fx.Node, ...]
    factor: float
    why: str
    parts: tuple[Multiplier, ...] = ()


@dataclass(frozen=True)
class Hook:
    """A forward (pre-)hook: multiplies the one tensor that enters or leaves a module. Used only where nothing absorbs.

    module: its dotted name; where: "input" or "output"; factor: the multiplier; why: what asks for it.
    """

    module: str
    where: str
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


def place(multiplier: Multiplier, flow: ScaleFlow, *, refuse: bool = True) -> tuple[Absorbed, ...]:
    """Put a multiplier on parameters that can hold it, whole or part by part, else on a hook.

    The absorption rules (2011.14522): W -> theta W changes nothing if init and learning rate follow; see shift.py.
    refuse: raise UsageError where neither can hold it; otherwise a note says that it is left out.
    """
    absorbed = _absorbed(multiplier, flow) or _in_parts(multiplier, flow, _absorbed)
    hooked = absorbed or _hooked(multiplier, flow) or _in_parts(multiplier, flow, _hooked)
    if hooked:
        return hooked
    held = flow.holders(multiplier.targets, consumers=multiplier.consumers)
    reason = held.reason if isinstance(held, NotAbsorbed) else ""
    if refuse:
        raise UsageError(
            f"This multiplier has no place: {multiplier.why}. No parameter can hold it ({reason}), and no "
            f"module's input or output is just this activation. Put a module (nn.Identity, say) where it is made, so "
            f"that a hook can multiply its output, or pass options=Options(unplaced='note') to go on without it."
        )
    return (Absorbed({}, multiplier.why, note=f"NOT APPLIED: {multiplier.why}; nothing can hold it ({reason})"),)


Placing = Callable[[Multiplier, ScaleFlow], tuple[Absorbed, ...]]


def _in_parts(multiplier: Multiplier, flow: ScaleFlow, placing: Placing) -> tuple[Absorbed, ...]:
    """Every part placed, or nothing."""
    placed: list[Absorbed] = []
    for part in multiplier.parts:
        here = placing(part, flow) or _in_parts(part, flow, placing) or (placing is _hooked and _absorbed(part, flow))
        if not here:
            return ()
        placed += here
    return tuple(placed)


def _absorbed(multiplier: Multiplier, flow: ScaleFlow) -> tuple[Absorbed, ...]:
    """Parameters before the activation, else the weights that read it. Of two factors one may take it all."""
    held = flow.holders(multiplier.targets, consumers=multiplier.consumers)
    if isinstance(held, Holders):
        factors = dict.fromkeys(held.scaled, multiplier.factor) | dict.fromkeys(held.compensated, 1 / multiplier.factor)
        return (Absorbed(factors, multiplier.why, compensated=held.compensated),)
    one_sided = _one_sided(multiplier, flow)
    if one_sided is not None:
        return (one_sided,)
    reading = _readers(multiplier, flow)
    return (Absorbed(dict.fromkeys(reading, multiplier.factor), multiplier.why),) if reading else ()


def _hooked(multiplier: Multiplier, flow: ScaleFlow) -> tuple[Absorbed, ...]:
    hook = _hook(multiplier, flow.graph)
    return (Absorbed({}, multiplier.why, hook=hook),) if hook is not None else ()


def _one_sided(multiplier: Multiplier, flow: ScaleFlow) -> Absorbed | None:
    """A product scales as much when one of its two factors takes the whole multiplier."""
    if len(multiplier.targets) != 2 or len(multiplier.consumers) != 1:
        return None
    for target in multiplier.targets:
        held = flow.holders((target,), consumers=multiplier.consumers)
        if isinstance(held, Holders):
            factor = multiplier.factor**2
            factors = dict.fromkeys(held.scaled, factor) | dict.fromkeys(held.compensated, 1 / factor)
            why = multiplier.why.replace("split evenly over q and k", "all of it on one of q and k")
            return Absorbed(factors, why, compensated=held.compensated)
    return None


def _readers(multiplier: Multiplier, flow: ScaleFlow) -> frozenset[str]:
    """The weights that alone read one activation: W (theta x) = (theta W) x, the bias beside it stays."""
    found: set[str | None] = set()
    for node in multiplier.consumers if len(multiplier.targets) == 1 else ():
        target, known = multiplier.targets[0], facts(node)
        beside = node.args[0] if known.law == "contract" and known.summand == 0 else None
        reads = target in (*node.args[:3], *factors_of(node)) and target is not beside
        found.add(flow.weight_reading(node, target) if reads else None)
    return frozenset() if None in found else frozenset(name for name in found if name is not None)


def _hook(multiplier: Multiplier, graph: Graph) -> Hook | None:
    """Multiply what one module returns or takes: of a product's two factors one takes the whole multiplier."""
    takes = _taken_by(multiplier, graph)
    if found := _returned_by(multiplier, graph, views=True):
        return Hook(found[0], "output", found[1], multiplier.why)
    if takes is not None:
        return Hook(takes, "input", multiplier.factor, multiplier.why)
    found = _returned_by(multiplier, graph)
    return Hook(found[0], "output", found[1], multiplier.why) if found else None


def _alone(target: fx.Node, multiplier: Multiplier) -> float | None:
    """The factor on one target that does all of it; None where a consumer multiplies others only."""
    if len(multiplier.targets) == 1:
        return multiplier.factor
    powers: set[float] = set()
    for consumer in multiplier.consumers:
        read = [factor for factor in factors_of(consumer) if factor in multiplier.targets]
        if target not in read:
            return None
        powers.add(len(read) / read.count(target))
    return multiplier.factor ** powers.pop() if len(powers) == 1 else None


_FAR = 64
"""How many nodes before an activation are tried, the nearest first."""


def _returned_by(multiplier: Multiplier, graph: Graph, *, views: bool = False) -> tuple[str, float] | None:
    """The nearest module that runs once and whose output's scale is just a target's, as the consumers see it, and the
    factor on it.

    views: only views may stand between the two; else any op, if a scale passes it.
    """
    for target in multiplier.targets:
        factor = _alone(target, multiplier)
        tried: list[fx.Node] = [target] if factor is not None else []
        for node in tried:
            module = _module_of_output(node, graph)
            flow = ScaleFlow(graph, stand_in=node) if module is not None else None
            held = flow.holders((target,), consumers=multiplier.consumers) if flow is not None else None
            if module is not None and factor is not None and held == Holders(frozenset({STAND_IN})):
                return module, factor
            if not views or _is_view(node):
                before = [n for n in node.all_input_nodes if n not in tried and n.op == "call_function"]
                tried += before[: max(0, _FAR - len(tried))]
    return None


def _is_view(node: fx.Node) -> bool:
    """The same entries in another layout or type."""
    known = facts(node)
    return known.law == "view" and (known.layout not in {"", "same", "drop", "pick", "squeeze"} or known.may_copy)


def _module_of_output(node: fx.Node, graph: Graph) -> str | None:
    """The module that runs once and returns just this node."""
    module = module_path(node)
    if not module or module in graph.called_again:
        return None
    leaves = {n for n in graph.nodes if _within(module_path(n), module) and _read_outside(n, module)}
    return module if leaves == {node} else None


def _taken_by(multiplier: Multiplier, graph: Graph) -> str | None:
    """The module that runs once and takes just this activation, so that a pre-hook on it sees exactly this value."""
    if len(multiplier.targets) != 1 or len(multiplier.consumers) != 1:
        return None
    target, consumer = multiplier.targets[0], multiplier.consumers[0]
    module = module_path(consumer)
    if not module or module in graph.called_again or _within(module_path(target), module):
        return None
    stored = {*graph.parameters.values(), *graph.values, *graph.unread}
    inner = [n for n in graph.nodes if _within(module_path(n), module)]
    entering = {p for n in inner for p in n.all_input_nodes if not _within(module_path(p), module)} - stored
    readers = [n for n in inner if target in n.all_input_nodes]
    return module if entering == {target} and readers == [consumer] else None


def _read_outside(node: fx.Node, module: str) -> bool:
    return any(not _within(module_path(user), module) for user in users(node))


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(module + ".")
