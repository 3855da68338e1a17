"""A unit forward: initial stds at the base for which every weight's output has rms 1, measured layer by layer.

u-muP (2407.17465, Table 2) multiplies a unit-variance weight by fan_in^-1/2 (a readout by fan_in^-1, an embedding by
1) and divides the output of a nonlinearity, a gate or attention by a constant for Gaussian inputs. Here the weight
that reads such an output takes the constant along: std = (fan_in E x^2)^-1/2, with E x^2 measured at the base, one
weight after the other (2303.11257; layer-sequential as in 1511.06422). Measured, it serves any activation, gate or
mixture. It is the mean over weights of zero mean, not over one draw of them; what counts is the mean square of x, its
mean included, where the paper's constants are standard deviations.

Residual adds (2407.17465, Appendix G, both alphas 1): branch l = 0, 1, ... of L is added with weight tau_l,
tau_l^2 = 1 / (L/2 + l), and the sum divided by (1 + tau_l^2)^1/2. The running product of these divisors scales the
whole stream, so it cancels in every norm that reads it; without them each branch has the weight (2/L)^1/2, relative
to the start of the stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from hptransfer.core.errors import UsageError
from hptransfer.graph.evaluate import Evaluation, Program, program
from hptransfer.graph.graph import Graph, shape
from hptransfer.graph.operands import is_convolution
from hptransfer.graph.parameters.uses import Use, parameter_uses
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.readings.outputs import output_uses
from hptransfer.graph.readings.scale_flow import ScaleFlow
from hptransfer.graph.readings.streams import Branch, residual_streams
from hptransfer.parametrization.interop.mup import constant_width_mults
from hptransfer.parametrization.measure import rms
from hptransfer.parametrization.row import Row

FAR = 4 / 3
"""An output whose rms lies further from 1 than this is said in the plan."""


@dataclass(frozen=True)
class UnitForward:
    """What a unit forward asks of the base.

    stds: parameter -> initial rms; branches: residual stream -> factor on each of its branches; tied: parameter ->
    factor on the input of the readout that shares it; notes: for the plan.
    """

    stds: Mapping[str, float]
    branches: Mapping[int, float]
    tied: Mapping[str, float]
    notes: tuple[str, ...]


def unit_forward(made: Program, readout: float) -> UnitForward:
    """Measure it. made: the base with inputs like those of training, see base_program; readout: exponent of its fan_in.

    Weights are settled in one pass, and what they give is checked in a second one.
    Raises UsageError where the inputs are all zeros or all the same token.
    """
    _refuse_one_token(made)
    measuring = _Measuring(made, readout)
    for _ in measuring.pass_.run(measuring.factors):
        pass
    measuring.pass_.values.clear()
    settled = Evaluation(made)
    for name, std in measuring.stds.items():
        settled.rescale(name, std / measuring.own[name])
    for node, value in settled.run(measuring.branch_factors):
        measuring.check(node, value)
    return measuring.found()


def base_program(base: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> Program:
    """The base, to be run op by op on these arguments of one forward call. A model of mup 1.0.0 is one too.

    Raises UsageError where torch.export cannot trace it.
    """
    with constant_width_mults(base):
        return program(base, inputs)


def with_unit(row: Row, unit: UnitForward, own: float) -> Row:
    """The row with the initial scale of the unit forward in place of the base's own, which had this rms."""
    std = unit.stds.get(row.base)
    if std is None or not own or not row.init_std:
        return row
    factor = std / own
    why = f"unit forward: initial rms {std:.4g} at the base, where its own is {own:.4g} (2407.17465, Table 2)"
    scaled = {"init_std": row.init_std * factor, "init_mult": row.init_mult * factor}
    return replace(row, **scaled, scale_mult=row.scale_mult * factor, why=(*row.why, why))


