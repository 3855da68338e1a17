"""Experts that no token reached: each is traced beside a sibling that was, on the sibling's inputs.

The graph then holds what it would hold had tokens reached it: the same ops on its own parameters, and its output joined
to its sibling's by an add, as outputs of experts are. Values are the sibling's alone, so that the data goes its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import Graph, module_path
from hptransfer.graph.ops import law, op
from hptransfer.graph.readings.streams import Branch, residual_streams


def siblings_of_unreached(model: nn.Module, graph: Graph, ran: Set[str]) -> dict[str, str]:
    """Path of an unreached entry of a ModuleList or ModuleDict -> that of an entry alike which was called.

    ran: paths of the modules that were called. Alike: same class, same names and shapes of parameters. Unreached: not
    called, no parameter used.
    Raises UsageError where the entries are layers that follow each other, so that skipping one changes the depth, or
    where those that were called stand in different places (query and key), so that this one's is not known.
    """
    used = {name for name, node in graph.parameters.items() if node.users}
    found: dict[str, str] = {}
    for container, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.ModuleDict)) or _inside(container, found):
            continue
        entries = {f"{container}.{key}".lstrip("."): entry for key, entry in module.named_children()}
        for path, entry in entries.items():
            own = {f"{path}.{name}" for name, _ in entry.named_parameters()}
            alike = [other for other, twin in entries.items() if other in ran and _signature(twin) == _signature(entry)]
            if own and path not in ran and not own & used and alike:
                _refuse_layers(path, alike, graph)
                _refuse_places(path, alike, graph)
                found[path] = alike[0]
    return found


def add_beside(model: nn.Module, siblings: Mapping[str, str]) -> None:
    """Hook every sibling so that its call also calls the unreached entry and adds the two outputs."""
    for unreached, reached in siblings.items():
        model.get_submodule(reached).register_forward_hook(_beside(model.get_submodule(unreached)), with_kwargs=True)


def _signature(module: nn.Module) -> tuple[type, list[tuple[str, torch.Size]]]:
    return type(module), [(name, parameter.shape) for name, parameter in module.named_parameters()]


def _beside(other: nn.Module) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return pytree.tree_map(_joined, output, other(*args, **kwargs))

    return hook


def _joined(kept: Any, other: Any) -> Any:
    """kept + other in the graph, with the values of `kept`."""
    if not (isinstance(kept, Tensor) and isinstance(other, Tensor) and kept.is_floating_point()):
        return kept
    if kept.shape != other.shape:
        return kept
    total = torch.add(kept, other, alpha=0)  # no term of the sum that the siblings' outputs make
    with disable_proxy_modes_tracing():
        total.detach().copy_(kept.detach())
    return total


def _inside(path: str, outer: Iterable[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in outer)


def _refuse_layers(unreached: str, called: list[str], graph: Graph) -> None:
    """Entries that close a residual branch, or stand in different ones, are layers and no experts."""
    branches = residual_streams(graph).branches
    closing = any(_closes(branch, path) for branch in branches for path in called)
    holding = {frozenset(i for i, b in enumerate(branches) if _holds(b, path)) for path in called}
    if closing or len(holding) > 1:
        raise UsageError(
            f"layer {unreached!r} did not run, and those beside it add to the residual stream one after the other, so "
            f"that the depth cannot be read off; turn layer dropping off for the trace, or give example inputs that "
            f"reach every layer"
        )


def _refuse_places(unreached: str, called: list[str], graph: Graph) -> None:
    """Entries whose results are read in different ways are not alike, whatever their class."""
    places = {path: _places(path, graph) for path in called}
    other = next((path for path in called if places[path] != places[called[0]]), None)
    if other is not None:
        shown = [f"{path!r} ({', '.join(sorted(places[path])) or 'by nothing'})" for path in (called[0], other)]
        raise UsageError(
            f"{unreached!r} did not run, and those beside it are read in different ways, {shown[0]} and {shown[1]}, so "
            f"that its own place is not known; give example inputs that reach it"
        )


def _places(path: str, graph: Graph) -> set[str]:
    """The products, and their sides, that read what a module made, as they are or after ops without a product."""
    within = [node for node in graph.nodes if node.op == "call_function" and _inside(f"{module_path(node)}.", [path])]
    pending = [(node, user) for node in within for user in node.users if user not in within]
    found, seen = set[str](), set(pending)
    while pending:
        node, reader = pending.pop()
        if law(reader) in {"contract", "attention"}:
            found |= {f"{op(reader)} {at}" for at, operand in enumerate(reader.args) if operand is node}
        elif reader.op == "output":
            found.add("output")
        else:
            fresh = {(reader, user) for user in reader.users} - seen
            seen |= fresh
            pending += fresh
    return found


def _closes(branch: Branch, path: str) -> bool:
    """True where the branch is closed inside the module, or is just what the module returns."""
    return any(_inside(f"{module_path(node)}.", [path]) for node in (branch.add, branch.end))


def _holds(branch: Branch, path: str) -> bool:
    return any(name.startswith(f"{path}.") for name in branch.parameters)
