"""verify_plan: hold a plan's exponents against exponents measured on running models, parameter by parameter.

The planner reads roles off a graph and multipliers off rules. The oracle uses neither: it builds the model at three
small widths, gives it the plan's initial weights, and measures. What discriminates the roles, with x entries of order 1
and delta, the gradient at a weight's output, of order 1/n (the readout's doing):

              random +-1 response   own output's step      gradient entries   what a wrong role shows
  hidden      n^1/2  (fan_in n)     lr n     -> lr 1/n      1/n                input: fan_in 0, lr +1, init +1/2
  readout     n^1/2                 lr n     -> lr 1/n      1                  hidden: init +1/2, loss +1/2 before it
  input       1                     lr       -> lr 1        1/n                readout: fan_in 1, lr -1, init -1
  vector      1                     lr       -> lr 1        1/n                hidden: fan_in 1, lr -1

A corrupted row shows in its own fan_in, init and lr, which depend on no other parameter's multipliers but through the
size of its input; gradient and loss show whether the rows together carry the signal back. What it cannot see is in
oracle_report.SEES.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.checks.oracle.judge import judged
from hptransfer.checks.oracle.measure import Measurements
from hptransfer.checks.oracle.report import OracleReport, OracleRow, Verdict
from hptransfer.checks.oracle.subject import Builder, Inputs, plans_by_width, subject_of
from hptransfer.checks.proxy import checked_count, checked_widths
from hptransfer.core.errors import UsageError
from hptransfer.core.recipe import Recipe
from hptransfer.core.roles import Role
from hptransfer.core.rules import scheme_named
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan

TOLERANCE = 0.25
"""Half of 1/2, the least distance between the exponents of two roles."""


def verify_plan(
    source: Recipe | Builder,
    *,
    widths: Sequence[int] | None = None,
    example_inputs: Inputs = (),
    base: int | None = None,
    plan: Plan | None = None,
    scheme: str | None = None,
    optimizer: Any = None,
    optimizer_options: Mapping[str, Any] | None = None,
    roles: Mapping[str, Role] | None = None,
    options: Options | None = None,
    seeds: int = 4,
    tolerance: float = TOLERANCE,
) -> OracleReport:
    """Measure every parameter's exponents at small widths and compare them with the plan's.

    source: a Recipe, or a builder (width -> freshly initialised model) together with example_inputs (positional, or a
    mapping of keywords). widths: at least three; default base, 2 base and 4 base. base: the plans' base width; default
    the recipe's, or the smallest of widths.
    plan: a plan for a wider target of the same depth, verified by its exponents; without one, make_plan is called at
    every width with scheme, optimizer, optimizer_options, roles and options (defaults: "mup", the recipe's optimizer).
    seeds: models per width, up to four times as many where noise leaves a row open. tolerance: on exponents.
    Raises UsageError where the arguments are wrong or make_plan refuses the model.
    Source of the condition: Yang, Simon & Bernstein 2023, 2310.17813; of alignment: Everett et al. 2024, 2407.05872.
    """
    started = time.perf_counter()
    subject = subject_of(source, example_inputs, options)
    given = base or subject.base
    chosen = checked_widths(_default_widths(given) if widths is None else widths)
    seeds = checked_count("seeds", seeds, least=2)
    if plan is not None and (scheme, optimizer, roles, options) != (None,) * 4:
        raise UsageError("verify_plan: give either plan, or scheme, optimizer, roles and options to make one with.")
    name = plan.scheme if plan is not None else scheme or "mup"
    own = optimizer is None and optimizer_options is None
    plans = plans_by_width(
        subject,
        chosen,
        given or chosen[0],
        plan,
        scheme=name,
        optimizer=optimizer or subject.optimizer,
        optimizer_options=subject.optimizer_options if own else optimizer_options,
        roles=roles,
        options=options,
    )
    found = Measurements(subject, plans)
    rows = _settled(found, name, seeds, tolerance)
    verdict, reasons = _verdict(rows)
    return OracleReport(
        verdict,
        reasons,
        tuple(rows),
        _unseen(found, rows),
        subject.name,
        name,
        chosen,
        given or chosen[0],
        len(found.readings),
        tolerance,
        round(time.perf_counter() - started, 2),
    )


def _default_widths(base: int | None) -> tuple[int, ...]:
    if base is None:
        raise UsageError("verify_plan with a builder needs widths, for example widths=(32, 64, 128).")
    return base, 2 * base, 4 * base


def _settled(found: Measurements, scheme: str, seeds: int, tolerance: float) -> list[OracleRow]:
    """Add seeds until noise leaves no row open, at most four times as many as asked for."""
    rows: list[OracleRow] = []
    for limit in (seeds, 2 * seeds, 4 * seeds):
        for seed in range(len(found.readings), limit):
            found.add(seed)
        rows = judged(found, scheme_named(scheme), tolerance)
        if not any(check.ok is None for row in rows for check in row.checks):
            break
    return rows


def _verdict(rows: Sequence[OracleRow]) -> tuple[Verdict, tuple[str, ...]]:
    wrong = [f"{row.name}: {row.why}" for row in rows if row.ok is False]
    losses = [check for row in rows if (check := row.check("loss")) is not None and check.ok]
    behind = sum(check.unaligned for check in losses)
    if losses and behind > len(losses) / 2:
        wrong.append(
            f"{behind} of {len(losses)} rows reach the objective too weakly: the outputs pass too little back, as a "
            f"readout does that starts too small"
        )
    if wrong:
        return "FAIL", tuple(wrong)
    still_open = [row.name for row in rows if any(check.ok is None for check in row.checks)]
    if still_open or not losses:
        return "INCONCLUSIVE", (f"noise leaves open: {', '.join(still_open) or 'everything'}",)
    return "PASS", (f"{sum(len(row.names) for row in rows)} parameters agree with the plan",)


def _unseen(found: Measurements, rows: Sequence[OracleRow]) -> tuple[str, ...]:
    """Parameters of which nothing could be measured, frozen ones among them."""
    seen = {name for row in rows if row.checks for name in row.names}
    plan = found.plans[max(found.plans)]
    return tuple(row.name for row in plan if row.name not in seen)
