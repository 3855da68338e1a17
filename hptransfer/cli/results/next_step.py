"""The last line of a result: the command to run next, ready to copy, and what it is for."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.core.secrets import masked_arguments

if TYPE_CHECKING:
    from hptransfer.parametrization.plan import Plan
    from hptransfer.prediction.forecast.forecast import Forecast
    from hptransfer.validation.records.results import TransferResult
    from hptransfer.validation.settings.tuned import TunedSettings

BIGGER = 8
"""How many times larger than the largest proxy the target of an example is."""


def next_step(*words: object, what_for: str) -> str:
    """ "Next: hptransfer WORDS   (what it is for)", quoted for a shell and without secrets."""
    return f"Next: {shlex.join(['hptransfer', *masked_arguments([str(w) for w in words])])}   ({what_for})"


def after_init(path: Path) -> str:
    return next_step("check", path, "--quick", what_for="does its learning rate transfer? A minute or two")


def after_plan(plan: Plan, args: argparse.Namespace) -> str:
    if plan.verification is not None and plan.verification.state == "failed":
        return next_step("plan", *_recipe(args), "--verify", what_for="every exponent, planned and measured")
    return next_step("check", *_recipe(args), what_for="does the learning rate transfer?")


def after_proxies(args: argparse.Namespace) -> str:
    """After a sweep or a study, which judge nothing."""
    return next_step("check", *_recipe(args), what_for="judge whether the learning rate transfers")


def after_tune(tuned: TunedSettings, args: argparse.Namespace, path: Path) -> str:
    """After tuning: does each tuned value stay the best at larger sizes?"""
    moved = [word for name in tuned.factors for word in ("--setting", name)]
    seeds = ["--seeds", ",".join(map(str, tuned.seeds))] if args.seeds is not None else []
    words = ("--tuned", path, *moved, *seeds)
    what = "does each setting stay the best at larger sizes?" if moved else "does the learning rate transfer?"
    return next_step("check", *_recipe(args), *words, what_for=what)


def after_numeric_check(verdict: str, args: argparse.Namespace) -> str:
    """After a coordinate or equilibrium check."""
    if verdict == "INCONCLUSIVE":
        return next_step(args.command, *_recipe(args), "--seeds", 8, what_for="more seeds narrow the intervals")
    if verdict == "FAIL":
        return next_step("plan", *_recipe(args), "--verify", what_for="every exponent, planned and measured")
    return next_step("check", *_recipe(args), what_for="does the learning rate transfer?")


def after_check(result: TransferResult, args: argparse.Namespace, out: Path) -> str:
    if result.verdict == "PASS":
        if result.tuned and args.tuned:
            sizes = {"width": ("--width",), "depth": ("--depth",)}.get(result.axis, ())
            place = [*sizes, BIGGER * max(result.sizes)] if sizes else []
            known = ["--scheme", result.scheme, "--tuned", args.tuned]
            return next_step("plan", *_recipe(args), *place, *known, what_for="the plan of a bigger run; put its size")
        target = f"{result.axis}={BIGGER * max(result.sizes)}"
        known = ["--from", out] if result.axis == "width" and result.base_size in result.sizes else []
        return next_step(
            "predict", *_recipe(args), *known, "--target", target, what_for="the values of a bigger run; put its size"
        )
    if result.verdict == "FAIL":
        return next_step("plan", *_recipe(args), "--verify", what_for=f"is it the plan? The curves: {out}/report.html")
    again = [word for word in args.given if word != "--json"]
    if result.tally.failed:
        return next_step(*again, what_for="once the error above is mended; the runs that are there are kept")
    seeds = 2 * len(result.seeds)
    return next_step(*_without(again, "--seeds"), "--seeds", seeds, what_for="more seeds; the runs there are kept")


def after_judge(result: TransferResult, page: Path) -> str:
    if result.verdict == "PASS":
        return f"Next: tune at {result.axis} {min(result.sizes)} alone and carry its rate over. The curves: {page}"
    if result.verdict == "FAIL":
        return f"Next: look at the curves in {page}; `hptransfer plan` tells how a model of yours should scale."
    return "Next: add the runs that the lines above ask for to the table, and run the same command again."


def after_forecast(forecast: Forecast, args: argparse.Namespace, path: Path) -> str:
    if not forecast.conclusive:
        told = "the noise scale, measured, narrows the factor for the batch"
        return "" if args.noise else next_step(*args.given, "--noise", what_for=told)
    sizes = [
        word
        for axis in ("width", "depth")
        for word in (f"--{axis}", getattr(forecast.target, axis))
        if getattr(forecast.target, axis) is not None
    ]
    scheme = ["--scheme", forecast.rules.scheme, "--save", path.with_name("plan.json")]
    what_for = f"then hpt.param_groups(model, plan, lr={float(forecast.advised_lr):.3g})"
    return next_step("plan", *_recipe(args), *sizes, *scheme, what_for=what_for)


def after_laws(args: argparse.Namespace, dearest: float) -> str:
    """dearest: operations of the dearest run."""
    if args.budget:
        return ""
    return next_step("fit", args.runs, "--budget", f"{4 * dearest:.1g}", what_for="parameters and tokens for a budget")


def _recipe(args: argparse.Namespace) -> list[str]:
    """The recipe with its own options, as they were given."""
    return [args.recipe, *args.rest, *(["--quick"] if getattr(args, "quick", False) else [])]


def _without(words: list[str], option: str) -> list[str]:
    """The words without an option and its value."""
    after = [False, *(word == option for word in words)]
    pairs = zip(words, after, strict=False)
    return [word for word, value in pairs if not value and word != option and not word.startswith(f"{option}=")]
