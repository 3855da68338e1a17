"""make_plan: trace target and base, compare them, and derive every parameter's multipliers."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.graph import Graph, trace
from hptransfer.core.horizon import Horizon, horizon
from hptransfer.core.recipe import Scale
from hptransfer.core.roles import Role, role_of_use, settle
from hptransfer.core.rules import Rule, Scheme, init_ratio, rule_for, scheme_named
from hptransfer.core.scale_flow import ScaleFlow
from hptransfer.core.uses import Use, parameter_uses
from hptransfer.parametrization.absorb import absorb, with_decay, with_horizon, with_tuned
from hptransfer.parametrization.measure import measure_rms
from hptransfer.parametrization.multipliers import (
    Absorbed,
    Hook,
    attention_multipliers,
    constant_multipliers,
    depth_of,
    place,
    tied_readout_multipliers,
)
from hptransfer.parametrization.names import match_names
from hptransfer.parametrization.options import Options, Tuned
from hptransfer.parametrization.plan import Plan, unit_weights
from hptransfer.parametrization.row import Row

Optimizer = type[torch.optim.Optimizer] | str


def make_plan(
    model: nn.Module,
    *,
    base: nn.Module,
    example_inputs: Sequence[Any] | Mapping[str, Any] = (),
    base_example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    scheme: str = "mup",
    optimizer: Optimizer | Mapping[str, Optimizer] = torch.optim.AdamW,
    optimizer_options: Mapping[str, Any] | None = None,
    roles: Mapping[str, Role] | None = None,
    base_std: Mapping[str, float] | None = None,
    options: Options | None = None,
    tuned: Mapping[str, Tuned] | None = None,
    scale: Scale | None = None,
    base_scale: Scale | None = None,
) -> Plan:
    """Work out how every hyperparameter of `model` must differ from the base's.

    model: the target, real or on meta; it is only traced, never changed or run.
    base: the same architecture at the size where the hyperparameters were (or will be) tuned; real, so that its initial
    stds can be measured, or on meta together with base_std (parameter name -> rms).
    example_inputs: arguments of one forward call (a mapping: keyword arguments); base_example_inputs: where they differ.
    scheme: a name from hptransfer.core.rules.SCHEMES. optimizer: class or name, or {"hidden": Muon, "rest": AdamW} for
    one optimizer on hidden matrices and another on the rest; optimizer_options: keyword options (betas, adjust_lr_fn),
    with two optimizers under "hidden" and "rest".
    roles: parameter name or glob -> Role, for what the trace cannot settle. options: named choices, see Options.
    tuned: parameter name or glob -> factors that were tuned at the base for that kind of module (the first match counts).
    scale, base_scale: batch and tokens of the target's and the base's run; width and depth are read off the models.
    Raises UsageError where a role cannot be settled, shapes do not correspond, or a name or option is unknown.
    """
    chosen, options = scheme_named(scheme), options or Options()
    if options.attention is not None:
        chosen = replace(chosen, attention=options.attention)
    optimizers = _optimizers(optimizer, optimizer_options)
    given = example_inputs if base_example_inputs is None else base_example_inputs
    graphs = _traced(model, example_inputs), _traced(base, given)
    stds = measure_rms(base) if base_std is None else dict(base_std)
    build = _Builder(model, base, graphs, chosen, optimizers, options, roles or {}, stds)
    rows = {n: with_decay(r, build.trained_by(n), options.weight_decay) for n, r in build.rows().items()}
    named = {info.name: info for info in optimizers.values()}
    ratios = {n: _horizon(info, scale, base_scale, chosen, options) for n, info in named.items()}
    rows = {n: with_horizon(row, ratios[row.optimizer]) for n, row in rows.items()}
    rows = {n: _with_tuned(row, tuned or {}) for n, row in rows.items()}
    plan = Plan(
        scheme=scheme,
        optimizers=named,
        rows=rows,
        aliases=dict(graphs[0].aliases),
        hooks=tuple(build.hooks),
        notes=tuple(build.notes),
        options={k: str(v) for k, v in vars(options).items()},
        beta_power=max(ratio.beta_power for ratio in ratios.values()),
    )
    return unit_weights(plan) if chosen.unit else plan


def _with_tuned(row: Row, tuned: Mapping[str, Tuned]) -> Row:
    pattern = next((p for p in tuned if fnmatch.fnmatchcase(row.name, p)), None)
    return row if pattern is None else with_tuned(row, tuned[pattern], pattern)


def _horizon(info: OptimizerInfo, scale: Scale | None, base: Scale | None, scheme: Scheme, options: Options) -> Horizon:
    if scale is None or base is None or scheme.global_lr:
        return Horizon()
    rules = {"batch": options.batch, "duration": options.duration, "decay": options.decay_horizon}
    ratio = horizon(scale, base, info.geometry, **rules)
    eps = ratio.eps**info.eps_power
    return replace(ratio, eps=eps, lr=ratio.lr / eps**info.step_per_eps)


def _optimizers(
    optimizer: Optimizer | Mapping[str, Optimizer], options: Mapping[str, Any] | None
) -> dict[str, OptimizerInfo]:
    """ "hidden" and "rest" -> what is known of the optimizer that trains them. Options may stand under these keys."""
    if not isinstance(optimizer, Mapping):
        return {"rest": OptimizerInfo.of(optimizer, options)}
    if set(optimizer) != {"hidden", "rest"}:
        raise UsageError(f"optimizer={dict(optimizer)}: give the two keys 'hidden' (2-D hidden weights) and 'rest'.")
    options = options or {}
    own = options if set(options) <= {"hidden", "rest"} else dict.fromkeys(optimizer, options)
    return {part: OptimizerInfo.of(cls, own.get(part)) for part, cls in optimizer.items()}


def _traced(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> Graph:
    return trace(model, (), inputs) if isinstance(inputs, Mapping) else trace(model, tuple(inputs))


class _Builder:
    """Joins roles, rules and multipliers into rows; collects hooks and notes on the way."""

    def __init__(
        self,
        model: nn.Module,
        base: nn.Module,
        graphs: tuple[Graph, Graph],
        scheme: Scheme,
        optimizers: Mapping[str, OptimizerInfo],
        options: Options,
        roles: Mapping[str, Role],
        stds: Mapping[str, float],
    ) -> None:
        self.scheme, self.optimizers, self.options, self.annotated, self.stds = scheme, optimizers, options, roles, stds
        self.target_graph, self.base_graph = graphs
        self.parameters = dict(model.named_parameters())
        self.base_parameters = dict(base.named_parameters())
        self.matches = match_names(list(self.parameters), list(self.base_parameters))
        self.uses, self.base_uses = parameter_uses(graphs[0]), parameter_uses(graphs[1])
        self.settled: dict[str, list[Use]] = {}
        self.roles: dict[str, Role] = {}
        self.hooks: list[Hook] = []
        self.notes: list[str] = []

    def trained_by(self, name: str) -> OptimizerInfo:
        matrix = self.roles[name].kind == "hidden" and self.parameters[name].dim() == 2
        return self.optimizers["hidden" if matrix and "hidden" in self.optimizers else "rest"]

    def rule(self, name: str, role: Role, in_branch: bool = False) -> Rule:
        return rule_for(role, self.trained_by(name).geometry, self.scheme, in_branch=in_branch)

    def rows(self) -> dict[str, Row]:
        self.roles = roles = {name: self.role(name) for name in self.parameters}
        depth = depth_of(self.target_graph, self.base_graph, self.scheme)
        self.notes += depth.notes
        rules = {name: self.rule(name, role, name in depth.in_branch) for name, role in roles.items()}
        rows = {n: self.row(n, roles[n], rules[n], depth.in_branch.get(n, 1.0)) for n in self.parameters}
        if not self.scheme.global_lr:
            flow = ScaleFlow(self.target_graph)
            wanted = [
                *constant_multipliers(self.target_graph, self.base_graph, flow),
                *attention_multipliers(self.target_graph, self.base_graph, self.scheme),
                *depth.multipliers,
                *tied_readout_multipliers(self.settled, self.tied_factors(roles)),
            ]
            for placed in (place(multiplier, flow) for multiplier in wanted):
                self.apply(placed, rows)
        return rows

    def role(self, name: str) -> Role:
        annotated = next((r for pattern, r in self.annotated.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if annotated is not None:
            return annotated
        uses = settle(name, self.uses.get(name, []))
        self.settled[name] = uses
        if not uses:
            return self.unused(name)
        base_uses = [u for u in self.base_uses.get(self.matches[name], []) if isinstance(u, Use)]
        target_shape, base_shape = self.shapes(name)
        found: dict[Role, Use] = {}
        for use in uses:
            twin = next((b for b in base_uses if b.axes == use.axes and b.op == use.op), None)
            if twin is None:
                raise UsageError(f"{name!r} is used as {use}, but {self.matches[name]!r} of the base is not.")
            found.setdefault(role_of_use(use, target_shape, twin, base_shape), use)
        return self.joined(name, found)

    def joined(self, name: str, found: Mapping[Role, Use]) -> Role:
        """One role for all uses. Of a tied embedding and readout the embedding stands; the readout is multiplied."""
        kinds = {role.kind: role for role in found}
        if len(found) > 1 and set(kinds) == {"input", "readout"}:
            return kinds["input"]
        geometry = self.optimizers["rest"].geometry
        rules = {_numbers(role, rule_for(role, geometry, self.scheme)) for role in found}
        if len(rules) > 1 and not self.scheme.global_lr:
            shown = "; ".join(f"{use} -> {role.kind}" for role, use in found.items())
            raise UsageError(f"{name!r} has uses that ask for different rules: {shown}. Say which stands with roles=.")
        return next(iter(found))

    def tied_factors(self, roles: Mapping[str, Role]) -> dict[str, float]:
        """Tied embedding -> multiplier of its readout: the ratio of the two roles' initial stds (1/m for muP)."""
        factors: dict[str, float] = {}
        for name, uses in self.settled.items():
            kinds = {label for use in uses for label in use.axes}
            if roles[name].kind == "input" and {"indexed", "contracted"} <= kinds:
                growth = roles[name].m_out
                readout = Role("readout", roles[name].fan_out, 1, roles[name].base_fan_out, 1)
                ratio = init_ratio(readout, self.rule(name, readout), self.scheme)
                if growth != 1:
                    factors[name] = ratio
        return factors

    def unused(self, name: str) -> Role:
        trainable = self.parameters[name].requires_grad
        grows = tuple(self.parameters[name].shape) != tuple(self.base_parameters[self.matches[name]].shape)
        if trainable and grows and self.options.unused == "error" and not self.scheme.global_lr:
            raise UsageError(
                f"Parameter {name!r} is never used in the traced forward. Give example_inputs that reach it, freeze it, "
                f"annotate it with roles={{{name!r}: Role(...)}}, or pass options=Options(unused='keep')."
            )
        if trainable:
            self.notes.append(f"{name} is never used in the traced forward; it is left as it is")
        return Role("unused")

    def shapes(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        target, base = tuple(self.parameters[name].shape), tuple(self.base_parameters[self.matches[name]].shape)
        if len(target) != len(base):
            raise UsageError(f"{name!r} has shape {target}, but {self.matches[name]!r} of the base has {base}.")
        return target, base

    def row(self, name: str, role: Role, rule: Rule, m_depth: float) -> Row:
        ratio = init_ratio(role, rule, self.scheme, m_depth)
        own = self.scheme.global_lr or role.kind == "unused"
        zero = self.options.readout_init == "zero" and role.kind == "readout"
        base_name = self.matches[name]
        measured = self.stds.get(base_name)
        std = None if own or measured is None else 0.0 if zero else measured * ratio
        optimizer, shapes = self.trained_by(name), self.shapes(name)
        grad = rule.eps.at(role.m_in, role.m_out, m_depth)
        eps = 1.0 if self.options.eps == "fixed" else optimizer.eps_ratio(grad)
        lr = rule.lr.at(role.m_in, role.m_out, m_depth) / eps**optimizer.step_per_eps
        if not own:
            lr /= optimizer.own_factor(shapes[0]) / optimizer.own_factor(shapes[1])
            if optimizer.geometry == "relative":  # the rule divides by its own init, which may not be the exact one
                lr *= rule.init.at(role.m_in, role.m_out, m_depth) / ratio
        return Row(
            name,
            shapes[0],
            role.kind,
            role.fan_in,
            role.fan_out,
            base_name,
            std,
            0.0 if zero else 1.0 if own else ratio,
            lr,
            1.0,
            eps,
            optimizer=optimizer.name,
            base_shape=shapes[1],
            m_in=role.m_in,
            m_out=role.m_out,
            scale_mult=1.0 if own else ratio,
            grad_mult=grad,
            why=(self.reason(role, rule, optimizer),),
        )

    def reason(self, role: Role, rule: Rule, optimizer: OptimizerInfo) -> str:
        if self.scheme.global_lr:
            return "SP control: own init, one learning rate"
        if role.kind == "unused":
            return "not used in the traced forward"
        std = "the spectral condition's exact std" if self.scheme.exact_spectral else f"init {rule.init}"
        return f"{role.kind}: {std}, lr {rule.lr} ({optimizer.geometry}); {self.scheme.source}"

    def apply(self, placed: Absorbed, rows: dict[str, Row]) -> None:
        """Multiply theta into the effective weights: init theta, lr theta (sign, spectral) or theta^2, eps 1/theta."""
        if placed.hook is not None:
            self.hooks.append(placed.hook)
        if placed.note is not None:
            self.notes.append(placed.note)
        for name, theta in placed.factors.items():
            holds = name not in placed.compensated
            rows[name] = absorb(rows[name], theta, self.trained_by(name), placed.why, holds=holds)


def _numbers(role: Role, rule: Rule) -> tuple[float, ...]:
    """A rule's ratios at a role, to compare two uses of one parameter."""
    powers = (rule.init, rule.lr, rule.eps)
    return tuple(round(p.at(role.m_in, role.m_out), 9) for p in powers)
