"""Derive the target run's learning rate, decay, betas and schedule before it runs, with intervals and sources.

`predict RECIPE --target ...` forecasts; `predict score TABLE.csv` scores published laws on a table of runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import get_args

from hptransfer.cli.arguments import add_json, add_lrs, add_recipe, command_line, given, output_directory, recipe_of
from hptransfer.cli.arguments import seeds as seeds_of
from hptransfer.cli.forecasts import score
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import json_text, write_whole
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.core.training.units import UNITS, converted
from hptransfer.prediction.forecast.forecast import Rules, schedule_of
from hptransfer.prediction.schedules.schedule import Schedule, make_schedule
from hptransfer.prediction.schedules.schedule_export import as_torch_code, write_csv
from hptransfer.reporting.forecast_page import PAGE_FILE, write_forecast_page
from hptransfer.validation.forecasts.ledger import enter, read_ledger, standings
from hptransfer.validation.forecasts.predict import StartName, predict, target_steps
from hptransfer.validation.forecasts.quarter import QuarterStart
from hptransfer.validation.forecasts.shifts import SHIFTS_FILE, keep_pair, read_pairs, shift_from
from hptransfer.validation.records.results import TransferResult

HELP = "derive a target run's values before it runs"
FORECAST_FILE = "prediction.json"
_UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--target",
        type=target,
        metavar="AXIS=N,...",
        help="width=8192,depth=80,batch=4M,tokens=15T, in the recipe's unit; or with one: batch=4Mtokens, batch=512seq",
    )
    parser.add_argument("--from", dest="checked", metavar="DIR", help="use the optimum of a check that wrote DIR")
    parser.add_argument("--lr", type=float, help="take this rate at the base as given, without a sweep")
    parser.add_argument(
        "--start",
        choices=get_args(StartName),
        default="auto",
        help="where the base's rate comes from: all rates for a quarter of the run and the best to the end (default "
        "where that is 50 steps or more), a sweep, or --lr",
    )
    parser.add_argument("--scheme", default="completep", help="carries width and depth; default: completep")
    parser.add_argument(
        "--batch-rule", default="auto", help="how the rate follows the batch: auto (default), joint, sqrt, power:E, ..."
    )
    parser.add_argument("--decay-rule", default="timescale", help="how weight decay follows; default: timescale")
    parser.add_argument(
        "--duration-rule", default="auto", help="how it follows the tokens: joint (default), none, bound, power:E"
    )
    parser.add_argument("--no-diagnostics", action="store_true", help="do not measure the base's stability limit")
    parser.add_argument("--noise", action="store_true", help="measure the gradient noise scale at the base")
    parser.add_argument(
        "--schedule", help="the target's: constant, cosine, linear, wsd, ...; default: the recipe's shape"
    )
    parser.add_argument("--schedule-out", metavar="FILE", help="write the schedule: FILE.csv, or FILE.py as torch code")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--seeds", type=seeds_of, metavar="N", help="seeds of the sweep at the base; default: the recipe's"
    )
    parser.add_argument("--out", metavar="DIR", help=f"where {FORECAST_FILE} goes; default: hptransfer-out/<recipe>")
    add_lrs(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.recipe == "score":
        return score.run([*args.rest, *(["--json"] if args.json else [])])
    if args.target is None:
        raise UsageError("--target is needed: the scale to predict for, as --target width=8192,depth=80,tokens=15T.")
    recipe = recipe_of(args)
    out = output_directory(args, recipe)
    target = scale_in(args.target, recipe)
    checked = TransferResult.load(args.checked) if args.checked else None
    if checked is not None:
        recipe = recipe.replace(steps=checked.steps)
    schedule = _schedule(args.schedule, recipe, target)
    rules = _trusted(Rules(args.scheme, args.batch_rule, args.decay_rule, duration=args.duration_rule), out)
    shift, source = shift_from(read_pairs(out, recipe.name))
    made = predict(
        recipe,
        target=target,
        checked=checked,
        lr=args.lr,
        start=args.start,
        shift=shift,
        rules=rules,
        target_schedule=schedule,
        measure_noise=args.noise,
        device=args.device,
        diagnostics=not args.no_diagnostics,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
        started=lambda start: _keep(start, recipe, out, source),
        **given(lrs=args.lrs, seeds=args.seeds, workers=args.workers),
    )
    made = dataclasses.replace(made, command=command_line(args))
    made.save(out / FORECAST_FILE)
    entry = enter(made, out)
    page = write_forecast_page(made, out / PAGE_FILE)
    if args.schedule_out:
        _write_schedule(Path(args.schedule_out), schedule, made.advised_lr)
    show(json_text(made.to_json()) if args.json else made)
    told = f"Forecast {entry.key}: {out / FORECAST_FILE} and {page}; `hptransfer check ... --against` scores it."
    print(told, file=sys.stderr)
    return 0 if made.conclusive else 1


Target = dict[str, tuple[float, str | None]]
"""Axis -> its number and the unit written behind it, if any."""
_ENDS = set("0123456789.kKMBGT")
"""What a number ends in, before its unit."""


def target(text: str) -> Target:
    """ "width=8192,batch=4Mtokens" -> its numbers, with the units that were written."""
    found: Target = {}
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis not in {"width", "depth", "batch", "tokens"}:
            raise argparse.ArgumentTypeError(f"{part!r}: write width=, depth=, batch= or tokens= and a number")
        found[axis] = _number_and_unit(number, units=axis in {"batch", "tokens"})
        if axis in {"width", "depth"} and not found[axis][0].is_integer():
            raise argparse.ArgumentTypeError(f"{part!r}: {axis} must be a whole number")
    _scale({axis: value for axis, (value, _) in found.items()})
    return found


def _number_and_unit(text: str, *, units: bool) -> tuple[float, str | None]:
    for unit, words in UNITS.items() if units else ():
        for word in words:
            if text.lower().endswith(word) and text[: -len(word)].strip()[-1:] in _ENDS:
                return _number(text[: -len(word)].strip()), unit
    return _number(text), None


def scale_in(asked: Target, recipe: Recipe) -> Scale:
    """The target in the recipe's unit. Raises UsageError where it cannot be converted."""
    found = {
        axis: converted(number, unit or recipe.unit, recipe.unit, recipe.tokens_per_example)
        for axis, (number, unit) in asked.items()
    }
    return _scale(found)


