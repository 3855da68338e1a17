"""A traced model run op by op on real values, with a say in how large its parameters and operands are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.graph.export.export import exported_program, graph_of
from hptransfer.graph.graph import Graph
from hptransfer.graph.parameters.uses import depends_on_inputs

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
    try:
        exported = exported_program(model, args, kwargs)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UsageError(
            f"torch.export cannot trace {type(model).__name__} ({type(error).__name__}: {reason}), so its activations "
            f"cannot be measured. Give example inputs or a config with which the forward returns tensors alone "
            f"(use_cache=False where it returns a cache) and does not branch on values, or use Options(forward='own')."
        ) from error
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


class Evaluation:
    """One forward pass of a program. values: what is known so far, by node. Buffers are copied, dropout is seeded."""

    def __init__(self, made: Program, *, seed: int = 0) -> None:
        self.made, self.seed, self._from_inputs = made, seed, depends_on_inputs(made.graph)
        self.values: dict[fx.Node, Any] = {node: _copied(value) for node, value in made.given.items()}

    def rescale(self, parameter: str, factor: float) -> None:
        """Multiply a parameter from here on, and compute again what was made of it and of no input."""
        placeholder = self.made.graph.parameters[parameter]
        self.values[placeholder] = self.values[placeholder] * factor
        changed = {placeholder}
        with torch.no_grad():
            for node in self.made.graph.nodes:
                fixed = node.op == "call_function" and node not in self._from_inputs and node in self.values
                if fixed and any(parent in changed for parent in node.all_input_nodes):
                    self.values[node] = _computed(node, self.values, {})
                    changed.add(node)

    def run(self, factors: Factors) -> Iterator[tuple[fx.Node, Any]]:
        """(op, its value) for every op in execution order. factors may rescale parameters before it answers."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for node in self.made.graph.nodes:
                if node.op == "get_attr":
                    self.values[node] = _attribute(node)
                elif node.op == "call_function":
                    self.values[node] = _computed(node, self.values, factors(node, self.values))
                    yield node, self.values[node]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _attribute(node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(node.graph.owning_module)


def _computed(node: fx.Node, values: Mapping[fx.Node, Any], factors: Mapping[fx.Node, float]) -> Any:
    def seen(operand: fx.Node) -> Any:
        return values[operand] * factors[operand] if operand in factors else values[operand]

    assert callable(node.target)
    return node.target(*fx.map_arg(node.args, seen), **fx.map_arg(node.kwargs, seen))
