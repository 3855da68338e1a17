"""The computation as a graph: one forward call of an unmodified model, exported or else recorded while it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from hptransfer.graph.ops import facts


@dataclass(frozen=True)
class Graph:
    """A traced model.

    nodes: every fx node in execution order, with no-grad and autocast regions inlined.
    parameters: parameter name -> its placeholder; a tied parameter stands under its first name only.
    aliases: every further name of a tied parameter -> its first name.
    inputs: the placeholders of the forward's arguments, and the nodes that stand in for some (see trace_sources).
    values: value of each one-element buffer or constant that the graph reads, by node; unread: name of those whose
    value cannot be read, because they are on the meta device.
    ran: the forward was run and recorded, so that the graph holds the branches that these example inputs took;
    unexported: why it was, the reason that torch.export gave. notes: what a plan made from it must say.
    """

    nodes: tuple[fx.Node, ...]
    order: Mapping[fx.Node, int]
    parameters: Mapping[str, fx.Node]
    aliases: Mapping[str, str]
    inputs: frozenset[fx.Node]
    values: Mapping[fx.Node, float]
    unread: Mapping[fx.Node, str]
    ran: bool = False
    unexported: str = ""
    notes: tuple[str, ...] = ()

    def parameter_name(self, node: fx.Node) -> str | None:
        """The parameter that this node is the placeholder of, or None."""
        return self._names.get(node)

    @cached_property
    def _names(self) -> Mapping[fx.Node, str]:
        return {node: name for name, node in self.parameters.items()}

    @cached_property
    def called_again(self) -> frozenset[str]:
        """Paths of the modules whose forward runs more than once."""
        stacks = (node.meta.get("nn_module_stack") or {} for node in self.nodes)
        # torch.export marks the second and later calls of one module as key "...@1", "...@2"
        return frozenset(str(path) for stack in stacks for key, (path, *_) in stack.items() if "@" in str(key))


def shape(node: Any) -> tuple[int, ...]:
    """The shape of a node's tensor value, () where it has none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def users(node: fx.Node) -> list[fx.Node]:
    """The nodes that read the *values* of this one."""
    return [
        user
        for user in node.users
        if not ((known := facts(user)).bookkeeping or (known.like and user.args[0] is not node))
    ]


def operand(node: fx.Node, position: int = 0) -> fx.Node | None:
    """A positional argument that is a node, or None."""
    found = node.args[position] if len(node.args) > position else None
    return found if isinstance(found, fx.Node) else None


def number(value: object) -> int:
    """An argument of an op that is an integer by the op's signature."""
    return int(value)  # pyright: ignore[reportArgumentType]


def sequence(value: object) -> list[Any]:
    """An argument that may be one value or a list of them, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def module_path(node: fx.Node) -> str:
    """Dotted name of the innermost module whose forward ran this node; "" for the root."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return re.sub(r"^L\['self'\]\.?|@\d+$", "", str(path))


def template(name: str) -> str:
    """A parameter or module name with its indices taken out: layers.3.mlp.down -> layers.*.mlp.down."""
    return re.sub(r"(?<![A-Za-z_\d])\d+(?![A-Za-z_\d])", "*", name)


def tied_names(model: nn.Module) -> tuple[list[str], dict[str, str]]:
    """First names of all distinct parameters, and alias -> first name for the tied ones."""
    seen: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            aliases[name] = seen[id(parameter)]
        else:
            seen[id(parameter)] = name
    return list(seen.values()), aliases
