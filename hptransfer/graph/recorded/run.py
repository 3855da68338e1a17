"""The graph of a model that torch.export cannot trace: a copy of it runs on the example inputs and is recorded.

Control flow that depends on data then goes one way. What these inputs decide is kept apart from what the code says:
experts that no token reached are traced beside their siblings, and numbers that change with the data are no constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hptransfer.graph.export.attributes import put_back
from hptransfer.graph.graph import Graph, module_path
from hptransfer.graph.parameters.uses import depends_on_inputs
from hptransfer.graph.readings.constants import Constant, constants
from hptransfer.graph.recorded.beside import siblings_of_unreached
from hptransfer.graph.recorded.copied import kept_buffers
from hptransfer.graph.recorded.record import Recording, record

DRAWS = 2
"""Runs with other weights that tell a constant of the code from a number that was read off the data."""


def recorded_graph(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, unexported: str = "") -> Graph:
    """Run a copy of the model in training mode and return what it computed; the model itself is left as it is.

    A model on meta gets random weights on the CPU for this. unexported: why it was not exported, for the notes.
    Raises UsageError where the model is too large to be copied or layers are skipped, and whatever the forward raises.
    """
    with put_back(model), kept_buffers(model):  # what stands beside its class is the copy's as well
        return _recorded(model, args, kwargs, unexported)


def _recorded(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], unexported: str) -> Graph:
    siblings: dict[str, str] = {}
    recording = record(model, args, kwargs)
    while fresh := _fresh(siblings_of_unreached(model, recording.graph, recording.called), siblings):
        siblings |= fresh
        recording = record(model, args, kwargs, siblings=siblings)
    numbers = _read_off_data(recording.graph, _other_runs(model, args, kwargs, siblings))
    for number in numbers:
        _connect(number, recording)
    notes = tuple(_notes(model, siblings, numbers, unexported))
    return replace(recording.finished(), unexported=unexported, notes=notes)


def _fresh(found: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    return {path: twin for path, twin in found.items() if path not in known}


def _other_runs(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], siblings: Mapping[str, str]
) -> list[Graph]:
    """The graphs of runs with other weights. Some weights may not suit a model; raises what it raised if none do."""
    found: list[Graph] = []
    failures: list[Exception] = []
    for draw in range(1, 2 * DRAWS + 1):
        try:
            found.append(record(model, args, kwargs, siblings=siblings, draw=draw).graph)
        except Exception as error:
            failures.append(error)
        if len(found) == DRAWS:
            break
    if not found:
        raise failures[-1]
    return found


def _notes(
    model: nn.Module, siblings: Mapping[str, str], numbers: Sequence[Constant], unexported: str
) -> Iterator[str]:
    yield (
        f"torch.export cannot trace {type(model).__name__}, so a copy of it was run and recorded: the plan holds for "
        f"the branches that the example inputs take{f' (torch.export: {unexported})' if unexported else ''}"
    )
    if siblings:
        shown = ", ".join(f"{path} beside {twin}" for path, twin in list(siblings.items())[:3])
        yield f"{len(siblings)} modules that the example inputs did not reach were traced beside their like: {shown}"
    if numbers:
        where = sorted({number.module or "the root module" for number in numbers})
        yield f"factors read off the data were not compared with the base's: in {', '.join(where[:3])}"


def _read_off_data(graph: Graph, others: Sequence[Graph]) -> list[Constant]:
    """The factors that runs with other weights do not show."""
    shown = [_factors(other) for other in others]
    valued = [constant for constant in constants(graph) if constant.value is not None]
    return [constant for constant in valued if any(_changes(constant, own) for own in shown)]


def _factors(graph: Graph) -> dict[str, list[float]]:
    """Module -> the constants that it multiplies by. A module that ran without one has an empty list."""
    found: dict[str, list[float]] = {module_path(node): [] for node in graph.nodes if node.op == "call_function"}
    for constant in constants(graph):
        if constant.value is not None:
            found[constant.module].append(constant.value)
    return found


def _changes(constant: Constant, shown: Mapping[str, list[float]]) -> bool:
    """True where the module ran in the other draw and met no such factor."""
    own = shown.get(constant.module)
    return own is not None and not any(math.isclose(constant.value or 0.0, value, rel_tol=1e-6) for value in own)


def _connect(number: Constant, recording: Recording) -> None:
    """Put a node that depends on every value read so far in place of a product's constant operand."""
    graph, node = recording.graph, number.node
    live = depends_on_inputs(replace(graph, inputs=graph.inputs | set(graph.parameters.values())))
    at = next(i for i, a in enumerate(node.args) if isinstance(a, (int, float)) or a not in live)
    read = tuple(r for r in recording.reads if graph.order[r] < graph.order[node])
    with node.graph.inserting_before(node):
        operand = node.graph.call_function(torch.ops.aten.item.default, (read or tuple(graph.inputs),))
    operand.meta.update(node.meta, val=torch.tensor(number.value))
    node.update_arg(at, operand)