def unit_branches(graph: Graph) -> list[Branch]:
    """The residual branches that a unit forward scales: not those with a factor of the code's own, nor post-norm."""
    streams, scaled = residual_streams(graph), {c.node for c in constants(graph) if c.value != 1.0}
    return [b for b in streams.branches if b.stream not in streams.post_norm and not b.constants & scaled]


@dataclass
class _Measuring:
    """Goes through the base's ops and settles each weight's scale where it is first used."""

    made: Program
    readout: float
    stds: dict[str, float] = field(default_factory=dict)
    streams: dict[int, float] = field(default_factory=dict)
    tied: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.made.graph
        uses = parameter_uses(graph)
        self.flow, self.pass_ = ScaleFlow(graph), Evaluation(self.made)
        settled = [use for own in uses.values() for use in own if isinstance(use, Use) and _is_weight(use)]
        parts = self.weight_parts(settled)
        self.at: dict[fx.Node, list[Use]] = {}
        for use in settled:
            if use.node not in parts:
                self.at.setdefault(use.node, []).append(use)
        self.outputs = {use.node for own in output_uses(graph, uses).values() for use in own}
        self.own = {name: rms(self.made.given[node]) for name, node in graph.parameters.items()}
        streams = residual_streams(graph)
        self.depths, self.branch_at = streams.depths, {b.add: b for b in unit_branches(graph)}
        others = [branch for branch in streams.branches if branch not in self.branch_at.values()]
        where = sorted({branch.module or "the root module" for branch in others})
        if where:
            self.notes.append(f"unit forward: residual branches in {', '.join(where[:3])} keep their own proportions")

    def weight_parts(self, uses: Sequence[Use]) -> set[fx.Node]:
        """What the weights of ops on activations are made of, as B A in W + B A: its size is the weight's affair."""
        found, pending = set[fx.Node](), [self.seen_as(use) for use in uses if use.node in self.flow.from_inputs]
        while pending:
            node = pending.pop()
            if node is not None and node not in found:
                found.add(node)
                pending += node.all_input_nodes
        return found

    def seen_as(self, use: Use) -> fx.Node | None:
        """The operand that is this parameter as the op sees it: a view of it, w c, W + D."""
        made, pending = set[fx.Node](), [self.made.graph.parameters[use.parameter]]
        while pending:
            node = pending.pop()
            made.add(node)
            pending += [user for user in node.users if user not in made and user not in self.flow.from_inputs]
        return next((node for node in use.node.all_input_nodes if node in made and node is not use.operand), None)

    def factors(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[fx.Node, float]:
        """Settle the weights of this op, all before one is rescaled, and say how it must see a branch."""
        found = [settled for use in self.at.get(node, ()) if (settled := self.settle(use, values)) is not None]
        for name, std in found:
            if name not in self.stds:
                self.stds[name] = std
                self.pass_.rescale(name, std / self.own[name])
        return self.branch_factors(node, values)

    def branch_factors(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[fx.Node, float]:
        branch = self.branch_at.get(node)
        return {branch.end: self.branch_factor(branch, values)} if branch is not None else {}

    def branch_factor(self, branch: Branch, values: Mapping[fx.Node, Any]) -> float:
        if branch.stream not in self.streams:
            stream = next(operand for operand in branch.add.all_input_nodes if operand is not branch.end)
            start = _mean_square(values[stream]) ** 0.5
            self.streams[branch.stream] = (2 / self.depths[branch.stream]) ** 0.5 * start
        return self.streams[branch.stream]

    def settle(self, use: Use, values: Mapping[fx.Node, Any]) -> tuple[str, float] | None:
        """(weight, its std) at its first use; a readout that shares an earlier weight gets a factor instead.

        A weight that is divided by its own norm has no scale to set. One that is seen as w c, or in a sum of several,
        is scaled by what the whole lacks: all terms of the sum by the same factor.
        """
        name, is_output = use.parameter, use.node in self.outputs
        amplified = self.amplification(use, values)
        if not amplified or use.normalised or (name in self.stds and not is_output):
            return None
        square, fan_in = self.square_sum(use, values)
        std = square**-0.5 * (fan_in ** (self.readout + 0.5) if is_output else 1.0) / amplified
        if name in self.stds:
            self.tied[name] = std / self.stds[name]
        return name, std

    def amplification(self, use: Use, values: Mapping[fx.Node, Any]) -> float:
        """rms of the weight as the op sees it over the parameter's own; 0 where either is zero."""
        own, seen = values[self.made.graph.parameters[use.parameter]], self.seen_as(use)
        if not self.own[use.parameter]:
            return 0.0
        return 1.0 if seen is None or self.flow.parameter_behind(seen) else rms(values[seen]) / rms(own)

    def square_sum(self, use: Use, values: Mapping[fx.Node, Any]) -> tuple[float, int]:
        """(mean square of the output of a weight of unit entries and zero mean, fan_in)."""
        if "indexed" in use.axes:
            return 1.0, 1
        sizes = zip(shape(self.made.graph.parameters[use.parameter]), use.axes, strict=True)
        fan_in = math.prod(size for size, label in sizes if label in {"contracted", "kernel"})
        operand = values[use.operand] if use.operand is not None else None
        if not isinstance(operand, Tensor) or operand.numel() == 0:
            return float(fan_in), fan_in
        square = _convolved(use.node, values) if is_convolution(use.node) else fan_in * _mean_square(operand)
        if not square > 0:
            raise UsageError(
                f"Options(forward='unit'): {use.parameter!r} reads only zeros on the example inputs, so its scale "
                f"cannot be measured. Give example_inputs (or base_example_inputs) like those of training."
            )
        return square, fan_in

    def check(self, node: fx.Node, value: Any) -> None:
        """Say where a weight's output is far from unit although its scale was set, or could not be."""
        here = [use for use in self.at.get(node, ()) if use.parameter in self.stds or use.normalised]
        if here and node not in self.outputs and isinstance(value, Tensor) and value.numel():
            found = _mean_square(value) ** 0.5
            if not 1 / FAR < found < FAR:
                names = ", ".join(use.parameter for use in here)
                left = ", divided by its own norm," if any(use.normalised for use in here) else ""
                self.notes.append(f"unit forward: the output of {names}{left} has rms {found:.3g} at the base")

    def found(self) -> UnitForward:
        shown = "; ".join(f"x {factor:.4g} on every residual branch" for factor in self.streams.values())
        note = "unit forward: initial stds measured at the base on the example inputs" + (f"; {shown}" if shown else "")
        return UnitForward(self.stds, self.streams, self.tied, (note, *self.notes))


def _is_weight(use: Use) -> bool:
    return "contracted" in use.axes or "indexed" in use.axes


def _mean_square(value: Tensor) -> float:
    return float(value.detach().double().pow(2).mean())


def _convolved(node: fx.Node, values: Mapping[fx.Node, Any]) -> float:
    """Mean over positions of the sum of squares that a kernel sees, borders included: the op on x^2 with ones."""
    assert callable(node.target)
    args: list[Any] = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
    ones = torch.ones_like(args[1], dtype=torch.float64)
    return float(node.target(args[0].double().pow(2), ones, None, *args[3:], **node.kwargs).mean())


def _refuse_one_token(made: Program) -> None:
    """All tokens the same: attention then mixes copies, and what it makes is as large as one of them."""
    uses = [use for own in parameter_uses(made.graph).values() for use in own if isinstance(use, Use)]
    indices = [a for use in uses if "indexed" in use.axes for a in use.node.all_input_nodes if a in made.graph.inputs]
    looked_up = [made.given[node] for node in indices if made.given[node].numel() > 1]
    if looked_up and all(bool((tokens == tokens.flatten()[0]).all()) for tokens in looked_up):
        raise UsageError(
            "Options(forward='unit') measures activations at the base, but all tokens of the example inputs are the "
            "same. Give example_inputs (or base_example_inputs) like those of training."
        )
