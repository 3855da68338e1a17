"""Which exponent a module's output may have, and whether the measured one says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hptransfer.checks.coord.update_size import Moved
from hptransfer.core.statistics import Slope, log_slope, power

Quantity = Literal["rms", "change", "update", "carried"]
QUANTITIES: tuple[Quantity, ...] = ("rms", "change", "update", "carried")
TOLERANCE = 0.25
NATURAL = "natural update"
NOT_FINITE = "not finite"
"""How the reason of a row begins whose values blew up; such a row fails the check."""

QUORUM = 0.95
"""The share of judged rows that must pass: of true rows, one 95% interval in twenty reaches too far by chance."""
NOISE = 1e-6
"""A change below this fraction of the output's rms is rounding, and counts as zero."""

RULE = (
    "Each row is the exponent b of quantity ~ width^b: least squares in log-log over widths and seeds, with a 95%"
    " Student-t interval. Where features are learned alike at every width, b tends to 0; the nearest exponents of"
    " the regimes that do not are +-1/2. The tolerance {t:g} is half of that, because finite widths bend the "
    "lines. Within +-{t:g}: rms and change since t=0 of hidden outputs (their size grows with width), and the "
    "natural update ||dW||_2 / sqrt(fan_out / fan_in) of every matrix. At most +{t:g}: rms and change of outputs "
    "of fixed size (logits, routers), and of every module's output the update (what its own parameters add at its"
    " present input) and what is carried (W_0 dx). These have no lower side, for their random part fades as "
    "n^-1/2 until the aligned part stands out, and a readout may start as n^-1/2 or at zero; that every layer "
    "learns is judged by its natural update. A row passes when its whole interval is allowed, fails when its "
    "whole interval is outside, and is undecided otherwise. Verdict: FAIL if a judged row fails or a value is not"
    " finite; else PASS if at least {q:.0%} of the judged rows pass, and of every module and quantity at least "
    "one t; else INCONCLUSIVE."
)


def rule_text(tolerance: float) -> str:
    """The rule in words, with its numbers."""
    return RULE.format(t=tolerance, q=QUORUM)


_TWO_SIDED = {("hidden", "rms"), ("hidden", "change"), ("matrix", NATURAL)}
_MEANING = {
    ("hidden", "rms"): "activations keep their size",
    ("hidden", "change"): "features change as much at every width",
    ("fixed", "rms"): "the output does not blow up; it may start as n^-1/2 or 0",
    ("fixed", "change"): "the output's change does not blow up; that it learns is judged by its natural update",
    ("matrix", NATURAL): "the matrix's update has full size: ||dW||_2 ~ sqrt(fan_out / fan_in)",
    "update": "the module's own update does not blow up",
    "carried": "what lower layers changed does not blow up here",
}


@dataclass(frozen=True)
class Record:
    """One module's output in one run after t steps, on the probe batch.

    rms: root mean square of the output; change_rms: of its difference from t = 0; update_rms and carried_rms: of the
    two parts of that difference (see probe.py), None for a module without parameters or at t = 0.
    """

    width: int
    seed: int
    t: int
    module: str
    rms: float
    change_rms: float | None
    update_rms: float | None = None
    carried_rms: float | None = None

    def value(self, quantity: Quantity) -> float | None:
        """The quantity, with rounding noise set to zero; None where it was not measured."""
        found: float | None = getattr(self, quantity if quantity == "rms" else f"{quantity}_rms")
        if quantity == "rms" or found is None:
            return found
        return 0.0 if found < NOISE * self.rms else found


@dataclass(frozen=True)
class Row:
    """One judged (or only reported) exponent.

    slope, low, high: with its interval, nan where it cannot be fitted. expected: by theory, 0 but for multipliers that
    the plan absorbed into this module. allowed_low, allowed_high: what passes; None is unbounded. judged: whether it
    counts. ok: True, False, or None for undecided or not judged. reason: the rule, or why it was skipped.
    """

    module: str
    t: int
    quantity: str
    slope: float
    low: float
    high: float
    judged: bool
    ok: bool | None
    reason: str
    expected: float = 0.0
    allowed_low: float | None = None
    allowed_high: float | None = None

    @property
    def excess(self) -> float:
        """How far the interval reaches beyond what is allowed, negative when it lies inside."""
        below = -math.inf if self.allowed_low is None else self.allowed_low - self.low
        above = -math.inf if self.allowed_high is None else self.high - self.allowed_high
        return max(below, above)


@dataclass(frozen=True)
class Module:
    """What the rules need: what it is, and the exponent that the plan absorbed into it.

    kind: "hidden" for an output that grows with width, "fixed" for one that does not, "matrix" for a parameter.
    """

    kind: Literal["hidden", "fixed", "matrix"]
    held: float = 0.0


Cell = Mapping[tuple[int, int], float | None]


