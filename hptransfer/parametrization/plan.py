"""The plan: for every parameter its role and multipliers, each with the rule that gave it. Plain data by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, columns, encode
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.graph.graph import template
from hptransfer.parametrization.multipliers.placement import Hook
from hptransfer.parametrization.multipliers.shift import fold, shift, unfold
from hptransfer.parametrization.row import Row
from hptransfer.parametrization.verification import Verification

WIDTH = 100
"""Columns that the printed table keeps to."""
HEADER = ("parameter", "shape", "role", "init x", "lr x", "wd x", "eps x", "rule")


@dataclass(frozen=True)
class Plan(Document):
    """How to parametrize one target model so that the base's hyperparameters keep their meaning.

    rows: name -> Row; aliases: further names of tied parameters; hooks: multipliers that no parameter can hold;
    notes: what the user should know; optimizers: name -> what the learning-rate rules were derived for;
    options: the named choices that were made; beta_power: the optimizer's betas are raised to it (batch / base batch).
    verification: what a numeric check said; None where none was run.
    carries: quantity -> which of batch and tokens its multipliers hold: a number that holds them, too, is refused.
    """

    TITLE = "a plan"
    REMEDY = "Write it with Plan.save."
    STRICT = True

    scheme: str
    optimizers: Mapping[str, OptimizerInfo]
    rows: Mapping[str, Row]
    aliases: Mapping[str, str]
    hooks: tuple[Hook, ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beta_power: float = 1.0
    verification: Verification | None = None
    carries: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        """The row of a parameter, under any of its names. Raises KeyError naming close matches."""
        key = self.aliases.get(name, name)
        if key not in self.rows:
            near = [n for n in self.rows if n.endswith(name.split(".")[-1])][:3]
            raise KeyError(f"No parameter {name!r} in the plan; for example {near or list(self.rows)[:3]}.")
        return self.rows[key]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_identity(self) -> bool:
        """True when nothing changes: at the base's own size, or under the SP control."""
        return (
            not self.hooks
            and self.beta_power == 1.0
            and all(row.init_mult == row.lr_mult == row.wd_mult == row.eps_mult == row.fwd_mult == 1.0 for row in self)
        )

    @property
    def fingerprint(self) -> str:
        """A short hash of everything that changes training, for checkpoints; see checkpoint.py.

        The measured initial stds are left out: they differ between seeds of the base, and resuming does not use them.
        """
        body = {k: v for k, v in self.to_json().items() if k not in {"schema", "notes", "carries", "verification"}}
        body["format"] = 1  # what it was hashed as first: checkpoints keep it
        for row in body["rows"]:
            for unread in ("why", "init_std", "tuned_init"):
                row.pop(unread)
        for info in body["optimizers"]:  # what older plans did not say, where it changes nothing
            averages = info.pop("averages")
            info |= {"averages": averages} if self.beta_power != 1 and averages else {}
            free = info.pop("free_of_lr")
            info |= {"free_of_lr": True} if free else {}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        first, title, *below = self.beside
        return "\n".join([first, title, *columns(self.cells), *below])

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """Header and lines of the printed table: a line per distinct row, layers that differ only in their index."""
        return _cells(self)

    @property
    def beside(self) -> tuple[str, ...]:
        """What is said beside the table: how the plan was verified, its title, rules with sources, hooks and notes."""
        return _beside(self)

    def explain(self, name: str) -> str:
        """The rule, the numbers and the equation behind one parameter, as text."""
        row = self[name]
        tied = [alias for alias, first in self.aliases.items() if first == row.name]
        head = f"{row.name} {tuple(row.shape)}: role {row.role}, fan_in {row.fan_in}, fan_out {row.fan_out}"
        lines = [head + (f", tied with {', '.join(tied)}" if tied else "")]
        lines.append(f"  against {row.base} at the base: m_in = {row.m_in:g}, m_out = {row.m_out:g}")
        lines += [f"  - {reason}" for reason in row.why]
        std = "kept as the model draws it" if row.init_std is None else f"{row.init_std:.4g}"
        lines.append(f"  initial rms {std} (base x {row.init_mult:.4g})")
        if row.fwd_mult != 1.0:
            lines.append(f"  multiplied by {row.fwd_mult:.4g} in the forward pass")
        lines.append(f"  lr x {row.lr_mult:.4g}, weight decay x {row.wd_mult:.4g}, eps x {row.eps_mult:.4g}")
        return "\n".join(lines)

    def export(self, form: str, **base: Any) -> str:
        """The plan as text for another tool: "regex", "torchtitan", "megatron", "deepspeed" or "optax".

        base: the base's lr, weight_decay, eps and decay filter; see hptransfer.parametrization.interop.export.
        """
        from hptransfer.parametrization.interop.export import export

        return export(self, form, **base)

    def as_multipliers(self) -> Plan:
        """The same trained function with one learning rate: every lr_mult moves into a forward multiplier."""
        return self._rewritten(unfold)

    def absorb(self) -> Plan:
        """The same trained function without forward multipliers: each moves into init and learning rate."""
        return self._rewritten(fold)

    def _rewritten(self, rewrite: Callable[[Row, OptimizerInfo], Row]) -> Plan:
        rows = {n: rewrite(row, self.optimizers[row.optimizer]) for n, row in self.rows.items()}
        return dataclasses.replace(self, rows=rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data, round-tripped by `from_json`; rows and optimizers as lists, for each names itself."""
        listed = {"rows": list(self), "optimizers": list(self.optimizers.values())}
        data = super().to_json() | {name: encode(values) for name, values in listed.items()}
        return data if self.verification is not None else {k: v for k, v in data.items() if k != "verification"}

    @classmethod
    def upgraded(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Rows and optimizers by name. Raises ValueError where two have one name."""
        for key in ("rows", "optimizers"):
            names = [item["name"] for item in fields[key]]
            if len(twice := [name for name in names if names.count(name) > 1]):
                raise ValueError(f"{key} holds {twice[0]!r} more than once")
        return fields | {key: {item["name"]: item for item in fields[key]} for key in ("rows", "optimizers")}

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """The inverse of to_json. Raises UsageError where it does not fit, or a multiplier is nan, inf or negative."""
        plan = super().from_json(data)
        for row in plan:
            for name in ("init_mult", "lr_mult", "wd_mult", "eps_mult", "fwd_mult"):
                if not (math.isfinite(value := getattr(row, name)) and value >= 0):
                    raise UsageError(f"Not a plan: {row.name} has {name} = {value}, which must be a number from 0 on.")
        return plan


def verify_fingerprint(plan: Plan, stored: str) -> None:
    """Raise UsageError where a checkpoint was trained under another plan. stored: its `Plan.fingerprint`."""
    if plan.fingerprint != stored:
        raise UsageError(
            f"This checkpoint was trained under plan {stored}, but the plan in hand is {plan.fingerprint}: resuming "
            f"would change learning rates silently. Load the plan that was saved with the checkpoint."
        )


def unit_weights(plan: Plan, weights: Collection[str] | None = None) -> Plan:
    """The same trained function with every random weight stored at unit rms and its scale in the forward pass.

    weights: their names; by default those that some growing axis makes an input, hidden or readout weight. Gains,
    biases, zeros and weights of unknown std stay absorbed. Source: unit scaling, 2303.11257; u-muP, 2407.17465.
    """
    chosen = {r.name for r in plan if r.role in {"input", "hidden", "readout"}} if weights is None else weights
    rows = {
        name: shift(row, 1 / row.init_std, plan.optimizers[row.optimizer]) if row.init_std and name in chosen else row
        for name, row in plan.rows.items()
    }
    note = (
        "weights are stored at unit rms; their scale is a forward multiplier (torch parametrizations rename their keys)"
    )
    return dataclasses.replace(plan, rows=rows, notes=(*plan.notes, note))


def _cells(plan: Plan) -> list[tuple[str, ...]]:
    lines: dict[tuple[object, ...], list[Row]] = {}
    for row in plan:
        key = (template(row.name), row.shape, row.role, *(f"{v:.6g}" for v in _numbers(row)))
        lines.setdefault(key, []).append(row)
    rules = _rules(plan)
    table = [HEADER, *(_line(rows, rules) for rows in lines.values())]
    others = sum(max(len(line[i]) for line in table) + len("  ") for i in range(1, len(HEADER)))
    return [(_shortened(name, WIDTH - others), *rest) for name, *rest in table]


def _shortened(name: str, room: int) -> str:
    """A name in its room, the middle left out where it is too long; its end says most."""
    head = max(room - 3, 20) // 3
    return name if len(name) <= max(room, 23) else f"{name[:head]}...{name[head + 3 - max(room, 23) :]}"


def _beside(plan: Plan) -> tuple[str, ...]:
    trained_by = ", ".join(f"{info.name} ({info.geometry} geometry)" for info in plan.optimizers.values())
    title = f"plan: scheme {plan.scheme}, {trained_by}, {len(plan)} parameters"
    told = [f"rule {number}: {why}" for why, number in _rules(plan).items()]
    hooks = [f"hook: {h.module} {h.where} x {h.factor:.4g}: {h.why}" for h in plan.hooks]
    return str(plan.verification or Verification()), title, *told, *hooks, *(f"note: {note}" for note in plan.notes)


def _rules(plan: Plan) -> dict[str, int]:
    """Every rule that gave some row its numbers, with its source -> its number below the table."""
    return {why: number for number, why in enumerate(dict.fromkeys(why for row in plan for why in row.why), start=1)}


def _numbers(row: Row) -> tuple[float, ...]:
    return row.init_mult, row.lr_mult, row.wd_mult, row.eps_mult


def _line(rows: list[Row], rules: Mapping[str, int]) -> tuple[str, ...]:
    first = rows[0]
    name = first.name if len(rows) == 1 else f"{template(first.name)} (x{len(rows)})"
    numbers = [f"{value:.4g}" for value in _numbers(first)]
    rule = ", ".join(str(rules[why]) for why in first.why)
    return name, "x".join(map(str, first.shape)) or "scalar", first.role, *numbers, rule
