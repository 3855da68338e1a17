"""The computation as a graph: torch.export of an unmodified model, on meta or real weights, without running it."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError

BOOKKEEPING = {"_assert_tensor_metadata", "sym_size", "_assert_scalar", "sym_constrain_range_for_size"}
"""Ops that look at a tensor's shape or type and never at its values."""


@dataclass(frozen=True)
class Graph:
    """A traced model.

    nodes: every fx node in execution order, with no-grad and autocast regions inlined.
    parameters: parameter name -> its placeholder; a tied parameter stands under its first name only.
    aliases: every further name of a tied parameter -> its first name.
    values: scalar buffers and constants that the graph reads, by node.
    """

    nodes: tuple[fx.Node, ...]
    order: Mapping[fx.Node, int]
    parameters: Mapping[str, fx.Node]
    aliases: Mapping[str, str]
    values: Mapping[fx.Node, float]

    def parameter_name(self, node: fx.Node) -> str | None:
        """The parameter that this node is the placeholder of, or None."""
        return self._names.get(node)

    @property
    def _names(self) -> Mapping[fx.Node, str]:
        cached = self.__dict__.get("_names_cache")
        if cached is None:
            cached = {node: name for name, node in self.parameters.items()}
            self.__dict__["_names_cache"] = cached
        return cached


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
    return [user for user in node.users if op(user) not in BOOKKEEPING]


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
    args, kwargs = _on_device_of(model, tuple(args)), _on_device_of(model, dict(kwargs or {}))
    first, aliases = _tied_names(model)
    with warnings.catch_warnings(), _training(model), _no_dynamo_config_leak():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(model, args, kwargs, strict=False)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"{type(model).__name__} could not be traced with these example inputs "
                f"({type(error).__name__}: {reason}). Give inputs of the shape that training uses; a model that "
                f"torch.export cannot trace needs roles={{...}} for every parameter and trace=False."
            ) from error
    graph = exported.graph_module.graph
    _inline_regions(exported.graph_module)
    nodes = tuple(graph.nodes)
    signature = exported.graph_signature
    by_target = {node.name: node for node in nodes if node.op == "placeholder"}
    parameters = {
        aliases.get(name, name): by_target[placeholder]
        for placeholder, name in signature.inputs_to_parameters.items()
        if placeholder in by_target
    }
    parameters = {name: parameters[name] for name in first if name in parameters}
    values = _scalar_values(exported, by_target)
    return Graph(nodes, {node: i for i, node in enumerate(nodes)}, parameters, aliases, values)


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


@contextlib.contextmanager
def _no_dynamo_config_leak() -> Iterator[None]:
    """Keep the caller's autocast and grad state: a plan made under no_grad is the same plan."""
    with torch.enable_grad():
        yield


def _inline_regions(module: fx.GraphModule) -> None:
    """Replace calls of traced sub-regions (no_grad, autocast, checkpoint) by their bodies."""
    graph = module.graph
    for node in list(graph.nodes):
        body = _region_body(module, node)
        if body is None:
            continue
        _inline_regions(body)
        operands = [a for a in _region_operands(node)]
        placeholders = [n for n in body.graph.nodes if n.op == "placeholder"]
        mapping: dict[fx.Node, fx.Node] = dict(zip(placeholders, operands[-len(placeholders) :], strict=True))
        with graph.inserting_before(node):
            result = graph.graph_copy(body.graph, mapping)
        results = result if isinstance(result, (tuple, list)) else (result,)
        for user in list(node.users):
            if op(user) == "getitem":
                user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
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


def _region_operands(node: fx.Node) -> list[fx.Node]:
    return [a for a in node.args if isinstance(a, fx.Node) and a.op != "get_attr"]


def _scalar_values(exported: torch.export.ExportedProgram, by_name: Mapping[str, fx.Node]) -> dict[fx.Node, float]:
    """Values of one-element buffers and lifted constants: forward multipliers are sometimes stored in them."""
    signature = exported.graph_signature
    stored = {**exported.constants, **dict(exported.state_dict)}
    sources = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    found: dict[fx.Node, float] = {}
    for placeholder, target in sources.items():
        value = stored.get(target)
        if placeholder in by_name and isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "meta":
            number = float(value)
            if math.isfinite(number):
                found[by_name[placeholder]] = number
    return found
