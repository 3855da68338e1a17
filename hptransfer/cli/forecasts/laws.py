"""Fit Kaplan's and Chinchilla's loss laws to your own runs, and split a budget by them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from hptransfer.cli.arguments import add_json, no_more, pairs
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import columns, encode, json_text
from hptransfer.prediction.scaling.fit import LossLawFit, fit_loss_law
from hptransfer.prediction.scaling.law import FREE, Form
from hptransfer.prediction.scaling.line import LossLine, fit_loss_line
from hptransfer.prediction.scaling.problem import APART, off_line
from hptransfer.prediction.table import Array, read_columns

HELP = "fit loss laws to your own runs"
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
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
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
    if args.json:
        show(json_text({form: fit if isinstance(fit, str) else encode(fit) for form, fit in fits.items()}))
        return 0
    show("\n".join(columns([("law", "misfit", "E", "a", "b", "form's error at 10x"), *_rows(fits)])))
    for form, fit in fits.items():
        if args.budget and not isinstance(fit, str):
            best = (f"  {p}" for p in fit.optimal(args.budget))
            show("\n".join([f"\n{args.budget:.3g} operations by {form}:", *best]))
    return 0


def refuse_far(budget: float | None, compute: float, *, far: bool) -> None:
    """Raise UsageError where a budget lies more than FAR times beyond the dearest run, 6 N D = 6 x compute."""
    if budget is not None and not (budget > 0 and np.isfinite(budget)):
        raise UsageError(f"--budget {budget:g}: must be a positive number of operations.")
    if budget is not None and budget > FAR * 6 * compute and not far:
        raise UsageError(
            f"--budget {budget:.3g} is {budget / (6 * compute):.3g} times the compute of the dearest run. A law's "
            f"error grows with that: give a budget up to {FAR * 6 * compute:.3g}, or --far to see it all the same."
        )


def _fit(
    form: Form, args: argparse.Namespace, n: Array, d: Array, loss: Array, groups: Sequence[object] | None
) -> LossLawFit | str:
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
    line: LossLine = fit_loss_line(n, d, loss, groups=groups)
    if args.json:
        show(json_text({"line": encode(line)}))
        return 0
    ratio = float(np.exp(np.median(np.log(d / n))))
    show(f"N and D vary only together (D/N about {ratio:.3g}): the loss along that line alone can be told.")
    at = (args.budget or FAR * 6 * float((n * d).max())) / 6
    params = float(np.exp((np.log(at) - line.offset) / (1 + line.slope)))
    show(line.predict(params, at / params))
    if args.budget:
        line.optimal(args.budget)
    return 0
