"""A plan in the form of other tools: ordered patterns with what each parameter's optimizer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.files import json_text
from hptransfer.core.horizon.carried import refuse_twice
from hptransfer.parametrization.apply.groups import rounded, settings_of
from hptransfer.parametrization.interop.patterns import globs, regexes
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

Decays = Callable[[str, tuple[int, ...]], bool]
"""(name, shape) -> whether weight decay applies."""


@dataclass(frozen=True)
class _Base:
    """The base's values: lr and weight_decay by optimizer, eps (None: each optimizer's default), what is decayed."""

    lr: Mapping[str, float]
    weight_decay: Mapping[str, float]
    eps: float | None
    decay: Decays | None

    def settings(self, row: Row, plan: Plan) -> tuple[str, tuple[tuple[str, Any], ...]]:
        """(optimizer, its keyword options) of one row, exactly those of param_groups."""
        wd = self.weight_decay[row.optimizer] if self.decay is None or self.decay(row.name, row.shape) else 0.0
        info, held = plan.optimizers[row.optimizer], settings_of(row, plan, wd, self.eps)
        averages = dict(info.averages) | ({} if info.betas is None else {"betas": info.betas})
        options = {"lr": self.lr[row.optimizer] * held.pop("lr_mult"), **averages, **held}
        return row.optimizer, tuple((key, value) for key, value in options.items() if value is not None)


def export(
    plan: Plan,
    form: str,
    *,
    lr: float | Mapping[str, float] | None = None,
    weight_decay: float | Mapping[str, float] = 0.0,
    eps: float | None = None,
    decay: Decays | None = None,
) -> str:
    """The plan as text for another tool, in as few patterns as say it exactly.

    form: "regex": JSON, per pattern the factors on init, lr, weight decay and eps, which needs no base values;
    "torchtitan": `param_groups` of its OptimizersContainer, first match wins; "megatron": `config_overrides` of its
    optimizer; "deepspeed": model_parameters of deepspeed.initialize, which are torch's groups; "optax": a
    multi_transform. lr, weight_decay: the base's, or per optimizer's name; eps: the base's, the optimizer's default
    where not given; decay: (name, shape) -> whether weight decay applies, all by default.
    Initial weights are the model's own times init's factor: no tool's optimizer sets them, so call parametrize_, or
    put the factors into the model's init.
    Raises UsageError where the form is unknown, lr is missing, or the form cannot hold what the plan asks for.
    """
    if form not in FORMS:
        raise UsageError(f"export form {form!r} is unknown; use one of {', '.join(FORMS)}.")
    held = [row.name for row in plan if row.fwd_mult != 1.0] + [hook.module for hook in plan.hooks]
    if held:
        raise UsageError(
            f"This plan multiplies in the forward pass ({held[0]!r}), which no optimizer's groups can hold. Export "
            "plan.absorb(), or put hooked multipliers into the model's code."
        )
    if form == "regex":
        return _regex(plan)
    if lr is None:
        raise UsageError(f"export({form!r}) writes learning rates: give the base's as lr=, or per optimizer.")
    for quantity, value in (("learning rate", lr), ("weight decay", weight_decay)):
        for one in value.values() if isinstance(value, Mapping) else (value,):
            refuse_twice(quantity, one, plan.carries.get(quantity, ()), "this plan")
    base = _Base(_each(plan, "lr", lr), _each(plan, "weight_decay", weight_decay), eps, decay)
    return FORMS[form](plan, base)


def _each(plan: Plan, what: str, value: float | Mapping[str, float]) -> dict[str, float]:
    given = dict(value) if isinstance(value, Mapping) else dict.fromkeys(plan.optimizers, float(value))
    if set(given) != set(plan.optimizers):
        raise UsageError(
            f"{what} is given for {', '.join(given)}, but this plan trains with {' and '.join(plan.optimizers)}."
        )
    return given


def _regex(plan: Plan) -> str:
    def factors(row: Row) -> tuple[Any, ...]:
        return row.optimizer, *(rounded(v) for v in (row.init_mult, row.lr_mult, row.wd_mult, row.eps_mult))

    keys = ("optimizer", "init", "lr", "weight_decay", "eps")
    rows = [{"pattern": pattern, **dict(zip(keys, values, strict=True))} for pattern, values in regexes(plan, factors)]
    powers = {} if plan.beta_power == 1 else {"beta_power": plan.beta_power}
    return json_text({"plan": plan.fingerprint, "scheme": plan.scheme, **powers, "patterns": rows})


def _torchtitan(plan: Plan, base: _Base) -> str:
    lines = [_head(plan), "param_groups = ["]
    for pattern, (optimizer, options) in regexes(plan, lambda row: base.settings(row, plan)):
        kwargs = f"optimizer_kwargs={dict(options)!r}"
        lines.append(f"    ParamGroupConfig(pattern={_raw(pattern)}, optimizer_name={optimizer!r}, {kwargs}),")
    return "\n".join([*lines, "]"])


def _megatron(plan: Plan, base: _Base) -> str:
    if any(row.eps_mult != 1.0 for row in plan):
        raise UsageError(
            "Megatron's ParamGroupOverride has no eps. Make the plan with Options(eps='fixed'), which leaves eps as it "
            "is given."
        )
    own = base.decay or (lambda name, shape: True)

    def override(row: Row) -> tuple[float, float]:
        kept = row.wd_mult if own(row.name, row.shape) else 0.0
        return base.lr[row.optimizer] * rounded(row.lr_mult), rounded(kept)

    lines = [_head(plan), "config_overrides = {"]
    for names, (lr, wd_mult) in globs(plan, override):
        lines.append(f"    ParamKey(name={names!r}): ParamGroupOverride(max_lr={lr!r}, wd_mult={wd_mult!r}),")
    return "\n".join([*lines, "}"])


def _deepspeed(plan: Plan, base: _Base) -> str:
    lines = [_head(plan), "import re", "", "def model_parameters(model):", "    named = list(model.named_parameters())"]
    lines.append("    settings = [")
    for pattern, (optimizer, options) in regexes(plan, lambda row: base.settings(row, plan)):
        lines.append(f"        ({_raw(pattern)}, {dict(options)!r}),  # {optimizer}")
    made = '{"params": [p for n, p in named if re.search(pattern, n)], **options}'
    return "\n".join([*lines, "    ]", f"    return [{made} for pattern, options in settings]"])


def _optax(plan: Plan, base: _Base) -> str:
    lines = [_head(plan), "import re", "import jax, optax", "", "settings = ["]
    for pattern, (optimizer, options) in regexes(plan, lambda row: base.settings(row, plan)):
        if optimizer not in _OPTAX:
            raise UsageError(f"optax: how {optimizer} is spelled there is not known; {', '.join(_OPTAX)} are.")
        call, keys = _OPTAX[optimizer]
        given = {name: value for key, value in options for name, value in keys(key, value).items()}
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items())
        lines.append(f"    ({_raw(pattern)}, optax.{call}({shown})),")
    label = 'next(str(i) for i, (pattern, _) in enumerate(settings) if re.search(pattern, ".".join(path)))'
    return "\n".join(
        [
            *lines,
            "]",
            "# path: the parameter's keys, under the names that it has in torch",
            f"def label(path): return {label}",
            "def labels(params):",
            "    named = lambda keys: tuple(str(getattr(k, 'key', getattr(k, 'name', k))) for k in keys)",
            "    return jax.tree_util.tree_map_with_path(lambda keys, _: label(named(keys)), params)",
            "optimizer = optax.multi_transform({str(i): made for i, (_, made) in enumerate(settings)}, labels)",
        ]
    )


def _adam(key: str, value: Any) -> dict[str, Any]:
    return {"b1": value[0], "b2": value[1]} if key == "betas" else {"learning_rate" if key == "lr" else key: value}


def _sgd(key: str, value: Any) -> dict[str, Any]:
    return {"learning_rate": value} if key == "lr" else {}


_OPTAX: Mapping[str, tuple[str, Callable[[str, Any], dict[str, Any]]]] = {
    "AdamW": ("adamw", _adam),
    "SGD": ("sgd", _sgd),
}
"""Optimizers that optax has with the same update and decay: name there, and how it spells the options."""

FORMS: Mapping[str, Callable[[Plan, _Base], str]] = {
    "regex": lambda plan, base: _regex(plan),
    "torchtitan": _torchtitan,
    "megatron": _megatron,
    "deepspeed": _deepspeed,
    "optax": _optax,
}
"""What a plan can be exported to: the names of options.ExportForm."""


def _head(plan: Plan) -> str:
    return f"# hptransfer plan {plan.fingerprint}: scheme {plan.scheme}, {' and '.join(plan.optimizers)}"


def _raw(pattern: str) -> str:
    return f'r"{pattern}"'
