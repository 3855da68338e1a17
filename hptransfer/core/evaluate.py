"""A traced model run op by op on real values, with a say in how large each op sees its operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.core.graph import Graph
from hptransfer.core.trace import trace
from hptransfer.core.trace_export import exported_program, graph_of

Factors = Callable[[fx.Node, Mapping[fx.Node, Any]], Mapping[fx.Node, float]]
"""(op, values before it) -> operand -> factor that multiplies it as this op sees it."""


@dataclass(frozen=True)
class Program:
    """A traced model with the values that its placeholders stand for: parameters, buffers, constants and inputs."""

    graph: Graph
    given: Mapping[fx.Node, Any]


def program(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> Program:
    """Trace a model whose values are real. inputs: arguments of one forward call (a mapping: keyword arguments).

    Raises UsageError where torch.export cannot trace it, or its parameters are on meta.
    """
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    if any(tensor.device.type == "meta" for tensor in (*model.parameters(), *model.buffers())):
        raise UsageError(f"{type(model).__name__} is on the meta device: its activations cannot be measured.")
    if trace(model, args, kwargs).ran:
        raise UsageError(f"torch.export cannot trace {type(model).__name__}, so its activations cannot be measured.")
    exported = exported_program(model, args, kwargs)
    graph, signature = graph_of(model, exported), exported.graph_signature
    stored = {**exported.constants, **dict(exported.state_dict)}
    sources = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    given = {node: stored[sources[node.name]] for node in placeholders if node.name in sources}
    free, leaves = [node for node in placeholders if node not in given], pytree.tree_leaves((args, kwargs))
    if len(free) != len(leaves):
        raise UsageError(f"{type(model).__name__} takes {len(free)} inputs where {len(leaves)} were given.")
    return Program(graph, given | dict(zip(free, leaves, strict=True)))


def evaluate(made: Program, factors: Factors, *, seed: int = 0) -> Iterator[tuple[fx.Node, Any]]:
    """(op, its value) for every op in execution order. Buffers are copied, dropout is drawn from `seed`."""
    values: dict[fx.Node, Any] = {node: _copied(value) for node, value in made.given.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for node in made.graph.nodes:
            if node.op == "get_attr":
                values[node] = _attribute(node)
            elif node.op == "call_function":
                values[node] = _computed(node, values, factors(node, values))
                yield node, values[node]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _attribute(node: fx.Node) -> Any:
    found: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


def _computed(node: fx.Node, values: Mapping[fx.Node, Any], factors: Mapping[fx.Node, float]) -> Any:
    def seen(operand: fx.Node) -> Any:
        return values[operand] * factors[operand] if operand in factors else values[operand]

    assert callable(node.target)
    return node.target(*fx.map_arg(node.args, seen), **fx.map_arg(node.kwargs, seen))
