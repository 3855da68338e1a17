"""Trace an unmodified model: the one way in, by export where torch.export can and by a recorded run where it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hptransfer.core.errors import UsageError
from hptransfer.graph.export.export import exported_program, graph_of
from hptransfer.graph.graph import Graph, users
from hptransfer.graph.ops import law


def trace(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Trace one forward call of an unmodified model: by torch.export, or where that fails, by running a copy of it.

    args, kwargs: example inputs; tensors are moved to the model's device (meta included). The model itself is not run.
    Raises UsageError where neither works, with both reasons, or where nothing in the model depends on the inputs.
    Source: torch.export, non-strict mode; torch.fx.experimental.proxy_tensor.make_fx, before dispatch.
    """
    graph = _traced(model, tuple(args), dict(kwargs or {}))
    _refuse_without_inputs(model, graph)
    return graph


def _traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    try:
        program = exported_program(model, args, kwargs)
    except Exception as error:
        exporting = _reason(error)
    else:
        if not _open_sizes(program):
            return graph_of(model, program)
        exporting = "sizes of its tensors depend on the data"
    from hptransfer.graph.recorded.run import recorded_graph  # imports torch._dynamo: seconds that few models need

    try:
        return recorded_graph(model, args, kwargs, unexported=exporting)
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} could not be traced with these example inputs (torch.export, strict=False: "
            f"{exporting}), nor recorded while a copy of it ran ({_reason(error)}). Give inputs of the shape, type and "
            f"values that training uses; or say what every parameter is with roles={{'name or glob': Role(...)}}, "
            f"which makes a plan without a trace."
        ) from error


def _open_sizes(program: ExportedProgram) -> bool:
    """True where a size is not known before the data are, as of x[x > 0]: what is recorded has those of its run."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    sizes = [size for value in values if isinstance(value, Tensor) for size in value.shape]
    return any(isinstance(size, torch.SymInt) and not size.node.has_hint() for size in sizes)


def _refuse_without_inputs(model: nn.Module, graph: Graph) -> None:
    """Products of activations are told from weights by their dependence on inputs; with none, all would be weights."""
    multiplies = any(law(node) in {"contract", "attention", "softmax"} for node in graph.nodes)
    if multiplies and not any(users(node) for node in graph.inputs):
        raise UsageError(
            f"no op of {type(model).__name__} depends on the example inputs, so that activations cannot be told from "
            f"weights; let its forward take them as arguments, as tensors or in containers or objects that hold them."
        )


def _reason(error: Exception) -> str:
    """The first line of an error; a UsageError in full."""
    text = str(error).strip()
    if isinstance(error, UsageError):
        return text.removesuffix(".")
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
