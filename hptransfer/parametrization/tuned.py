"""The factors that were tuned at the base, put into a plan that was made without them."""

# pyright: strict
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hptransfer.core.rules import scheme_named
from hptransfer.parametrization.multipliers.shift import shift, with_tuned
from hptransfer.parametrization.options import Tuned
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row


def tuned_plan(plan: Plan, tuned: Mapping[str, Tuned]) -> Plan:
    """The plan that make_plan(tuned=...) makes, from the one that it makes without: nothing is traced again.

    tuned: parameter's full name -> its factors; others stay as they are. Of a frozen, unused or kept parameter too, as
    make_plan does. Weights that a unit scheme stores at unit rms stay so: the factor joins their forward multiplier.
    """
    return replace(plan, rows={name: _row(plan, row, tuned.get(name)) for name, row in plan.rows.items()})


def _row(plan: Plan, row: Row, tuned: Tuned | None) -> Row:
    if tuned is None or tuned == Tuned():
        return row
    factored = with_tuned(row, tuned, row.name)
    stored_at_unit = scheme_named(plan.scheme).unit and row.fwd_mult != 1.0
    return shift(factored, 1 / tuned.init, plan.optimizers[row.optimizer]) if stored_at_unit else factored
