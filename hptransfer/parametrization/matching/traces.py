"""The graphs that a plan is read off: target and base traced, or none at all where every role is given."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import Graph, tied_names
from hptransfer.graph.trace import trace
from hptransfer.parametrization.interop.mup import constant_width_mults
from hptransfer.parametrization.matching.control_flow import check_same_way

Inputs = Sequence[Any] | Mapping[str, Any]

UNTRACED = (
    "no trace, every role is given: no multipliers for attention, tied readouts, constants of the code and depth; "
    "biases do not follow their weight's law, and no matrix counts as hidden for an optimizer of its own"
)


@dataclass(frozen=True)
class Traces:
    """graphs: of target and base. notes: for the plan."""

    graphs: tuple[Graph, Graph]
    notes: tuple[str, ...] = ()


def traces(
    model: nn.Module, base: nn.Module | None, inputs: Inputs, base_inputs: Inputs, annotated: Iterable[str]
) -> Traces:
    """Trace both models; base is None where its graph is the target's.

    annotated: names and globs of parameters whose role is given. Where they are all of them, a model need not be
    traceable: its graph is empty then.
    Raises UsageError where a model cannot be traced, or the two took different branches.
    """
    try:
        graph = _traced(model, inputs)
        graphs = graph, graph if base is None else _traced(base, base_inputs)
    except UsageError as error:
        if not all(any(fnmatch.fnmatchcase(n, p) for p in annotated) for n, _ in model.named_parameters()):
            raise
        return Traces((_empty(model), _empty(base or model)), (f"{UNTRACED} ({error})",))
    check_same_way(*graphs)
    return Traces(graphs, _notes(graphs))


def _notes(graphs: Iterable[Graph]) -> tuple[str, ...]:
    """What both graphs say, once: torch.export's reason may name sizes, and so differ between target and base."""
    told: dict[str, str] = {}
    for graph in graphs:
        for note in graph.notes:
            told.setdefault(note.replace(graph.unexported, "") if graph.unexported else note, note)
    return tuple(told.values())


def _traced(model: nn.Module, inputs: Inputs) -> Graph:
    with constant_width_mults(model):
        return trace(model, (), inputs) if isinstance(inputs, Mapping) else trace(model, tuple(inputs))


def _empty(model: nn.Module) -> Graph:
    return Graph((), {}, {}, tied_names(model)[1], frozenset(), {}, {})
