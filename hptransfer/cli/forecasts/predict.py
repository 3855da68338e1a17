"""Derive the target run's learning rate, decay, betas and schedule before it runs, with intervals and sources."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hptransfer.cli.arguments import add_format, add_lrs, add_recipe, command_line, given, output_directory, recipe_of
from hptransfer.cli.arguments import seeds as seeds_of
from hptransfer.cli.forecasts.target import scale_in, target
from hptransfer.cli.results.forecast_forms import forecast_forms
from hptransfer.cli.results.formats import show_as
from hptransfer.cli.results.next_step import after_forecast
from hptransfer.core.errors import UsageError
from hptransfer.core.files import write_whole
from hptransfer.validation.choices import StartName

if TYPE_CHECKING:
    from hptransfer.core.training.recipe import Recipe
    from hptransfer.core.training.scale import Scale
    from hptransfer.prediction.forecast.forecast import Rules
    from hptransfer.prediction.schedules.schedule import Schedule
    from hptransfer.validation.forecasts.quarter import QuarterStart

FORECAST_FILE = "prediction.json"


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
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    if args.target is None:
        raise UsageError("--target is needed: the scale to predict for, as --target width=8192,depth=80,tokens=15T.")
    from hptransfer.prediction.forecast.forecast import Rules
    from hptransfer.reporting.forecast_page import PAGE_FILE, write_forecast_page
    from hptransfer.validation.forecasts.ledger import enter
    from hptransfer.validation.forecasts.predict import predict
    from hptransfer.validation.forecasts.shifts import read_pairs, shift_from
    from hptransfer.validation.records.results import TransferResult

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
    show_as(args.format, forecast_forms(made), then=after_forecast(made, args, out / FORECAST_FILE))
    print(f"Wrote {out / FORECAST_FILE} (forecast {entry.key}), {page}", file=sys.stderr)
    return 0 if made.conclusive else 1


def _keep(start: QuarterStart, recipe: Recipe, out: Path, source: str) -> None:
    """Keep what the start says of the shift, for the next one, and say so."""
    from hptransfer.validation.forecasts.shifts import SHIFTS_FILE, keep_pair

    pair = keep_pair(out, recipe.name, recipe.steps, start)
    print(f"{source} This start says {pair.shift:+.2f}; {out / SHIFTS_FILE} keeps it.", file=sys.stderr)


def _trusted(rules: Rules, out: Path) -> Rules:
    """The rules; where all is left to the defaults, without a joint rule that this directory's ledger has missing."""
    from hptransfer.validation.forecasts.ledger import read_ledger, standings

    lost = [standing.law for standing in standings(read_ledger(out)) if standing.lost and "joint rule" in standing.law]
    if not lost or (rules.batch, rules.duration) != ("auto", "auto"):
        return rules
    print(f"The ledger in {out}: {lost[0]} keeps missing, so the rate is kept over batch and tokens.", file=sys.stderr)
    return dataclasses.replace(rules, batch="constant", duration="none")


def _schedule(name: str | None, recipe: Recipe, target: Scale) -> Schedule:
    from hptransfer.prediction.forecast.forecast import schedule_of
    from hptransfer.prediction.schedules.schedule import make_schedule
    from hptransfer.validation.forecasts.predict import target_steps

    steps = target_steps(recipe, target)
    return schedule_of(recipe.schedule, steps) if name is None else make_schedule(name, steps)


def _write_schedule(path: Path, schedule: Schedule, lr: float) -> None:
    from hptransfer.prediction.schedules.schedule_export import as_torch_code, write_csv

    if path.suffix == ".py":
        write_whole(path, as_torch_code(schedule))
    else:
        write_csv(schedule, path, lr=lr)
