"""The graph of a model by torch.export: on meta or real weights, without computing anything."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hptransfer.graph.export.attributes import put_back, tensors
from hptransfer.graph.export.composite import inline, write_out
from hptransfer.graph.export.empty import drop_empty
from hptransfer.graph.export.in_place import connect_writes
from hptransfer.graph.export.sources import stand_ins
from hptransfer.graph.graph import Graph, tied_names


def exported_program(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    """The training forward as torch.export (non-strict) sees it. Raises whatever torch.export raises."""
    args, kwargs = _on_device_of(model, args), _on_device_of(model, kwargs)
    _count_devices()
    # the caller's no_grad must not change what is traced: a plan made under it is the same plan
    with warnings.catch_warnings(), _training(model), torch.enable_grad(), _quiet():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, kwargs, strict=False)


@functools.cache
def _count_devices() -> None:
    """Let autograd count the devices of a CUDA build without a GPU before fake tensors make it see eight.

    It counts at the first backward pass of a process and starts a thread for each device, beside which no worker can be
    forked that trains. Fake tensors, which torch.export uses, feign CUDA devices where there are none
    (torch._C._ensureCUDADeviceGuardSet).
    """
    if torch.backends.cuda.is_built() and not torch.cuda.is_available():
        with torch.inference_mode(False), torch.enable_grad():
            torch.zeros((), device="cpu", requires_grad=True).backward()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing the half-made graph of what it cannot export: the exception says it all."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.disabled = before


def graph_of(model: nn.Module, exported: torch.export.ExportedProgram) -> Graph:
    """An exported program as a Graph, with no-grad, autocast and checkpoint regions inlined."""
    first, aliases = tied_names(model)
    signature, graph = exported.graph_signature, exported.graph_module.graph
    _inline_regions(exported.graph_module)
    write_out(graph)
    by_name = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    found = {aliases.get(n, n): by_name[p] for p, n in signature.inputs_to_parameters.items() if p in by_name}
    inputs = frozenset(by_name[str(n)] for n in signature.user_inputs if str(n) in by_name)
    connect_writes(graph, set(found.values()))
    drop_empty(graph, {*found.values(), *inputs})
    nodes = tuple(graph.nodes)
    values, unread = _scalars(exported, by_name)
    inputs |= stand_ins(nodes, set(found.values()), inputs, _from_outside(model, exported, by_name))
    return Graph(
        nodes,
        order={node: i for i, node in enumerate(nodes)},
        parameters={name: found[name] for name in first if name in found},
        aliases=aliases,
        inputs=inputs,
        values={node: value for node, value in values.items() if node not in inputs},
        unread=unread,
    )


def _on_device_of(model: nn.Module, tree: Any) -> Any:
    tensors = itertools.chain(model.parameters(), model.buffers())
    device = next((t.device for t in tensors), torch.device("cpu"))
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), tree)


@contextlib.contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Trace the training forward: eval mode may take fused inference paths that hide the parameters' uses.

    Attributes that the forward sets or fills are put back, since tracing puts tensors without values there.
    """
    modes = {module: module.training for module in model.modules()}
    with put_back(model):
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
        inline(graph, node, body.graph, dict(zip(placeholders, operands[-len(placeholders) :], strict=True)))


def _region_body(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
        return None
    bodies = [a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    found = [getattr(module, str(a.target), None) for a in bodies]
    found = [body for body in found if isinstance(body, fx.GraphModule)]
    return found[0] if len(found) == 1 else None


def _from_outside(
    model: nn.Module, exported: torch.export.ExportedProgram, by_name: Mapping[str, fx.Node]
) -> set[fx.Node]:
    """The constants that are no attribute of the model: what the forward made of strings and numbers, or took."""
    kept, constants = tensors(model), exported.graph_signature.inputs_to_lifted_tensor_constants
    own = {name for name, value in exported.constants.items() if any(value is tensor for tensor in kept)}
    own |= {f"{path}.{key}".lstrip(".") for path, module in model.named_modules() for key in vars(module)}
    return {by_name[node] for node, name in constants.items() if name not in own and node in by_name}


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
