"""audit_step: take one real step and hold what every parameter moved against what its plan implies.

Rates that were overwritten, groups that a wrapper dropped, a clip that divides Muon's update, a ZeRO stage that skips
it, parameters that no optimizer holds: all show in |dW|, whatever stands between the plan and the weights. The size of
an update before the learning rate comes from its geometry alone (or an Adam's own moments), never from a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, columns
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.optimizers import HYPERBALL
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.measure import rms
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

EXACT = 2.0
"""Factor within which an update whose size is known must lie: Newton-Schulz's singular values spread from .7 to 1.2."""
LOOSE = 6.0
"""The same where only the geometry is known, relative to the optimizer's other parameters: a running Adam's updates
have rms .1 to .5 of the first one's."""
UNIT = (0.02, 40.0)
"""The rms of an adaptive update per rate, over all parameters: RMSprop starts at 10 and adds momentum,
a slow average lies far below 1."""
SLOPE = 3.4445**5
LARGE = 4096
"""Of larger matrices the rank is taken to be full: their singular values are not worth the wait."""
RADAM = 5
"""Steps that RAdam takes without its second moment."""
SAME = 1e-3
"""Relative difference from which on two rates are two."""


@dataclass(frozen=True)
class StepRow:
    """One parameter's step. rate: its learning rate by its group, None in no group; planned: base rate x lr_mult.

    moved: rms of its change with decay taken out; implied: what the planned rate implies; why: what is wrong, or "".
    """

    name: str
    optimizer: str
    rate: float | None
    planned: float
    moved: float
    implied: float
    why: str = ""


