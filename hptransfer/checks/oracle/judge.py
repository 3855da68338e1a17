"""Hold the measured exponents against the plan's.

What should come out is the law of promises.py, spelt in measured fans and shapes. A plan's multipliers enter only on
the other side, as what is judged, but for `held`: the factor of an activation that was absorbed into this parameter,
which steps.py judges where that activation is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hptransfer.checks.oracle.fans import MEETING
from hptransfer.checks.oracle.gradients import owner_of
from hptransfer.checks.oracle.measure import EXPONENTS, Array, Measurements
from hptransfer.checks.oracle.promises import Promise
from hptransfer.checks.oracle.report import Check, OracleRow, Quantity
from hptransfer.core.statistics import Slope, log_slope
from hptransfer.graph.graph import template
from hptransfer.parametrization.plan import Plan

GROWS = 0.2
"""An exponent above this is growth."""


@dataclass(frozen=True)
class _Group:
    """Parameters of one name template that the plan treats alike, with the plan's exponents."""

    name: str
    names: tuple[str, ...]
    role: str
    geometry: str
    growth: float
    init_mult: float
    lr_mult: float
    fwd_mult: float
    grad_mult: float
    held: float
    m_in: float
    m_out: float


def judged(found: Measurements, promise: Promise, tolerance: float) -> list[OracleRow]:
    """A row per group of parameters."""
    return [_Judge(found, promise, tolerance, group).row() for group in _groups(found)]


def _groups(found: Measurements) -> Iterator[_Group]:
    plan = found.plans[max(found.plans)]
    members: dict[tuple[object, ...], list[str]] = {}
    for name in found.readings[0][found.widths[0]]:
        if plan[name].role != "unused":
            exponents = tuple(round(found.exponent(name, q), 3) for q in EXPONENTS)
            members.setdefault((template(name), plan[name].role, exponents), []).append(name)
    for (name, role, _), names in members.items():
        shown = str(name) if len(names) > 1 else names[0]
        yield _group(found, plan, names, shown, str(role))


def _group(found: Measurements, plan: Plan, names: list[str], shown: str, role: str) -> _Group:
    info, exponents = plan.optimizers[plan[names[0]].optimizer], {q: found.exponent(names[0], q) for q in EXPONENTS}
    eps = exponents.pop("eps_mult")
    if info.default_eps is not None and plan.options.get("eps") != "fixed":
        exponents["grad_mult"] = eps / info.eps_power  # what the optimizer will compare with the gradient
    return _Group(shown, tuple(names), role, info.geometry, found.growth(names[0]), **exponents)