def scale(text: str) -> Scale:
    """ "width=8192,tokens=15T" -> Scale, units left aside."""
    return _scale({axis: number for axis, (number, _) in target(text).items()})


def _scale(found: dict[str, float]) -> Scale:
    whole = {axis: int(value) for axis, value in found.items() if axis in {"width", "depth"}}
    try:
        return Scale(**(found | whole))  # pyright: ignore[reportArgumentType]
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _number(text: str) -> float:
    factor = _UNITS.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if text[-1:] in _UNITS else text) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 4096, 4M or 15T") from None


def _keep(start: QuarterStart, recipe: Recipe, out: Path, source: str) -> None:
    """Keep what the start says of the shift, for the next one, and say so."""
    pair = keep_pair(out, recipe.name, recipe.steps, start)
    print(f"{source} This start says {pair.shift:+.2f}; {out / SHIFTS_FILE} keeps it.", file=sys.stderr)


def _trusted(rules: Rules, out: Path) -> Rules:
    """The rules; where all is left to the defaults, without a joint rule that this directory's ledger has missing."""
    lost = [standing.law for standing in standings(read_ledger(out)) if standing.lost and "joint rule" in standing.law]
    if not lost or (rules.batch, rules.duration) != ("auto", "auto"):
        return rules
    print(f"The ledger in {out}: {lost[0]} keeps missing, so the rate is kept over batch and tokens.", file=sys.stderr)
    return dataclasses.replace(rules, batch="constant", duration="none")


def _schedule(name: str | None, recipe: Recipe, target: Scale) -> Schedule:
    steps = target_steps(recipe, target)
    return schedule_of(recipe.schedule, steps) if name is None else make_schedule(name, steps)


def _write_schedule(path: Path, schedule: Schedule, lr: float) -> None:
    if path.suffix == ".py":
        write_whole(path, as_torch_code(schedule))
    else:
        write_csv(schedule, path, lr=lr)
