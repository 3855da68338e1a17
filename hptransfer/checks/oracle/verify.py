"""verify_plan: hold a plan against exponents measured on running models, parameter by parameter.

The planner reads roles off a graph and multipliers off rules. The oracle uses neither: it builds the model at three
small widths, gives it the plan's initial weights, and measures. What discriminates the roles, with x entries of order 1
and delta, the gradient at a weight's output, of order 1/n (the readout's doing):

              random +-1 response   own output's step      gradient entries   what a wrong role shows
  hidden      n^1/2  (fan_in n)     lr n     -> lr 1/n      1/n                input: fan_in 0, lr +1, init +1/2
  readout     n^1/2                 lr n     -> lr 1/n      1                  hidden: init +1/2, loss +1/2 before it
  input       1                     lr       -> lr 1        1/n                readout: fan_in 1, lr -1, init -1
  vector      1                     lr       -> lr 1        1/n                hidden: fan_in 1, lr -1

A corrupted row shows in its own fan_in, init and lr, which depend on no other parameter's multipliers but through the
size of its input; gradient and loss show whether the rows together carry the signal back. Beside these derivatives it
takes real optimizer steps and looks at every module's output (steps.py), lines a step up with attention (logits.py),
and where a scheme has a depth rule deepens the model (depth.py). What it expects is written in promises.py. What it
cannot see is in report.SEES.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from hptransfer.checks.checked import checked_count, checked_widths
from hptransfer.checks.oracle.depth import OverDepth, gained
from hptransfer.checks.oracle.gradients import owner_of
from hptransfer.checks.oracle.held import following
from hptransfer.checks.oracle.judge import judged
from hptransfer.checks.oracle.measure import Measurements
from hptransfer.checks.oracle.promises import Promise, promise_of
from hptransfer.checks.oracle.report import OracleReport, OracleRow, Verdict
from hptransfer.checks.oracle.steps import logit_rows, output_rows
from hptransfer.checks.oracle.subject import Builder, Inputs, Subject, plans_by_depth, plans_by_width, subject_of
from hptransfer.checks.oracle.walk import Trained, chosen_lr, walk
from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Role
from hptransfer.core.training.recipe import Recipe
from hptransfer.graph.graph import template
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan

TOLERANCE = 0.25
"""Half of 1/2, the least distance between the exponents of two roles."""
MORE = 4
"""Times as many seeds as asked for may be added where noise leaves something open."""


def verify_plan(
    source: Recipe | Builder | Subject,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
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
    seconds: float = float("inf"),
) -> OracleReport:
    """Measure every parameter's exponents at small sizes and compare them with the plan's.

    source: a Recipe, or a builder (width -> freshly initialised model) together with example_inputs (positional, or a
    mapping of keywords). widths: at least three; default base, 2 base and 4 base. base: the plans' base width; default
    the recipe's, or the smallest of widths. depths: at least three, the base's first; default, where the scheme has a
    depth rule and the recipe's base a depth: base, 2 base and 4 base, at the base width. () leaves them out.
    plan: a plan for a wider target of the same depth, verified by its exponents over the width; without one, make_plan
    is called with scheme, optimizer, optimizer_options, roles and options (defaults: "mup", the recipe's optimizer).
    seeds: models per width, up to four times as many where noise leaves a row open and no `seconds` of CPU have passed.
    tolerance: on exponents.
    Raises UsageError where the arguments are wrong or make_plan refuses the model.
    Source of the condition: Yang, Simon & Bernstein 2023, 2310.17813; of alignment: Everett et al. 2024, 2407.05872.
    """
    started = time.perf_counter()
    subject = source if isinstance(source, Subject) else subject_of(source, example_inputs, options)
    given = base or subject.base
    chosen = checked_widths(_default_widths(given) if widths is None else widths)
    seeds = checked_count("seeds", seeds, least=2)
    if plan is not None and (scheme, optimizer, roles, options) != (None,) * 4:
        raise UsageError("verify_plan: give either plan, or scheme, optimizer, roles and options to make one with.")
    name = plan.scheme if plan is not None else scheme or "mup"
    own = optimizer is None and optimizer_options is None
    cls, settings = optimizer or subject.optimizer, subject.optimizer_options if own else optimizer_options
    choices = {"scheme": name, "optimizer": cls, "optimizer_options": settings, "roles": roles, "options": options}
    plans = plans_by_width(subject, chosen, given or chosen[0], plan, **choices)
    promise = promise_of(name, next(iter(plans.values())).options)
    trained = _trained(plans[chosen[0]], cls, settings)
    over_width = Measurements(subject, plans, trained)
    until = time.process_time() + seconds

    def by_width() -> tuple[list[OracleRow], list[OracleRow]]:
        return judged(over_width, promise, tolerance), _beside(over_width, promise, tolerance)

    rows, outputs = _settled(over_width.add, by_width, seeds, until)
    depths = _depths(subject, promise, depths, trained, plan)
    deeper = _over_depth(subject, depths, promise, choices, trained, seeds, tolerance, until) if depths else []
    verdict, reasons = _verdict(rows, [*outputs, *deeper])
    return OracleReport(
        verdict,
        reasons,
        tuple(rows),
        _unseen(over_width, rows),
        subject.name,
        name,
        chosen,
        given or chosen[0],
        len(over_width.readings),
        tolerance,
        round(time.perf_counter() - started, 2),
        tuple(depths),
        tuple(outputs),
        tuple(deeper),
    )


def _default_widths(base: int | None) -> tuple[int, ...]:
    if base is None:
        raise UsageError("verify_plan with a builder needs widths, for example widths=(32, 64, 128).")
    return base, 2 * base, 4 * base


def _trained(plan: Plan, optimizer: Any, options: Mapping[str, Any] | None) -> Trained | None:
    """The plan's optimizer classes with their options; None where one is known by name only."""
    given = optimizer if isinstance(optimizer, Mapping) else {"rest": optimizer}
    options = dict(options or {})
    apart = isinstance(optimizer, Mapping) and set(options) <= set(given)
    trained: dict[type[torch.optim.Optimizer], Mapping[str, Any]] = {}
    for part, cls in given.items():
        known = getattr(torch.optim, cls, None) if isinstance(cls, str) else cls
        if known is None:
            return None
        trained[known] = (options.get(part) or {}) if apart else options
    if {cls.__name__ for cls in trained} != set(plan.optimizers):  # a plan made elsewhere, for other optimizers
        found = {name: getattr(torch.optim, name, None) for name in plan.optimizers}
        return None if None in found.values() else {cls: {} for cls in found.values() if cls is not None}
    return trained


def _settled(
    add: Callable[[int], None], judge: Callable[[], tuple[list[OracleRow], ...]], seeds: int, until: float
) -> Any:
    """Add seeds until noise leaves no row open or there are enough.

    Enough are MORE times as many as asked for; where the time has an end, four times more again until it is over.
    """
    done, rows = 0, tuple[list[OracleRow], ...]()
    limits = [seeds, 2 * seeds, MORE * seeds, *([] if until == float("inf") else [8 * seeds, 16 * seeds])]
    for limit in limits:
        for seed in range(done, limit):
            add(seed)
        done, rows = limit, judge()
        open_ = any(check.ok is None for part in rows for row in part for check in row.checks)
        if not open_ or time.process_time() > until:
            break
    return rows


def _beside(found: Measurements, promise: Promise, tolerance: float) -> list[OracleRow]:
    """What can be seen only on activations: their sizes and changes, and attention's logits."""
    plan = found.plans[max(found.plans)]
    quadratic = all(info.geometry == "gradient" for info in plan.optimizers.values())
    above = {owner_of(name): max(found.exponent(name, "held"), 0.0) for name in plan.rows}
    logits = logit_rows(found.sites, promise, tolerance, quadratic=quadratic)
    if not found.walks:
        return logits
    followed = following(found.subject, found.plans[min(found.plans)], above, min(found.plans))
    above |= {module: max(exponent, above.get(module, 0.0)) for module, exponent in followed.items()}
    rows = output_rows(found.walks, promise, lambda m: above.get(m, 0.0), tolerance)
    if any((change := row.check("change")) is not None and not change.ok for row in rows):
        rows = output_rows(found.walks, promise, lambda m: above.get(m, 0.0), tolerance, found.jumping)
    return [*rows, *logits]


def _depths(
    subject: Subject, promise: Promise, asked: Sequence[int] | None, trained: Trained | None, plan: Plan | None
) -> tuple[int, ...]:
    """The depths to check at; none where the scheme leaves depth alone or the subject has none."""
    if asked is not None and not asked:
        return ()
    base = subject.base_depth
    if promise.branch is None or base is None or trained is None or plan is not None:
        if asked:
            raise UsageError(
                "verify_plan: depths are checked for a scheme with a depth rule, a recipe whose base has a depth, an "
                "optimizer given as its class, and without plan=."
            )
        return ()
    return checked_widths(asked) if asked else (base, 2 * base, 4 * base)


def _over_depth(
    subject: Subject,
    depths: Sequence[int],
    promise: Promise,
    choices: Mapping[str, Any],
    trained: Trained | None,
    seeds: int,
    tolerance: float,
    until: float,
) -> list[OracleRow]:
    """The rows over depth, at the base width."""
    assert trained is not None
    deep = subject.over_depth()
    plans = plans_by_depth(deep, depths, **choices)
    layers, walks = gained(plans), list[Any]()
    if not layers:
        raise UsageError("Deeper models have no further parameters: this builder does not follow Scale.depth.")
    lr = chosen_lr(deep, plans[min(plans)], trained, min(plans))

    def add(seed: int) -> None:
        walks.append(
            {d: walk(deep, p, trained, d, seed, lr=lr, only=lambda n: template(n) in layers) for d, p in plans.items()}
        )

    (rows,) = _settled(add, lambda: (OverDepth(walks, plans, layers, promise, tolerance).rows(),), seeds, until)
    if not any(row.role == "block" and row.check("change") for row in rows):
        raise UsageError("Depth cannot be checked: no module holds a gained layer, so what they add cannot be seen.")
    return rows


def _verdict(rows: Sequence[OracleRow], beside: Sequence[OracleRow]) -> tuple[Verdict, tuple[str, ...]]:
    wrong = [f"{row.name}: {row.why}" for row in (*rows, *beside) if row.ok is False]
    losses = [check for row in rows if (check := row.check("loss")) is not None and check.ok]
    behind = sum(check.unaligned for check in losses)
    if losses and behind > len(losses) / 2:
        wrong.append(
            f"{behind} of {len(losses)} rows reach the objective too weakly: the outputs pass too little back, as a "
            f"readout does that starts too small"
        )
    if wrong:
        return "FAIL", tuple(wrong)
    still_open = [row.name for row in (*rows, *beside) if any(check.ok is None for check in row.checks)]
    if still_open or not losses:
        return "INCONCLUSIVE", (f"noise leaves open: {', '.join(still_open) or 'everything'}",)
    return "PASS", (f"{sum(len(row.names) for row in rows)} parameters agree with the plan",)


def _unseen(found: Measurements, rows: Sequence[OracleRow]) -> tuple[str, ...]:
    """Parameters of which nothing could be measured, frozen ones among them."""
    seen = {name for row in rows if row.checks for name in row.names}
    plan = found.plans[max(found.plans)]
    return tuple(row.name for row in plan if row.name not in seen)