class _Judge:
    """Makes the checks of one group."""

    def __init__(self, found: Measurements, promise: Promise, tolerance: float, group: _Group) -> None:
        self.found, self.promise, self.tolerance, self.group = found, promise, tolerance, group
        self.fan = self._fan()
        self.why: list[str] = []

    def row(self) -> OracleRow:
        checks = [self.fan_in()]
        if self.group.growth > GROWS or self.has_exponents:
            loss = self.loss()
            checks += [self.init(), self.lr(), self.gradient(loss), loss]
        made = tuple(check for check in checks if check is not None)
        return OracleRow(self.group.name, self.group.names, self.group.role, made, "; ".join(self.why))

    @property
    def has_exponents(self) -> bool:
        """The plan moves a parameter none of whose axes grows: then that must be right as well."""
        return max(abs(self.group.init_mult), abs(self.group.lr_mult)) > GROWS

    def _fan(self) -> Slope | None:
        """Growth of fan_in; of several uses (a tied head) the plan may follow one, and beside another weight either."""
        slopes = {k: _scaled(self.slope(v), 2.0) for k, v in self.found.fan_values(self.group.names).items()}
        nearest = min(slopes, key=lambda k: abs(slopes[k].value - self.group.m_in), default=None)
        if nearest is None or (nearest.endswith(MEETING) and abs(self.group.m_in) < GROWS):
            return None
        return slopes[nearest]

    def fan_in(self) -> Check | None:
        """The growth of fan_in, and whether the role goes with it and with the shape."""
        if self.fan is None:
            return None
        check = self.compared("fan_in", self.group.m_in, self.fan)
        allowed = {role for end in (self.fan.low, self.fan.value, self.fan.high) for role in self.roles(end)}
        if check.ok and self.group.role not in allowed:
            self.why.append(f"fan_in and shape say {' or '.join(sorted(allowed))}, the plan says {self.group.role}")
            return replace(check, ok=False)
        return check

    def roles(self, fan_in: float) -> tuple[str, ...]:
        """The roles that a measured growth of fan_in and the growth of the shape allow."""
        if fan_in > GROWS:
            return ("hidden",) if self.group.growth - fan_in > GROWS else ("readout", "bottleneck")
        return ("input", "vector") if self.group.growth > GROWS else ("scalar",)

    def init(self) -> Check | None:
        """The std's exponent that keeps the module's output, or, for a readout, the one that its fan_in asks for."""
        group, output = self.group, self.output()
        if output is not None:
            return self.needed("init", group.init_mult, output, self.held(output)) if self.leads else None
        fixed = self.found.output_growth(group.names[0]) <= GROWS
        if self.fan is None or not fixed or "readout" not in self.roles(self.fan.value) or self.is_zero:
            return None
        power = -0.5 if group.role == "bottleneck" else self.promise.start - 0.5
        asked = _shifted(_scaled(self.fan, power), group.held - group.fwd_mult)
        return self.compared("init", group.init_mult, asked)

    def output(self) -> Slope | None:
        """Growth of the output of the module that holds it, where that output has an axis that grows."""
        if self.found.output_growth(self.group.names[0]) <= GROWS:
            return None
        values = self.found.values(self.group.names, "output")
        return None if values is None else self.slope(values)

    def held(self, output: Slope | None) -> float:
        """What multipliers do to the module's output as its forward returns it.

        An absorbed one scales it, unless it undoes a constant within the module; one on a hook is undone beforehand.
        """
        if output is None:
            return self.group.held
        return min((self.group.held, 0.0, -self.hooked), key=lambda held: abs(held - output.value))

    @property
    def hooked(self) -> float:
        return self.found.hook_exponent(owner_of(self.group.names[0]))

    @property
    def is_zero(self) -> bool:
        return any(plan[self.group.names[0]].init_mult == 0 for plan in self.found.plans.values())

    @property
    def leads(self) -> bool:
        """It is the largest parameter of its module: a bias does not set the output's size."""
        plan, owner = self.found.plans[max(self.found.plans)], owner_of(self.group.names[0])
        sizes = {row.name: math.prod(row.shape) for row in plan if owner_of(row.name) == owner}
        return sizes[self.group.names[0]] == max(sizes.values())

    def lr(self) -> Check | None:
        """The learning rate's exponent at which the parameter's own output moves as much at every width."""
        values = self.found.values(self.group.names, "own")
        if values is None:
            return None
        claim = self.held(self.output()) * self.power + self.slack
        if self.group.geometry == "gradient" and self.fan_out > GROWS:  # `own` passes back n^-1, the model more
            claim -= self.fan_out * self.promise.backward
        step = _shifted(self.slope(values), self.group.lr_mult)
        missing = -0.5 * self.power if self.found.composite(self.group.names[0]) else 0.0
        if claim + missing - self.tolerance <= step.value < claim - self.tolerance:
            return None  # seen through further ops, where it is not aligned yet
        return self.needed("lr", self.group.lr_mult, step, claim)

    def loss(self) -> Check | None:
        """A step moves the objective as much at every width; behind a readout of init n^-1/2 by n^1/2 more."""
        values = self.found.values(self.group.names, "loss")
        if values is None:
            return None
        promise = self.promise
        behind = 0.0 if self.group.role == "readout" else promise.objective - promise.features
        step = _shifted(self.slope(values), self.group.lr_mult)
        check = self.compared("loss", behind + self.slack, step, floor=-math.inf)
        return replace(check, unaligned=step.value < check.plan - self.tolerance)

    def gradient(self, loss: Check | None) -> Check | None:
        """The size of the gradient's entries: the plan's, or as much less as the effect on the loss is less."""
        values = self.found.values(self.group.names, "gradient")
        if values is None:
            return None
        missing = (loss.measured - loss.plan) / self.power if loss is not None and loss.unaligned else 0.0
        check = self.compared("gradient", self.group.grad_mult, self.slope(values), floor=missing)
        return replace(check, unaligned=bool(check.ok) and check.measured < check.plan - self.tolerance)

    @property
    def power(self) -> float:
        """A gradient step's effect is quadratic in the gradient, every other one's linear."""
        return 2.0 if self.group.geometry == "gradient" else 1.0

    @property
    def slack(self) -> float:
        """What the scheme promises of this parameter's own change, beyond the law's 0."""
        promise, fan_in, fan_out = self.promise, 0.0 if self.fan is None else self.fan.value, self.fan_out
        added = fan_out * promise.features if fan_out > GROWS else 0.0
        added += fan_in * promise.unaligned if self.group.geometry != "spectral" else 0.0
        if self.group.geometry in {"sign", "relative"}:
            added += fan_out * promise.lookup if self.group.role == "input" else 0.0
        return added

    @property
    def fan_out(self) -> float:
        """Measured growth of the number of outputs: the shape's, less that of what is summed."""
        return self.group.growth - (0.0 if self.fan is None else self.fan.value)

    # Comparing

    def slope(self, values: Array) -> Slope:
        return log_slope(self.found.widths, values)

    def needed(self, quantity: Quantity, plan: float, size: Slope, claim: float) -> Check:
        """The exponent that the plan would need for `size` to have the exponent claimed."""
        return self.compared(quantity, plan, _shifted(_scaled(size, -1.0), plan + claim))

    def compared(self, quantity: Quantity, plan: float, measured: Slope, *, floor: float = 0.0) -> Check:
        """floor: how much lower (<= 0) than the plan's, beyond the tolerance, the measured exponent may be."""
        low, high = plan + floor - self.tolerance, plan + self.tolerance
        ok: bool | None = low <= measured.value <= high
        if not ok and measured.high >= low and measured.low <= high:
            ok = None
        if ok is False:
            self.why.append(f"{quantity} {measured.value:+.2f} against the plan's {plan:+.2f}")
        return Check(quantity, plan, measured.value, measured.low, measured.high, ok)


def _scaled(slope: Slope, by: float) -> Slope:
    ends = sorted((slope.low * by, slope.high * by))
    return Slope(slope.value * by, ends[0], ends[1])


def _shifted(slope: Slope, by: float) -> Slope:
    return Slope(slope.value + by, slope.low + by, slope.high + by)
