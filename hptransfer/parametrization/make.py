"""make_plan: trace target and base, compare them, and derive every parameter's multipliers."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hptransfer.core.declared import Optimizer, check_options, known_options
from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.horizon.carried import Horizon, carried, horizon
from hptransfer.core.roles import Role
from hptransfer.core.rules import Scheme, scheme_named
from hptransfer.core.training.recipe import Scale
from hptransfer.graph.evaluate import Program
from hptransfer.parametrization.build import Builder
from hptransfer.parametrization.init.unit import base_program, unit_forward, with_unit
from hptransfer.parametrization.interop.mup import SHAPES_NOTE, BaseShapes, shapes_module
from hptransfer.parametrization.matching.compare import Comparison
from hptransfer.parametrization.matching.control_flow import check_same_way
from hptransfer.parametrization.matching.traces import Inputs, traces
from hptransfer.parametrization.measure import measure_rms
from hptransfer.parametrization.multipliers.shift import with_decay, with_fixed_eps, with_horizon, with_tuned
from hptransfer.parametrization.multipliers.wanted import Values
from hptransfer.parametrization.options import Options, Tuned
from hptransfer.parametrization.plan import Plan, unit_weights
from hptransfer.parametrization.row import Row
from hptransfer.parametrization.share import share_notes


def make_plan(
    model: nn.Module,
    *,
    base: nn.Module | BaseShapes,
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
    constants: Values | None = None,
) -> Plan:
    """Work out how every hyperparameter of `model` must differ from the base's.

    model: the target, real or on meta; it is only traced, never changed. Where torch.export cannot trace it a copy is
    run, and the plan's notes say so.
    base: the same architecture at the size where the hyperparameters were (or will be) tuned; real, so that its initial
    stds can be measured, or on meta together with base_std (parameter name -> rms). Base shapes alone (see interop) do
    where no constant, attention scale or depth in the code differs from the base's.
    example_inputs: arguments of one forward call (a mapping: keyword arguments); base_example_inputs: the base's, where
    they differ.
    scheme: a name from hptransfer.core.rules.SCHEMES. optimizer: class or name, or {"hidden": Muon, "rest": AdamW} for
    one optimizer on hidden matrices and another on the rest; optimizer_options: keyword options (betas, adjust_lr_fn),
    with two optimizers under "hidden" and "rest".
    roles: parameter name or glob -> Role, for what the trace cannot settle; where they name every parameter, a model
    that cannot be traced is planned by them alone. options: named choices, see Options.
    tuned: parameter name or glob -> factors that were tuned at the base for that kind of module (the first match wins).
    scale, base_scale: batch and tokens of the target's and the base's run; width and depth are read off the models.
    constants: name (or glob) of a one-element buffer that the forward multiplies by -> its value in the target, or the
    pair (target, base); needed where the buffer is on meta, so that its value cannot be read.
    Raises UsageError where a role cannot be settled, shapes do not correspond, or a name or option is unknown.
    """
    chosen, options = scheme_named(scheme), options or Options()
    if options.attention is not None:
        chosen = replace(chosen, attention=options.attention)
    optimizers = _optimizers(optimizer, optimizer_options)
    given = example_inputs if base_example_inputs is None else base_example_inputs
    shapes_only = not isinstance(base, nn.Module)
    made = _base_program(base, given, chosen) if options.forward == "unit" else None
    traced = traces(model, None if shapes_only or made else base, example_inputs, given, roles or {})
    base, graphs = base if isinstance(base, nn.Module) else shapes_module(model, base), traced.graphs
    if made is not None:
        graphs = (graphs[0], made.graph)
        check_same_way(*graphs)
    stds = measure_rms(base) if base_std is None else dict(base_std)
    lenient = {"keep_unused": options.unused == "keep", "ruled": not chosen.global_lr, "heads": options.grouped_heads}
    compared = Comparison(model, base, graphs, roles or {}, **lenient)
    choices: dict[str, Any] = {"scheme": chosen, "optimizers": optimizers, "options": options}
    unit = None if made is None else unit_forward(made, float(chosen.readout_init))
    build = Builder(compared, graphs, **choices, stds=stds, constants=constants or {}, unit=unit)
    if unit is not None and build.tuned is not None:
        raise UsageError(f"Options(forward='unit') sets initial scales, but these are {build.tuned.note}.")
    rows = {n: with_decay(r, build.trained_by(n), options.weight_decay) for n, r in build.rows().items()}
    named = {info.name: info for info in optimizers.values()}
    ratios = {n: _horizon(info, scale, base_scale, chosen, options) for n, info in named.items()}
    rows = {n: with_horizon(row, ratios[row.optimizer]) for n, row in rows.items()}
    if unit is not None:
        rows = {n: with_unit(row, unit, stds.get(row.base, 0.0)) for n, row in rows.items()}
    rows = {n: _with_tuned(row, tuned or {}) for n, row in rows.items()}
    shares = share_notes(base, given) if build.deeper and not shapes_only else []
    plan = Plan(
        scheme=scheme,
        optimizers=named,
        rows=rows,
        aliases=dict(graphs[0].aliases),
        hooks=tuple(build.hooks),
        notes=(*traced.notes, *build.notes, *shares, *([SHAPES_NOTE] if shapes_only else [])),
        options={k: str(v) for k, v in vars(options).items()},
        beta_power=max(ratio.beta_power for ratio in ratios.values()),
        carries=carried(ratios.values()),
    )
    weights = None if unit is None else [n for n, row in rows.items() if row.base in unit.stds]
    plan = unit_weights(plan, weights) if chosen.unit else plan
    return _with_fixed_eps(plan) if options.eps == "fixed" else plan


def _base_program(base: nn.Module | BaseShapes, inputs: Inputs, scheme: Scheme) -> Program:
    if scheme.global_lr:
        raise UsageError("Options(forward='unit') sets initial scales, but scheme 'sp' keeps the model's own.")
    if not isinstance(base, nn.Module) or any(p.device.type == "meta" for p in base.parameters()):
        raise UsageError(
            "Options(forward='unit') measures activations at the base, but this base has no values. Give a real base "
            "(the target may stay on meta)."
        )
    return base_program(base, inputs)


def _with_fixed_eps(plan: Plan) -> Plan:
    return replace(plan, rows={n: with_fixed_eps(r, plan.optimizers[r.optimizer]) for n, r in plan.rows.items()})


def _with_tuned(row: Row, tuned: Mapping[str, Tuned]) -> Row:
    pattern = next((p for p in tuned if fnmatch.fnmatchcase(row.name, p)), None)
    return row if pattern is None else with_tuned(row, tuned[pattern], pattern)


def _horizon(info: OptimizerInfo, scale: Scale | None, base: Scale | None, scheme: Scheme, options: Options) -> Horizon:
    if scale is None or base is None or scheme.global_lr:
        return Horizon()
    rules = {"batch": options.batch, "duration": options.duration, "decay": options.decay_horizon}
    ratio = horizon(scale, base, info.geometry, **rules, decays=info.decay)
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
    apart = {part for part in options if part in optimizer}
    if apart and set(options) != apart:
        raise UsageError(
            f"optimizer_options has {', '.join(map(repr, set(options) - apart))} beside 'hidden' and 'rest': put each "
            "option under one of these, or give options without them, which go to both optimizers."
        )
    own = options if apart else _shared(optimizer, options)
    return {part: OptimizerInfo.of(cls, own.get(part)) for part, cls in optimizer.items()}


def _shared(optimizer: Mapping[str, Optimizer], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options given to two optimizers at once: each takes those it has. Raises UsageError on one that neither has."""
    known = {part: known_options(cls) for part, cls in optimizer.items()}
    taken = {part: {k: v for k, v in options.items() if keys is None or k in keys} for part, keys in known.items()}
    for key in options:
        if not any(key in own for own in taken.values()):
            check_options(optimizer["hidden"], {key: None})
            check_options(optimizer["rest"], {key: None})
    return taken
