"""What an update-equilibrium check found: per weight-decay rule, exponents of the width and a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hptransfer.checks.coord.report import Verdict
from hptransfer.checks.coord.rows import fit
from hptransfer.core.files import Document, columns

RULE = (
    "Judged, for every parameter that decays: the exponent of its timescale 1 / (lr wd) in the width, exactly, "
    "from the optimizer groups; for every matrix also the timescale that one real step shows; and for every role "
    "the median over its matrices of the relative update |dW| / |W| (decay left out) in the last quarter of the "
    "run, with a 95% Student-t interval over widths and seeds. All must be 0 within +-{t:g}: then weights forget,"
    " and turn, alike at every width. FAIL if an exponent's whole interval lies outside; PASS if all lie inside; "
    "else INCONCLUSIVE. The relative update at the start is shown beside it: muP's hidden matrices begin at -1/2 "
    "(updates ~ 1/m on weights ~ m^-1/2), and only decay takes them to 0."
)
START, END = "update at the start", "update at the end"
JUDGED = {"timescale", "measured timescale", END}
QUANTITIES = {
    "timescale": "1 / (lr wd) of the optimizer group, exact",
    "measured timescale": "1 / share of the weight that one real step takes away",
    END: "relative update per step at equilibrium",
    START: "relative update per step in steps 2 to 4; not judged",
}


@dataclass(frozen=True)
class DecayRecord:
    """One parameter in one run under one weight-decay rule.

    rate: lr x wd of its group, per step; taken: the share of the weight that decay took in one real step (nan where the
    weight is zero). update_start, update_end: |dW| / |W| per step without decay, early and late. norm_ratio: |W| at the
    end / at the start. matrix: it has at least two axes.
    """

    rule: str
    width: int
    seed: int
    parameter: str
    role: str
    matrix: bool
    rate: float
    taken: float
    update_start: float
    update_end: float
    norm_ratio: float

    def value(self, quantity: str) -> float:
        """The quantity of that name."""
        if quantity == "timescale":
            return 1 / self.rate if self.rate else math.inf
        if quantity == "measured timescale":
            return 1 / self.taken if self.taken else math.inf
        return self.update_end if quantity == END else self.update_start


@dataclass(frozen=True)
class DecayRow:
    """The exponent of one quantity of one parameter in the width, under one rule, and whether it is 0 enough."""

    rule: str
    parameter: str
    role: str
    quantity: str
    slope: float
    low: float
    high: float
    judged: bool
    ok: bool | None


@dataclass(frozen=True)
class EquilibriumReport(Document):
    """Verdict per weight-decay rule, the exponents behind it, and the measurements.

    verdicts, reasons: rule -> verdict, and what decided it. verdict: of the first rule that was asked for.
    """

    TITLE = "an equilibrium check"
    REMEDY = "Make it again with equilibrium_check."

    verdict: Verdict
    verdicts: Mapping[str, Verdict]
    reasons: Mapping[str, str]
    tolerance: float
    rule: str
    rows: tuple[DecayRow, ...]
    records: tuple[DecayRecord, ...] = field(repr=False)
    settings: Mapping[str, Any]

    def row(self, rule: str, parameter: str, quantity: str) -> DecayRow:
        """One row. Raises KeyError where it was not measured."""
        for row in self.rows:
            if (row.rule, row.parameter, row.quantity) == (rule, parameter, quantity):
                return row
        raise KeyError((rule, parameter, quantity))

    def __str__(self) -> str:
        return _text(self)


def report_of(
    records: Sequence[DecayRecord], rules: Sequence[str], tolerance: float, settings: Mapping[str, Any]
) -> EquilibriumReport:
    """Fit and judge."""
    rows = fit_decay_rows(records, tolerance)
    judged = {rule: _verdict(rule, rows, records) for rule in rules}
    return EquilibriumReport(
        verdict=judged[rules[0]][0],
        verdicts={rule: verdict for rule, (verdict, _) in judged.items()},
        reasons={rule: reason for rule, (_, reason) in judged.items()},
        tolerance=tolerance,
        rule=RULE.format(t=tolerance),
        rows=tuple(rows),
        records=tuple(records),
        settings=dict(settings),
    )


Key = tuple[str, str, str, str]
"""(rule, parameter or group of matrices, role, quantity)."""


def fit_decay_rows(records: Sequence[DecayRecord], tolerance: float) -> list[DecayRow]:
    """One row per rule, parameter and quantity, and per role the median relative update of its matrices.

    Quantities that are not positive and finite in every run are left out.
    """
    widest = max((record.width for record in records), default=0)
    roles = {record.parameter: record.role for record in records if record.width == widest}  # at the base nothing grows
    rows: list[DecayRow] = []
    for (rule, name, role, quantity), cell in _cells(records, roles).items():
        values = {run: statistics.median(found) for run, found in cell.items()}
        if not all(0 < v < math.inf for v in values.values()):
            continue
        judged = quantity in JUDGED and (quantity != END or name not in roles)
        slope = fit(values)
        low, high = (slope.value, slope.value) if quantity == "timescale" else (slope.low, slope.high)
        inside, outside = -tolerance <= low and high <= tolerance, low > tolerance or high < -tolerance
        ok = (True if inside else False if outside else None) if judged else None
        rows.append(DecayRow(rule, name, role, quantity, slope.value, low, high, judged, ok))
    return rows


def _cells(records: Sequence[DecayRecord], roles: Mapping[str, str]) -> dict[Key, dict[tuple[int, int], list[float]]]:
    cells: dict[Key, dict[tuple[int, int], list[float]]] = {}
    for record in records:
        name, role = record.parameter, roles.get(record.parameter, record.role)
        wanted = [(name, q) for q in QUANTITIES if record.matrix or q == "timescale"]
        wanted += [(f"median of {role} matrices", q) for q in (END, START) if record.matrix]
        for shown, quantity in wanted:
            cell = cells.setdefault((record.rule, shown, role, quantity), {})
            cell.setdefault((record.width, record.seed), []).append(record.value(quantity))
    return cells


def _verdict(rule: str, rows: Sequence[DecayRow], records: Sequence[DecayRecord]) -> tuple[Verdict, str]:
    wild = sorted({r.width for r in records if r.rule == rule and not math.isfinite(r.update_end) and r.matrix})
    own = [row for row in rows if row.rule == rule and row.judged]
    failed, undecided = [r for r in own if r.ok is False], [r for r in own if r.ok is None]
    if wild:
        return "FAIL", f"not finite at width {', '.join(map(str, wild))}"
    if failed:
        worst = max(failed, key=lambda r: abs(r.slope))
        return "FAIL", f"{len(failed)} of {len(own)} exponents lie outside; {worst.parameter}: {_words(worst)}"
    if undecided or not own:
        shown = f"; {undecided[0].parameter}: {_words(undecided[0])}" if undecided else ""
        return "INCONCLUSIVE", f"{len(undecided)} of {len(own)} exponents are undecided{shown}"
    return "PASS", f"all {len(own)} exponents are 0 within the tolerance"


def _words(row: DecayRow) -> str:
    return f"{row.quantity} ~ width^{row.slope:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"


def _text(report: EquilibriumReport) -> str:
    s = report.settings
    lines = [
        f"update equilibrium of {s['recipe']}: " + ", ".join(f"{r} {v}" for r, v in report.verdicts.items()),
        f"scheme {s['scheme']}, widths {', '.join(map(str, s['widths']))} (base {s['base_width']}), "
        f"{s['seeds']} seeds, {s['steps']} steps of {s['optimizer']} at lr {s['lr']:.4g}, wd {s['weight_decay']:.4g} "
        f"(timescale {s['base_timescale']:.4g} steps at the base)",
        *(f"- {rule}: {reason}" for rule, reason in report.reasons.items()),
        "",
    ]
    table: list[tuple[str, ...]] = [("rule", "parameter", "role", *QUANTITIES, "")]
    named = dict.fromkeys((row.rule, row.parameter, row.role) for row in report.rows)
    for rule, parameter, role in named:
        own = {row.quantity: row for row in report.rows if (row.rule, row.parameter) == (rule, parameter)}
        bad = any(row.ok is False for row in own.values())
        open_row = any(row.ok is None and row.judged for row in own.values())
        shown = [f"{own[q].slope:+.3f}" if q in own else "" for q in QUANTITIES]
        table.append((rule, parameter, role, *shown, "FAIL" if bad else "?" if open_row else "ok"))
    order = sorted(table[1:], key=lambda line: ("FAIL", "?", "ok").index(line[-1]))
    note = "exponents of the width"
    return "\n".join([*lines, note, *columns([table[0], *order]), "", report.rule])
