"""One use of a parameter: what an op does with its axes, and in what form the op sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx

from hptransfer.graph.parameters.homogeneity import WEIGHT, Form
from hptransfer.graph.parameters.labels import Label

Norm = Literal["", "rows", "columns", "taps", "whole", "entries"]


@dataclass(frozen=True)
class Use:
    """One use of a parameter.

    op: the consuming aten op; module: path of the module whose forward ran it; node: that op in the graph.
    axes: a label per parameter axis; operand: the activation that the parameter is contracted with.
    groups: a grouped convolution's groups (1 elsewhere): a transposed one contracts only 1/groups of its axis 0.
    normalised: the parameter was divided by its own norm first, so that its scale is lost: per row (produced axis), per
    column (contracted), per tap of a kernel (over all rows and columns), or as a whole by its largest singular value;
    entries: by their standard deviation, so that each entry has order 1 (weight standardization, 1903.10520).
    form: what the op sees as a function of the parameter; mate: the op that multiplied it with a weight of its shape.
    sums: of a product entry by entry, the ops behind it that sum over the contracted axes.
    """

    parameter: str
    op: str
    module: str
    node: fx.Node
    axes: tuple[Label, ...]
    operand: fx.Node | None = None
    groups: int = 1
    normalised: Norm = ""
    form: Form = WEIGHT
    mate: fx.Node | None = None
    sums: frozenset[fx.Node] = frozenset()

    def __str__(self) -> str:
        return f"{self.op}[{', '.join(self.axes)}] in {self.module or 'the root module'}"


@dataclass(frozen=True)
class Unsettled:
    """A use that the trace cannot label: the op that stopped it."""

    parameter: str
    op: str
    module: str

    def __str__(self) -> str:
        return f"{self.op} (not understood) in {self.module or 'the root module'}"
