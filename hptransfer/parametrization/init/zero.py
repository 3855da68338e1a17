"""Which readouts start at zero or fan_in^-1/2: the same ones at every size, so that curves share one initialisation."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Role
from hptransfer.graph.graph import Graph
from hptransfer.graph.parameters.uses import Use
from hptransfer.graph.readings.outputs import Uses, output_uses
from hptransfer.graph.readings.vanishing import stopped
from hptransfer.parametrization.matching.compare import Comparison


def zero_readouts(compared: Comparison, graph: Graph) -> frozenset[str]:
    """The trainable weights that make the model's outputs. An annotated role overrules the trace.

    Growth is not asked: at the base's own size nothing grows, and a router that grows makes no output.
    Of two factors of a product both would stay zero for ever, and which of them is the readout no derivation says, as
    they enter alike; so both are refused, for the caller to annotate one as hidden.
    Raises UsageError where one of them is tied with an input weight, meets another one in a product, or is divided by
    its own norm: these cannot start at zero.
    """
    zeros = _readouts(compared, graph, "zero", "at zero the model would read nothing")
    _refuse_stopped(graph, zeros)
    return zeros


def fan_in_readouts(compared: Comparison, graph: Graph) -> frozenset[str]:
    """The same weights, for the option that starts them at fan_in^-1/2.

    Raises UsageError where one of them is tied with an input weight, whose init is its own.
    """
    return _readouts(compared, graph, "fan-in", "its init is the input's")


def _readouts(compared: Comparison, graph: Graph, option: str, why: str) -> frozenset[str]:
    trainable = [name for name, parameter in compared.parameters.items() if parameter.requires_grad]
    outputs = output_uses(graph, compared.uses)
    for name in trainable:
        if name in outputs and _tied(name, compared.uses, outputs):
            raise UsageError(
                f"Options(readout_init={option!r}): {name!r} is the readout and an input weight at once (tied), so "
                f"{why}. Untie them, or use readout_init='own'."
            )
    said = {name: _annotation(name, compared.annotated) for name in trainable}
    return frozenset(n for n, role in said.items() if (role.kind == "readout" if role else n in outputs))


def _refuse_stopped(graph: Graph, zeros: frozenset[str]) -> None:
    names, places = list[str](), list[str]()
    while (found := stopped(graph, zeros.difference(names))) is not None:
        names += found.names
        places.append(found.where)
    if names:
        raise UsageError(
            f"Options(readout_init='zero'): {', '.join(map(repr, names))} would start at zero and could not learn: "
            f"{'; '.join(places)}. Say which weights are no readout with roles={{'name': Role('hidden', ...)}}, or "
            f"use readout_init='own'."
        )


def _tied(name: str, uses: Uses, outputs: Mapping[str, list[Use]]) -> bool:
    beside = [use for use in uses[name] if isinstance(use, Use) and use not in outputs[name]]
    return any(label in {"indexed", "contracted"} for use in beside for label in use.axes)


def _annotation(name: str, annotated: Mapping[str, Role]) -> Role | None:
    return next((role for pattern, role in annotated.items() if fnmatch.fnmatchcase(name, pattern)), None)
