"""Fine-tuning: weights that were trained before keep their values and their forward pass; only learning rates scale.

A frozen hidden matrix says that the model is pretrained. LoRA's two factors then have roles of their own (LoRA+, Hayou,
Ghosh & Yu 2024, 2402.12354): A contracts the width n to the rank, so a sign step needs lr ~ n^-1 and an init of fan-in
scale n^-1/2; B makes width of the rank, so lr ~ 1, and it starts at zero. Both follow from the fans (core/rules.py);
only A's init is a choice, since by its fans A is a readout (n^-1), see Options.bottleneck_init.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from hptransfer.core.roles import Role
from hptransfer.graph.graph import Graph
from hptransfer.graph.parameters.uses import Use
from hptransfer.graph.readings.bottleneck import bottlenecks
from hptransfer.parametrization.options import Options


@dataclass(frozen=True)
class FineTune:
    """What a pretrained model changes in a plan.

    roles: those that differ from what the fans say; kept: parameters whose present values stay; note: for the plan.
    """

    roles: Mapping[str, Role]
    kept: frozenset[str]
    note: str


def fine_tune(
    parameters: Mapping[str, nn.Parameter],
    graph: Graph,
    uses: Mapping[str, list[Use]],
    roles: Mapping[str, Role],
    options: Options,
) -> FineTune | None:
    """None where the weights are initial ones: Options.weights says so, or no hidden matrix is frozen."""
    frozen = [n for n, role in roles.items() if role.kind == "hidden" and not parameters[n].requires_grad]
    if options.weights == "initial" or (options.weights is None and not frozen):
        return None
    pairs = {down: up for down, up in bottlenecks(graph, uses, roles).items() if parameters[down].requires_grad}
    adapters = frozenset(pairs) | frozenset(name for up in pairs.values() for name in up)
    heads = {n for n, role in roles.items() if role.kind == "readout" and parameters[n].requires_grad}
    changed = {n: replace(roles[n], kind="bottleneck") for n in pairs} if options.bottleneck_init == "fan-in" else {}
    reason = "options.weights" if options.weights else f"{len(frozen)} hidden parameters are frozen"
    note = (
        f"pretrained weights ({reason}): values and forward pass are kept, learning rates scale; "
        f"initialised by rule: {len(adapters)} adapter matrices and {len(heads - adapters)} trained readouts"
    )
    return FineTune(changed, frozenset(roles) - adapters - heads, note)
