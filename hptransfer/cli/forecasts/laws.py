"""Fit Kaplan's and Chinchilla's loss laws to your own runs, and split a budget by them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hptransfer.cli.arguments import add_format, no_more, pairs
from hptransfer.cli.results.formats import Forms, show_as
from hptransfer.cli.results.next_step import after_laws
from hptransfer.core.errors import UsageError
from hptransfer.core.files import columns, encode

if TYPE_CHECKING:
    from hptransfer.prediction.laws.scaling import Form
    from hptransfer.prediction.laws.scaling_fit import LossLawFit
    from hptransfer.prediction.scaling.line import LossLine
    from hptransfer.prediction.table import Array

FAR = 10.0
"""Times the dearest run's compute beyond which a prediction needs --far."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUNS.csv", help="a finished run a row: params, tokens, loss; perhaps group")
    parser.add_argument("--columns", type=pairs, default={}, metavar="OURS=THEIRS,...", help="where names differ")
    parser.add_argument("--where", type=pairs, default={}, metavar="COLUMN=VALUE,...", help="rows that count")
    parser.add_argument("--budget", type=float, metavar="FLOP", help="split so many operations (6 N D) at best")
    parser.add_argument("--tie", action="store_true", help="one exponent for parameters and tokens")
    parser.add_argument("--undertuned", type=float, default=1.0, metavar="W", help="weight of runs above the law; 1")
    parser.add_argument("--far", action="store_true", help=f"allow more than {FAR:g} times the dearest run's compute")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    import numpy as np

    from hptransfer.prediction.laws.scaling import FREE
    from hptransfer.prediction.scaling.problem import APART, off_line
    from hptransfer.prediction.table import read_columns

    names = {"params": "params", "tokens": "tokens", "loss": "loss", "group": "group"} | args.columns
    found = read_columns(args.runs, names, optional=["group"], where=args.where)
    n, d, loss = found["params"], found["tokens"], found["loss"]
    compute = float((n * d).max())
    refuse_far(args.budget, compute, far=args.far)
    groups = found["group"].tolist() if "group" in found else None
    if off_line(np.log(n), np.log(d)) < APART and len(n) >= 5:
        return _line(args, n, d, loss, groups)
    fits: dict[Form, LossLawFit | str] = {form: _fit(form, args, n, d, loss, groups) for form in FREE}
    if all(isinstance(fit, str) for fit in fits.values()):
        raise UsageError(f"{args.runs}: no law could be fitted. " + "; ".join(f"{k}: {v}" for k, v in fits.items()))
    show_as(args.format, _forms(fits, args.budget), then=after_laws(args, 6 * compute))
    return 0


def _forms(fits: dict[Form, LossLawFit | str], budget: float | None) -> Forms:
    """The fits for every form of output; the budget's split by each law stands below the table."""
    cells = [("law", "misfit", "E", "a", "b", "form's error at 10x"), *_rows(fits)]
    splits = [
        "\n".join([f"{budget:.3g} operations by {form}:", *(f"  {part}" for part in fit.optimal(budget))])
        for form, fit in fits.items()
        if budget and not isinstance(fit, str)
    ]
    return Forms(
        text="\n\n".join(["\n".join(columns(cells)), *splits]),
        data=lambda: {form: fit if isinstance(fit, str) else encode(fit) for form, fit in fits.items()},
        records=[_record(form, fit) for form, fit in fits.items()],
        cells=cells,
        notes=splits,
    )


def _record(form: Form, fit: LossLawFit | str) -> Mapping[str, object]:
    """One law's fit as a line of CSV; without numbers, and with the reason, where there is none."""
    if isinstance(fit, str):
        empty = dict.fromkeys(("misfit", *(f"{n}{end}" for n in ("E", "a", "b") for end in ("", "_low", "_high"))))
        return {"law": form, **empty, "error_at_10x": None, "why_not": fit}
    numbers: dict[str, Any] = {}
    for name in ("E", "a", "b"):
        low, high = fit.interval(name)
        numbers |= {name: getattr(fit.law, name), f"{name}_low": low, f"{name}_high": high}
    far = fit.backtest.reach(10.0) if fit.backtest else None
    return {"law": form, "misfit": fit.objective / fit.rows, **numbers, "error_at_10x": far, "why_not": ""}


def refuse_far(budget: float | None, compute: float, *, far: bool) -> None:
    """Raise UsageError where a budget lies more than FAR times beyond the dearest run, 6 N D = 6 x compute."""
    if budget is not None and not (budget > 0 and math.isfinite(budget)):
        raise UsageError(f"--budget {budget:g}: must be a positive number of operations.")
    if budget is not None and budget > FAR * 6 * compute and not far:
        raise UsageError(
            f"--budget {budget:.3g} is {budget / (6 * compute):.3g} times the compute of the dearest run. A law's "
            f"error grows with that: give a budget up to {FAR * 6 * compute:.3g}, or --far to see it all the same."
        )


def _fit(
    form: Form, args: argparse.Namespace, n: Array, d: Array, loss: Array, groups: Sequence[object] | None
) -> LossLawFit | str:
    from hptransfer.prediction.laws.scaling_fit import fit_loss_law

    options = {"resamples": 100, "groups": groups, "tie": args.tie and form != "kaplan", "undertuned": args.undertuned}
    try:
        return fit_loss_law(n, d, loss, form=form, starts=20, **options)
    except UsageError as error:
        return str(error)


def _rows(fits: dict[Form, LossLawFit | str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for form, fit in fits.items():
        if isinstance(fit, str):
            rows.append((form, "", "", "", "", fit))
            continue
        ranges = (_ranged(fit, name) for name in ("E", "a", "b"))
        far = f"{100 * fit.backtest.reach(10.0):.2g}%" if fit.backtest else "unknown: too few runs"
        rows.append((form, f"{fit.objective / fit.rows:.3g}", *ranges, far))
    return rows


def _ranged(fit: LossLawFit, name: str) -> str:
    low, high = fit.interval(name)
    return f"{getattr(fit.law, name):.4g} ({low:.3g} to {high:.3g})"


def _line(args: argparse.Namespace, n: Array, d: Array, loss: Array, groups: Sequence[object] | None) -> int:
    """Runs on one line: what the line tells, and that no split can be told."""
    import numpy as np

    from hptransfer.prediction.scaling.line import fit_loss_line

    line: LossLine = fit_loss_line(n, d, loss, groups=groups)
    ratio = float(np.exp(np.median(np.log(d / n))))
    told = f"N and D vary only together (D/N about {ratio:.3g}): the loss along that line alone can be told."
    at = (args.budget or FAR * 6 * float((n * d).max())) / 6
    params = float(np.exp((np.log(at) - line.offset) / (1 + line.slope)))
    loss_there = line.predict(params, at / params)
    record = {"params": params, "tokens": at / params, "loss": loss_there.value}
    record |= {"loss_low": loss_there.low, "loss_high": loss_there.high}
    cells = [tuple(record), tuple(f"{value:.4g}" if value is not None else "" for value in record.values())]
    line_forms = Forms(
        text=f"{told}\n{loss_there}",
        data=lambda: {"line": encode(line)},
        records=[record],
        cells=cells,
        notes=[told],
    )
    show_as(args.format, line_forms)
    if args.budget and args.format == "table":
        line.optimal(args.budget)
    return 0