@dataclass(frozen=True)
class StepAudit(Document):
    """What one step did. base: optimizer -> base learning rate that the groups, or the caller, say."""

    TITLE = "a step audit"

    rows: tuple[StepRow, ...]
    base: Mapping[str, float]

    @property
    def ok(self) -> bool:
        """Every parameter moved as its plan implies."""
        return all(row.why == "" for row in self.rows)

    @property
    def verdict(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.ok else "FAIL"

    def __str__(self) -> str:
        wrong = [row for row in self.rows if row.why]
        rates = ", ".join(f"{name} {value:.4g}" for name, value in self.base.items())
        head = f"{self.verdict}: {len(self.rows) - len(wrong)} of {len(self.rows)} parameters moved as planned"
        lines = [("parameter", "by", "rate", "planned", "moved", "implied", "why")]
        lines += [
            (r.name, r.optimizer, "none" if r.rate is None else f"{r.rate:.3g}", *_shown(r), r.why or "ok")
            for r in wrong or self.rows
        ]
        return "\n".join([f"{head} (base rate {rates})", *columns(lines)])


def _shown(row: StepRow) -> tuple[str, str, str]:
    return f"{row.planned:.3g}", f"{row.moved:.3g}", f"{row.implied:.3g}"


def audit_step(
    model: nn.Module,
    plan: Plan,
    optimizer: Any,
    *,
    step: Callable[[], object] | None = None,
    lr: float | Mapping[str, float] | None = None,
) -> StepAudit:
    """Take one optimizer step on the gradients that the parameters hold, and compare every |dW| with the plan's.

    model, plan: as in param_groups; optimizer: what trains the model, or a wrapper around it. step: what takes the
    step, as `lambda: scaler.step(optimizer)`; optimizer.step by default. The step is a real one and stays. lr: the base
    learning rate (per optimizer's name where the plan has two); read off the groups by default. Best at a first step,
    where updates have their full size. Clip and unscale before it, or inside `step`, as in training.
    Raises UsageError where no parameter has a gradient, or no group says the rate and lr is not given.
    """
    named = {n: p for n, p in plain_names(model, plan).items() if p.requires_grad and plan.rows[n].role != "unused"}
    if all(parameter.grad is None for parameter in named.values()):
        raise UsageError(
            "audit_step: no parameter has a gradient. Call loss.backward() first; it takes the step itself."
        )
    groups = {id(p): group for group in _groups(optimizer) for p in group["params"]}
    rates = {n: float(groups[id(p)]["lr"]) for n, p in named.items() if id(p) in groups}
    own = {n: float(groups[id(p)].get("hpt_own") or 1.0) for n, p in named.items() if id(p) in groups}
    decays = {n: _decay(groups.get(id(p), {}), plan.optimizers[plan.rows[n].optimizer]) for n, p in named.items()}
    base = _base(plan, {n: rate / own[n] for n, rate in rates.items()}, lr)
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    gradients = {name: None if p.grad is None else p.grad.detach().clone() for name, p in named.items()}
    (optimizer.step if step is None else step)()
    taken = [
        _Taken(
            plan.rows[name],
            plan.optimizers[plan.rows[name].optimizer],
            before[name],
            parameter.detach() - before[name] * (1 - decays[name]),
            rms(parameter.detach() - before[name]) == 0.0,
            _gradient(parameter, gradients[name]),
            groups.get(id(parameter), {}),
            _state(optimizer, parameter),
        )
        for name, parameter in named.items()
    ]
    return StepAudit(tuple(_judged(taken, base, rates)), base)


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    return list(getattr(optimizer, "param_groups", ()))


def _state(optimizer: Any, parameter: Tensor) -> Mapping[str, Any]:
    state = getattr(optimizer, "state", None)
    return state.get(parameter, {}) if isinstance(state, Mapping) else {}


def _gradient(parameter: nn.Parameter, before: Tensor | None) -> Tensor | None:
    """The gradient after the step, which a scaler has divided in place; the one before it, where it was cleared."""
    return before if parameter.grad is None else parameter.grad.detach()


def _decay(group: Mapping[str, Any], info: OptimizerInfo) -> float:
    """The part of a weight that decay takes off in this step, where that is known: beside the update."""
    wd, lr = group.get("weight_decay", 0.0) or 0.0, float(group.get("lr", 0.0))
    if info.decay == "fixed":
        return wd * lr / float(group.get("initial_lr", lr) or 1.0)
    return lr * wd if info.decay == "decoupled" and not info.decay_in_step else 0.0


def _base(plan: Plan, rates: Mapping[str, float], lr: float | Mapping[str, float] | None) -> dict[str, float]:
    """Optimizer -> base rate: as given, or what most of its parameters' rates say over their multipliers."""
    base: dict[str, float] = {}
    for name in plan.optimizers:
        mults = {n: plan.rows[n].lr_mult for n in rates if plan.rows[n].optimizer == name and plan.rows[n].lr_mult > 0}
        given = lr.get(name) if isinstance(lr, Mapping) else lr
        if given is not None:
            base[name] = float(given)
        elif mults:
            base[name] = median(rates[n] / mult for n, mult in mults.items())
        elif any(row.optimizer == name for row in plan):
            raise UsageError(f"audit_step: no group holds a parameter that {name} trains; give its base rate as lr=.")
    return base


@dataclass(frozen=True)
class _Taken:
    """One parameter's step: what the plan says of it, its values before, its change without decay (still: no value
    changed), its gradient."""

    row: Row
    info: OptimizerInfo
    before: Tensor
    change: Tensor
    still: bool
    gradient: Tensor | None
    group: Mapping[str, Any]
    state: Mapping[str, Any]

    @property
    def mult(self) -> float:
        """Its rate over the base's: the plan's multiplier, and a ratio that the user's group had before it."""
        return self.row.lr_mult * float(self.group.get("hpt_own") or 1.0)

    def unit(self) -> float | None:
        """rms of the update before the rate, where it is known without the others: None under an adaptive step."""
        if self.gradient is None:
            return 0.0
        if self.info.shape_factor == HYPERBALL:  # relative to the weight as it is, whatever its std was
            return rms(self.before)
        if self.info.geometry == "spectral":
            return self.info.own_factor(tuple(self.before.shape)) * _orthogonal(self.gradient)
        if self.info.geometry == "gradient":
            return self._summed()
        return self._moments()

    def room(self) -> float:
        """How much larger an orthogonalised update is where every singular value is brought to 1."""
        if self.info.geometry != "spectral" or self.gradient is None or self.info.shape_factor == HYPERBALL:
            return 1.0
        rows, columns = self.before.shape[0], math.prod(self.before.shape[1:])
        return (min(rows, columns) / (rows * columns)) ** 0.5 / max(_orthogonal(self.gradient), 1e-30)

    def scale(self) -> float:
        """The adaptive update's size up to a constant of the optimizer: 1 wherever there was a gradient."""
        if self.gradient is None:
            return 0.0
        moved = rms((self.gradient != 0).to(torch.float32))
        square = self.state.get("square_avg")
        if self.info.step_per_eps and isinstance(square, Tensor):  # Adadelta: root(eps) g / root(v + eps) at its start
            eps = float(self.group.get("eps", 1e-6))
            moved = eps**self.info.step_per_eps * rms(self.gradient / (square + eps).sqrt())
        floor = self.info.floor or 0.0
        return moved * max(floor * self.row.scale_mult, rms(self.before)) if self.info.geometry == "relative" else moved

    def _summed(self) -> float:
        """Of a gradient step: the gradient, or what momentum has added up."""
        assert self.gradient is not None
        buffer = self.state.get("momentum_buffer")
        l2 = self.group.get("weight_decay", 0.0) if self.info.decay == "l2" else 0.0
        gradient = self.gradient + l2 * self.before
        if not isinstance(buffer, Tensor):
            return rms(gradient)
        ahead = self.group.get("momentum", 0.0)
        return rms(gradient + ahead * buffer if self.group.get("nesterov") else buffer)

    def _moments(self) -> float | None:
        """Of an Adam whose moments can be read: m / (sqrt(v) + eps), both corrected for their start (1412.6980)."""
        m, v, t = (self.state.get(key) for key in ("exp_avg", "exp_avg_sq", "step"))
        if self.info.name not in {"Adam", "AdamW", "RAdam"} or not isinstance(m, Tensor) or not isinstance(v, Tensor):
            return None
        first, second = (1 - float(beta) ** float(t or 1) for beta in self.group.get("betas", (0.9, 0.999)))
        if self.info.name == "RAdam":  # its first five steps are momentum's (1908.03265, Algorithm 2)
            return rms(m / first) if float(t or 1) <= RADAM else None
        return rms((m / first) / ((v / second).sqrt() + float(self.group.get("eps", 1e-8))))


def _orthogonal(gradient: Tensor) -> float:
    """rms of an orthogonalised gradient: a root of its rank over its entries.

    Singular values below 1 / SLOPE of the norm are not brought to 1 (five rounds of Newton-Schulz, 3.44^5 at 0). A
    gradient of fewer examples than rows has as few of them.
    """
    full = getattr(gradient, "full_tensor", None)
    matrix = (gradient if full is None else full()).flatten(1).float()
    if min(matrix.shape) > LARGE:
        return (min(matrix.shape) / matrix.numel()) ** 0.5
    values = torch.linalg.svdvals(matrix)
    raised = (SLOPE * values / values.norm().clamp_min(1e-30)).clamp_max(1.0)
    return float(raised.norm()) / matrix.numel() ** 0.5


def _judged(taken: list[_Taken], base: Mapping[str, float], rates: Mapping[str, float]) -> Iterator[StepRow]:
    constants = {name: _constant([t for t in taken if t.info.name == name], base[name]) for name in base}
    for t in taken:
        planned, moved, unit = base[t.info.name] * t.mult, rms(t.change), t.unit()
        implied = planned * (t.scale() * constants[t.info.name] if unit is None else unit)
        implied = min(max(moved, implied), implied * t.room())  # of an orthogonal step the rank is known up to here
        rate = rates.get(t.row.name)
        why = _wrong(t, rate, planned, moved, implied, LOOSE if unit is None else EXACT)
        if not why and unit is None and not UNIT[0] <= constants[t.info.name] <= UNIT[1]:
            why = f"all of {t.info.name}'s updates have rms {constants[t.info.name]:.2g} per rate"
        yield StepRow(t.row.name, t.info.name, rate, planned, moved, implied, why)


def _constant(taken: list[_Taken], base: float) -> float:
    """The size of an adaptive optimizer's update per rate: the median over its parameters."""
    known = [rms(t.change) / (base * t.mult * t.scale()) for t in taken if base * t.mult * t.scale() > 0]
    return median(known) if known else 1.0


def _wrong(t: _Taken, rate: float | None, planned: float, moved: float, implied: float, within: float) -> str:
    """What is wrong with a step, in words; "" for nothing."""
    if rate is not None and not math.isclose(rate, planned, rel_tol=SAME):
        return f"its rate is {rate:.3g} where the plan's is {planned:.3g}: something set it"
    if implied == 0 and moved <= 1e-12:
        return ""
    if t.still or moved <= 1e-6 * implied:
        return "it did not move" + (": no group holds it" if rate is None else "")
    ratio = moved / implied if implied > 0 else math.inf
    if 1 / within <= ratio <= within:
        return ""
    told = f"{ratio:.2g} of what the plan implies"
    hint = ": is its update clipped, or skipped?" if ratio < 1 else ": is it stepped twice, or by another rate?"
    return f"it moved {told}{hint}"
