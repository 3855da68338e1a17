"""Where a forward multiplier goes: into parameters that can hold it, else on a hook, else nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from hptransfer.core.errors import UsageError
from hptransfer.core.graph import Graph, module_path, op, operand, users
from hptransfer.core.scale_flow import Holders, ScaleFlow


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


def place(multiplier: Multiplier, flow: ScaleFlow, *, refuse: bool = True) -> Absorbed:
    """Put a multiplier on parameters that can hold it, else on a hook.

    The absorption rules (2011.14522): W -> theta W changes nothing if init and learning rate follow; see absorb.py.
    refuse: raise UsageError where neither can hold it; otherwise a note says that it is left out.
    """
    held = flow.holders(multiplier.targets, consumers=multiplier.consumers)
    if isinstance(held, Holders):
        factors = dict.fromkeys(held.scaled, multiplier.factor) | dict.fromkeys(held.compensated, 1 / multiplier.factor)
        return Absorbed(factors, multiplier.why, compensated=held.compensated)
    readers = _readers(multiplier, flow)
    if readers:
        return Absorbed(dict.fromkeys(readers, multiplier.factor), multiplier.why)
    hook = _hook(multiplier, flow.graph)
    if hook is not None:
        return Absorbed({}, multiplier.why, hook=hook)
    if refuse:
        raise UsageError(
            f"This multiplier has no place: {multiplier.why}. No parameter can hold it ({held.reason}), and no "
            f"module's input or output is just this activation. Put a module (nn.Identity, say) where it is made, so "
            f"that a hook can multiply its output, or pass options=Options(unplaced='note') to go on without it."
        )
    return Absorbed({}, multiplier.why, note=f"NOT APPLIED: {multiplier.why}; nothing can hold it ({held.reason})")


def _readers(multiplier: Multiplier, flow: ScaleFlow) -> frozenset[str]:
    """The weights that alone read one activation: W (theta x) = (theta W) x, the bias beside it stays."""
    found: set[str | None] = set()
    for node in multiplier.consumers if len(multiplier.targets) == 1 else ():
        target, beside = multiplier.targets[0], node.args[0] if op(node) in {"addmm", "baddbmm"} else None
        reads = target in node.args[:3] and target is not beside
        found.add(flow.weight_reading(node, target) if reads else None)
    return frozenset() if None in found else frozenset(name for name in found if name is not None)


def _hook(multiplier: Multiplier, graph: Graph) -> Hook | None:
    """Multiply what one module returns or takes: of an attention's two factors one takes the whole multiplier."""
    factor = multiplier.factor ** len(multiplier.targets)
    for target in multiplier.targets:
        module = _returned_by(target, set(multiplier.consumers), graph)
        if module is not None:
            return Hook(module, "output", factor, multiplier.why)
    if len(multiplier.targets) == 1 and len(multiplier.consumers) == 1:
        module = _taken_by(multiplier.targets[0], multiplier.consumers[0], graph)
        if module is not None:
            return Hook(module, "input", factor, multiplier.why)
    return None


_VIEWS = {"transpose", "view", "reshape", "contiguous", "permute", "to", "unsqueeze", "expand"}


def _returned_by(node: fx.Node, consumers: set[fx.Node], graph: Graph) -> str | None:
    """The module that runs once and returns just this node (or what it is a view of), for these consumers alone."""
    while op(node) in _VIEWS and set(users(node)) <= consumers:
        parent = operand(node)
        if parent is None:
            return None
        node, consumers = parent, {node}
    module = module_path(node)
    if not module or module in graph.called_again or not set(users(node)) <= consumers:
        return None
    leaves = {n for n in graph.nodes if _within(module_path(n), module) and _read_outside(n, module)}
    return module if leaves == {node} else None


def _taken_by(target: fx.Node, consumer: fx.Node, graph: Graph) -> str | None:
    """The module that runs once and takes just this activation, so that a pre-hook on it sees exactly this value."""
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