def fit_rows(records: Iterable[Record], modules: Mapping[str, Module], *, tolerance: float) -> list[Row]:
    """One row per module, t and quantity that was measured, in the modules' order of execution."""
    grouped: dict[tuple[str, int, Quantity], dict[tuple[int, int], float | None]] = {}
    runs: set[tuple[int, int]] = set()
    for record in records:
        runs.add((record.width, record.seed))
        for quantity in QUANTITIES if record.t else QUANTITIES[:1]:
            cell = grouped.setdefault((record.module, record.t, quantity), {})
            cell[record.width, record.seed] = record.value(quantity)
    rows = [
        _row(module, t, quantity, {run: cell.get(run) for run in runs}, modules[module], tolerance)
        for (module, t, quantity), cell in grouped.items()
        if any(value is not None for value in cell.values()) or quantity == "change"
    ]
    order = {name: i for i, name in enumerate(modules)}
    return sorted(rows, key=lambda r: (order[r.module], r.t, QUANTITIES.index(r.quantity)))  # type: ignore[arg-type]


def natural_rows(found: Iterable[Moved], matrices: Mapping[str, Module], *, tolerance: float) -> list[Row]:
    """One row per matrix and t: its natural update size."""
    grouped: dict[tuple[str, int], dict[tuple[int, int], float | None]] = {}
    for moved in found:
        if moved.matrix:
            grouped.setdefault((moved.parameter, moved.t), {})[moved.width, moved.seed] = moved.natural
    runs = {run for cell in grouped.values() for run in cell}
    return [
        _row(name, t, NATURAL, {run: cell.get(run) for run in runs}, matrices[name], tolerance)
        for (name, t), cell in grouped.items()
    ]


def update_rows(found: Iterable[Moved]) -> list[Row]:
    """Exponents of rms dW / rms W of all parameters, and of the natural update of gains and biases. Not judged.

    A gain or bias that the loss does not see (a key's bias) has no gradient but rounding, which Adam may blow up.
    """
    cells: dict[tuple[str, int, str], dict[tuple[int, int], float]] = {}
    for m in found:
        for quantity, value in (("rms dW / rms W", m.ratio), *(() if m.matrix else ((NATURAL, m.natural),))):
            cells.setdefault((m.parameter, m.t, quantity), {})[m.width, m.seed] = value
    full = max((len(cell) for cell in cells.values()), default=0)
    rows: list[Row] = []
    for (name, t, quantity), cell in cells.items():
        if len(cell) == full and all(0 < v < math.inf for v in cell.values()):
            slope = fit(cell)
            rows.append(Row(name, t, quantity, slope.value, slope.low, slope.high, False, None, "reported only"))
    return rows


def _row(
    name: str,
    t: int,
    quantity: str,
    values: Cell,
    module: Module,
    tolerance: float,
) -> Row:
    skipped = _why_skipped(quantity, values)
    if skipped is not None:
        judged, reason = skipped
        return Row(name, t, quantity, math.nan, math.nan, math.nan, judged, None, reason, module.held)
    slope = fit({run: value for run, value in values.items() if value is not None})
    return judge(name, t, quantity, slope, module, tolerance)


def _why_skipped(quantity: str, values: Cell) -> tuple[bool, str] | None:
    """(judged, reason) where no exponent can be fitted: zeros, gaps, values that are not finite."""
    if any(v is None for v in values.values()):
        missing = sorted({w for (w, _), v in values.items() if v is None})
        return (
            False,
            f"not comparable at width {_listed(missing)}: absent, or its shape changes between steps (routing)",
        )
    wild = sorted({w for (w, _), v in values.items() if v is not None and not math.isfinite(v)})
    if wild:
        return True, f"{NOT_FINITE} at width {_listed(wild)}"
    zero = sorted({w for (w, _), v in values.items() if v == 0})
    if not zero:
        return None
    if all(v == 0 for v in values.values()):
        why = "zero-initialised" if quantity == "rms" else "nothing has moved it yet, or it is frozen"
        return False, f"zero at every width ({why}); judged from its first nonzero t"
    return True, f"zero at width {_listed(zero)} but not at the others"


def _listed(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths))


def fit(values: Mapping[tuple[int, int], float]) -> Slope:
    """The slope over a full grid of (width, seed)."""
    widths, seeds = sorted({w for w, _ in values}), sorted({s for _, s in values})
    return log_slope(widths, np.array([[values[w, s] for w in widths] for s in seeds]))


def exponent(values: Mapping[int, float]) -> float:
    """The exponent of the width in a multiplier that is a power of it, or nearly (where heads round)."""
    return power(list(values), [abs(value) for value in values.values()]) if len(values) > 1 else 0.0


def judge(name: str, t: int, quantity: str, slope: Slope, module: Module, tolerance: float) -> Row:
    """Hold one exponent against its rule."""
    key = (module.kind, quantity)
    low = module.held - tolerance if key in _TWO_SIDED else None
    high = module.held + tolerance
    inside = slope.high <= high and (low is None or slope.low >= low)
    outside = slope.low > high or (low is not None and slope.high < low)
    reason = _MEANING[quantity if quantity in _MEANING else key]
    if abs(module.held) > 1e-9:
        reason += f"; the plan absorbed a multiplier ~ width^{module.held:.2g} here"
    ok = True if inside else False if outside else None
    return Row(name, t, quantity, slope.value, slope.low, slope.high, True, ok, reason, module.held, low, high)
