"""Rows of a plan: each parameter's rule as numbers, and the forward multipliers absorbed into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.roles import Role
from hptransfer.core.rules import HALF, Power, Rule, Scheme, has_exact_std, init_ratio, rule_for
from hptransfer.graph.graph import Graph
from hptransfer.graph.parameters.uses import Use
from hptransfer.graph.readings.outputs import output_uses
from hptransfer.graph.readings.scale_flow import ScaleFlow
from hptransfer.parametrization.finetune import fine_tune
from hptransfer.parametrization.init.unit import UnitForward, unit_branches
from hptransfer.parametrization.init.zero import fan_in_readouts, zero_readouts
from hptransfer.parametrization.matching.compare import Comparison
from hptransfer.parametrization.multipliers.depth import Depth, depth_of
from hptransfer.parametrization.multipliers.placement import Absorbed, Hook, Multiplier, place
from hptransfer.parametrization.multipliers.shift import absorb
from hptransfer.parametrization.multipliers.wanted import Lacking, Values, lacking_multipliers, tied_readout_multipliers
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.row import Row


class Builder:
    """Joins roles, rules and multipliers into rows; collects hooks and notes on the way.

    optimizers: "hidden" and "rest" -> what is known of them; stds: base parameter -> initial rms; constants: values of
    buffers that cannot be read; unit: what a unit forward asks of the base, None for its own.
    """

    def __init__(
        self,
        compared: Comparison,
        graphs: tuple[Graph, Graph],
        *,
        scheme: Scheme,
        optimizers: Mapping[str, OptimizerInfo],
        options: Options,
        stds: Mapping[str, float],
        constants: Values,
        unit: UnitForward | None = None,
    ) -> None:
        self.compared, self.graphs, self.scheme, self.optimizers = compared, graphs, scheme, optimizers
        self.options, self.stds, self.constants, self.unit = options, stds, constants, unit
        self.hooks: list[Hook] = []
        self.deeper = False
        self.notes = [*compared.notes, *(unit.notes if unit is not None else ())]
        self.tuned = fine_tune(compared.parameters, graphs[0], compared.settled, compared.roles, options)
        self.roles = {**compared.roles, **(self.tuned.roles if self.tuned else {})}
        self.larger = fan_in_readouts(compared, graphs[0]) if options.readout_init == "fan-in" else frozenset[str]()
        if self.larger and scheme.exact_spectral:
            raise UsageError(f"Options(readout_init='fan-in'): scheme {scheme.name!r} sets that init by its condition.")
        self.zeros = zero_readouts(compared, graphs[0]) if options.readout_init == "zero" else frozenset[str]()

    def rows(self) -> dict[str, Row]:
        """Every parameter's row, multipliers absorbed, weight decay not yet settled."""
        roles = self.roles
        if self.tuned is not None and not self.scheme.global_lr:
            self.notes.append(self.tuned.note)
            return {name: self.row(name, self.rule(name, role), 1.0) for name, role in roles.items()}
        depth = depth_of(*self.graphs, self.scheme, refuse=self.options.depth == "error")
        self.notes += depth.notes
        self.deeper = bool(depth.branches)
        rules = {name: self.rule(name, role, depth) for name, role in roles.items()}
        ratios = {**depth.on_stream, **depth.in_branch}
        rows = {name: self.row(name, rules[name], ratios.get(name, 1.0)) for name in roles}
        if self.scheme.global_lr:
            return rows
        flow, refuse = ScaleFlow(self.graphs[0]), self.options.unplaced == "error"
        lacking = self.lacking(depth)
        for name, ratio in lacking.larger.items():
            why = f"divided by its own norm, its output is x {ratio:.4g} larger, which a norm behind it takes away"
            rows[name] = replace(rows[name], held=rows[name].held * ratio, why=(*rows[name].why, why))
        for multiplier in (*lacking.multipliers, *self.asked_for()):
            for placed in place(multiplier, flow, refuse=refuse):
                self.apply(placed, rows)
        return rows

    def lacking(self, depth: Depth) -> Lacking:
        """The factors that the forward lacks."""
        traced = {name for name in self.compared.uses if name in self.compared.settled}  # not annotated
        uses = [use for name in traced for use in self.compared.uses[name] if isinstance(use, Use)]
        choices = {"given": self.constants, "lost": self.compared.lost, "parallel": self.compared.parallel}
        lacking = lacking_multipliers(*self.graphs, uses, self.scheme, depth, **choices)
        self.notes += lacking.notes
        return lacking

    def asked_for(self) -> Iterator[Multiplier]:
        """The multipliers of the scheme's rules for readouts and of a unit forward."""
        if self.unit is None:
            yield from tied_readout_multipliers(self.compared.tied, self.tied_factors())
            return
        found, ratios = output_uses(self.graphs[0], self.compared.uses), self.tied_factors()
        matches = self.compared.matches
        at_base = {name: self.unit.tied[matches[name]] for name in found if matches[name] in self.unit.tied}
        uses = {name: found[name] for name in at_base} | dict(self.compared.tied)
        yield from tied_readout_multipliers(uses, {n: ratios.get(n, 1.0) * at_base.get(n, 1.0) for n in uses})
        yield from self.unit_branches(self.unit)

    def unit_branches(self, unit: UnitForward) -> Iterator[Multiplier]:
        """A unit forward's factor on each residual branch, relative to the stream's start."""
        for branch in unit_branches(self.graphs[0]):
            factor = unit.branches.get(branch.stream, 1.0)
            if factor != 1.0:
                why = f"residual branch in {branch.module}: x {factor:.4g}, (2/L)^1/2 of the stream at the base"
                yield Multiplier((branch.end,), (branch.add,), factor, f"{why} (2407.17465, App. G)")

    def trained_by(self, name: str) -> OptimizerInfo:
        """The optimizer of a parameter: hidden matrices may have one of their own, the same at every size."""
        matrix = name in self.compared.inner and self.compared.parameters[name].dim() == 2
        return self.optimizers["hidden" if matrix and "hidden" in self.optimizers else "rest"]

    def rule(self, name: str, role: Role, depth: Depth | None = None) -> Rule:
        where = {} if depth is None else {"in_branch": name in depth.in_branch, "on_stream": name in depth.on_stream}
        rule = rule_for(role, self.trained_by(name).geometry, self.scheme, **where)
        if name not in self.larger or role.kind != "readout" or self.scheme.global_lr:
            return rule
        larger = Power(fan_in=-HALF)
        lr = rule.lr * rule.init * larger.inverse() if self.trained_by(name).geometry == "relative" else rule.lr
        return replace(rule, init=larger, lr=lr)

    def tied_factors(self) -> dict[str, float]:
        """Tied embedding -> multiplier of its readout: the ratio of the two roles' initial stds (1/m for muP)."""
        factors: dict[str, float] = {}
        for name in self.compared.tied:
            role = self.compared.roles[name]
            readout = Role("readout", role.fan_out, 1, role.base_fan_out, 1)
            factors[name] = init_ratio(readout, self.rule(name, readout), self.scheme)
        return factors

    def row(self, name: str, rule: Rule, m_depth: float) -> Row:
        """A parameter's multipliers by its role's rule alone."""
        role, optimizer, base = self.roles[name], self.trained_by(name), self.compared.matches[name]
        zero = name in self.zeros
        kept = self.tuned is not None and name in self.tuned.kept and not zero
        own = self.scheme.global_lr or role.kind == "unused"
        ratio = 1.0 if own else init_ratio(role, rule, self.scheme, m_depth)
        std = 0.0 if zero else None if own or kept or base not in self.stds else self.stds[base] * ratio
        grad = rule.eps.at(role.m_in, role.m_out, m_depth, role.m_copies)
        eps = optimizer.eps_ratio(grad)
        shape, base_shape = self.compared.shapes(name)
        return Row(
            name,
            shape,
            role.kind,
            role.fan_in,
            role.fan_out,
            base,
            std,
            0.0 if zero else 1.0 if kept else ratio,
            rule.lr.at(role.m_in, role.m_out)
            if own
            else self.lr(name, rule, m_depth, ratio) / eps**optimizer.step_per_eps,
            1.0,
            eps,
            optimizer=optimizer.name,
            base_shape=base_shape,
            m_in=role.m_in,
            m_out=role.m_out,
            scale_mult=ratio,
            grad_mult=grad,
            host=self.compared.hosts.get(name, ""),
            kept=kept,
            why=(self.reason(role, rule, optimizer, kept), *(["starts at zero (readout_init)"] if zero else [])),
        )

    def lr(self, name: str, rule: Rule, m_depth: float, ratio: float) -> float:
        """The learning rate's ratio, with the library's own shape factor divided out."""
        role, optimizer = self.roles[name], self.trained_by(name)
        shape, base_shape = self.compared.shapes(name)
        lr = rule.lr.at(role.m_in, role.m_out, m_depth, role.m_copies)
        lr *= optimizer.own_factor(base_shape) / optimizer.own_factor(shape)
        if optimizer.geometry == "relative":  # the rule divides by its own init, which may not be the exact one
            lr *= rule.init.at(role.m_in, role.m_out, m_depth, role.m_copies) / ratio
        return lr

    def reason(self, role: Role, rule: Rule, optimizer: OptimizerInfo, kept: bool) -> str:
        """The rule in words."""
        if self.scheme.global_lr:
            rate = "one learning rate" if rule.lr == Power() else f"lr {rule.lr}; {self.scheme.source}"
            return f"SP control: own init, {rate}"
        if role.kind == "unused":
            return "not used in the traced forward"
        exact = has_exact_std(role, self.scheme)
        std = "values kept" if kept else "the spectral condition's exact std" if exact else f"init {rule.init}"
        lr = rule.lr if role.copies != role.base_copies else replace(rule.lr, copies=Power().copies)
        return f"{role.kind}: {std}, lr {lr} ({optimizer.geometry}); {self.scheme.source}"

    def apply(self, placed: Absorbed, rows: dict[str, Row]) -> None:
        """Multiply theta into the effective weights, see absorb."""
        self.hooks += [placed.hook] if placed.hook is not None else []
        self.notes += [placed.note] if placed.note is not None else []
        for name, theta in placed.factors.items():
            holds = name not in placed.compensated
            rows[name] = absorb(rows[name], theta, self.trained_by(name), placed.why, holds=holds)
