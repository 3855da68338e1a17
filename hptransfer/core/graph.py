"""The computation as a graph: torch.export of an unmodified model, on meta or real weights, without running it."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError

BOOKKEEPING = {
    "_assert_tensor_metadata", "sym_size", "_assert_scalar", "sym_constrain_range_for_size", "zeros_like", "ones_like",
    "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full",
}  # fmt: skip
"""Ops that look at a tensor's shape or type and never at its values."""

_LIKE = {"expand_as", "view_as", "type_as"}
"""Ops that look only at the shape or type of their second argument."""


@dataclass(frozen=True)
class Graph:
    """A traced model.

    nodes: every fx node in execution order, with no-grad and autocast regions inlined.
    parameters: parameter name -> its placeholder; a tied parameter stands under its first name only.
    aliases: every further name of a tied parameter -> its first name.
    inputs: the placeholders of the forward's own arguments.
    values: value of each one-element buffer or constant that the graph reads, by node; unread: name of those whose
    value cannot be read, because they are on the meta device.
    """

    nodes: tuple[fx.Node, ...]
    order: Mapping[fx.Node, int]
    parameters: Mapping[str, fx.Node]
    aliases: Mapping[str, str]
    inputs: frozenset[fx.Node]
    values: Mapping[fx.Node, float]
    unread: Mapping[fx.Node, str]

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


def op(node: fx.Node) -> str:
    """The aten op's bare name ("linear", "mul", "scaled_dot_product_attention"), or the node kind."""
    if node.op != "call_function":
        return node.op
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet)).split(".")[-1]


def shape(node: Any) -> tuple[int, ...]:
    """The shape of a node's tensor value, () where it has none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def users(node: fx.Node) -> list[fx.Node]:
    """The nodes that read the *values* of this one."""
    return [
        user
        for user in node.users
        if op(user) not in BOOKKEEPING and not (op(user) in _LIKE and user.args[0] is not node)
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


def trace(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Trace one forward call of an unmodified model.

    args, kwargs: example inputs; tensors are moved to the model's device (meta included), nothing is computed.
    Raises UsageError where torch.export cannot trace the call.
    Source: torch.export, non-strict mode.
    """
    first, aliases = _tied_names(model)
    exported = _exported(model, _on_device_of(model, tuple(args)), _on_device_of(model, dict(kwargs or {})))
    _inline_regions(exported.graph_module)
    nodes = tuple(exported.graph_module.graph.nodes)
    by_name = {node.name: node for node in nodes if node.op == "placeholder"}
    signature = exported.graph_signature
    found = {aliases.get(n, n): by_name[p] for p, n in signature.inputs_to_parameters.items() if p in by_name}
    values, unread = _scalars(exported, by_name)
    return Graph(
        nodes,
        order={node: i for i, node in enumerate(nodes)},
        parameters={name: found[name] for name in first if name in found},
        aliases=aliases,
        inputs=frozenset(by_name[str(n)] for n in signature.user_inputs if str(n) in by_name),
        values=values,
        unread=unread,
    )


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    # the caller's no_grad must not change what is traced: a plan made under it is the same plan
    with warnings.catch_warnings(), _training(model), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(model, args, kwargs, strict=False)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"{type(model).__name__} could not be traced with these example inputs "
                f"({type(error).__name__}: {reason}). Give inputs of the shape and type that training uses; "
                f"the forward must be one that torch.export(strict=False) can trace."
            ) from error


def _tied_names(model: nn.Module) -> tuple[list[str], dict[str, str]]:
    """First names of all distinct parameters, and alias -> first name for the tied ones."""
    seen: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            aliases[name] = seen[id(parameter)]
        else:
            seen[id(parameter)] = name
    return list(seen.values()), aliases


def _on_device_of(model: nn.Module, tree: Any) -> Any:
    tensors = itertools.chain(model.parameters(), model.buffers())
    device = next((t.device for t in tensors), torch.device("cpu"))
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), tree)


@contextlib.contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Trace the training forward: eval mode may take fused inference paths that hide the parameters' uses."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _inline_regions(module: fx.GraphModule) -> None:
    """Replace calls of traced sub-regions (no_grad, autocast, checkpoint) by their bodies."""
    graph = module.graph
    for node in list(graph.nodes):
        body = _region_body(module, node)
        if body is None:
            continue
        _inline_regions(body)
        operands = [a for a in node.args if isinstance(a, fx.Node) and a.op != "get_attr"]
        placeholders = [n for n in body.graph.nodes if n.op == "placeholder"]
        mapping = dict(zip(placeholders, operands[-len(placeholders) :], strict=True))
        with graph.inserting_before(node):
            results = sequence(graph.graph_copy(body.graph, mapping))
        for user in list(node.users):
            if op(user) == "getitem":
                user.replace_all_uses_with(results[number(user.args[1])])
                graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(results[0])
        graph.erase_node(node)


def _region_body(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
        return None
    bodies = [a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    found = [getattr(module, str(a.target), None) for a in bodies]
    found = [body for body in found if isinstance(body, fx.GraphModule)]
    return found[0] if len(found) == 1 else None


def _scalars(
    exported: torch.export.ExportedProgram, by_name: Mapping[str, fx.Node]
) -> tuple[dict[fx.Node, float], dict[fx.Node, str]]:
    """Values of one-element buffers and lifted constants, and the names of those on meta, which hold none."""
    signature = exported.graph_signature
    stored = {**exported.constants, **dict(exported.state_dict)}
    sources = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    values: dict[fx.Node, float] = {}
    unread: dict[fx.Node, str] = {}
    for placeholder, name in sources.items():
        value = stored.get(name)
        if placeholder not in by_name or not isinstance(value, Tensor) or value.numel() != 1:
            continue
        if value.device.type == "meta":
            unread[by_name[placeholder]] = name
        elif math.isfinite(float(value)):
            values[by_name[placeholder]] = float(value)
    return values, unread
