"""Sweep the learning rate at every width or depth, find each optimum, and judge whether the smallest's transfers."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hptransfer.cli.arguments import (
    add_depths,
    add_format,
    add_grid,
    add_lrs,
    add_recipe,
    command_line,
    given,
    grid_options,
    names,
    output_directory,
    recipe_of,
    refuse_two_axes,
    widths,
)
from hptransfer.cli.checks.settings import run_settings, write_all
from hptransfer.cli.exits import OF_VERDICT
from hptransfer.cli.output import show
from hptransfer.cli.results.formats import show_as
from hptransfer.cli.results.next_step import after_check
from hptransfer.cli.results.verdict_forms import verdict_forms
from hptransfer.core.errors import UsageError
from hptransfer.validation.choices import SamplerName

if TYPE_CHECKING:
    from hptransfer.checks.coord.report import CoordReport
    from hptransfer.core.training.recipe import Recipe
    from hptransfer.prediction.forecast.forecast import Forecast
    from hptransfer.validation.records.results import TransferResult


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_grid(parser)
    add_depths(parser)
    parser.add_argument("--batches", type=widths, metavar="B,B,...", help="vary the batch, at the base's tokens")
    parser.add_argument("--tokens", type=widths, metavar="T,T,...", help="vary the tokens (length of a run)")
    parser.add_argument("--experts", type=widths, metavar="E,E,...", help="vary the experts of a mixture")
    parser.add_argument("--active", type=widths, metavar="K,K,...", help="vary how many of them a token meets")
    parser.add_argument("--expert-widths", type=widths, metavar="W,W,...", help="vary the hidden width of an expert")
    add_lrs(parser)
    parser.add_argument("--tolerance", type=float, default=0.5, help="allowed drift in octaves; default: 0.5")
    parser.add_argument(
        "--extend", type=float, default=4.0, metavar="OCTAVES", help="grow a grid that ends at its best; default: 4"
    )
    parser.add_argument(
        "--sampler",
        choices=get_args(SamplerName),
        default="zoom",
        help="how rates are chosen; default: zoom, see below",
    )
    parser.add_argument(
        "--precision", type=float, metavar="OCTAVES", help="stop adding seeds once the drift is known so well"
    )
    parser.add_argument(
        "--run-timeout", type=float, metavar="SECONDS", help="a run that takes longer is killed and counts as failed"
    )
    parser.add_argument(
        "--print-sbatch",
        type=int,
        metavar="N",
        help="train nothing: print a Slurm script whose N tasks join this check",
    )
    parser.add_argument("--tuned", metavar="FILE", help="tuned.json of `hptransfer tune`, which all runs train with")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME",
        help="sweep this one of the tuned settings in place of the rate, as weight_decay; may be repeated",
    )
    parser.add_argument("--no-coord", action="store_true", help="leave out the coordinate check")
    parser.add_argument("--scheme", help="the scheme to check, against SP; default: mup, over depths completep")
    parser.add_argument(
        "--readout-init",
        choices=("own", "zero", "fan-in"),
        default="own",
        help="where the readout starts: by the scheme (own), at zero, or at n^-1/2 with the same rates",
    )
    parser.add_argument(
        "--also",
        type=names,
        default=(),
        metavar="SCHEME,...",
        help="run and report these beside, as sp-embedding: SP with the embedding's rate as muP has it",
    )
    parser.add_argument("--storage", metavar="URL", help="Optuna storage, as sqlite:///study.db; default: in DIR")
    parser.add_argument("--against", metavar="FILE", help="score this prediction.json, made before the sweep")
    parser.add_argument("--out", metavar="DIR", help="where the results go; default: hptransfer-out/<recipe>")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    refuse_two_axes(args)
    recipe = recipe_of(args)
    if args.print_sbatch is not None:
        from hptransfer.validation.queue.slurm import sbatch_script

        show(sbatch_script(args.recipe, args.print_sbatch, storage=args.storage, device=args.device))
        return 0
    made = _forecast(args, recipe)  # before anything is trained
    if args.setting:
        return run_settings(args, recipe, _checked)
    out = output_directory(args, recipe)
    result = _checked(args, recipe, out)
    written = write_all(result, out)
    show_as(args.format, verdict_forms(result), then=after_check(result, args, out))
    if made is not None:
        written.append(_score(made, result, out, aside=args.format != "table"))
    print("Wrote " + ", ".join(map(str, written)), file=sys.stderr)
    return OF_VERDICT[result.verdict]


def _score(made: Forecast, result: TransferResult, out: Path, *, aside: bool) -> Path:
    """Score the forecast by what the check gave, print that and write its page; aside: on stderr."""
    from hptransfer.reporting.forecast_page import PAGE_FILE, write_forecast_page
    from hptransfer.validation.forecasts.against import record_score, score_forecast

    score = score_forecast(made, result)
    scored = record_score(score, out)
    print(scored, file=sys.stderr) if aside else show(scored)
    return write_forecast_page(made, out / PAGE_FILE, score)


def _forecast(args: argparse.Namespace, recipe: Recipe) -> Forecast | None:
    """The forecast to score. Raises UsageError where this check would not train what it is for."""
    if not args.against:
        return None
    mixture = args.experts or args.active or args.expert_widths
    if args.depths or args.batches or args.tokens or mixture or args.tuned or args.setting:
        left_out = "--depths, --batches, --tokens, --tuned, --setting and a mixture's axes"
        raise UsageError(f"--against scores a check over widths; leave out {left_out}.")
    from hptransfer.prediction.forecast.forecast import Forecast
    from hptransfer.validation.forecasts.against import refuse_other_run

    made = Forecast.load(args.against)
    refuse_other_run(made, recipe=recipe.name, steps=args.steps or recipe.steps, widths=args.widths or recipe.widths)
    return made


def _checked(args: argparse.Namespace, recipe: Recipe, out: Path, setting: str | None = None) -> TransferResult:
    """The transfer check, and over three widths or more, where nothing was tuned, the coordinate check beside it."""
    from hptransfer.parametrization.options import Options
    from hptransfer.validation.transfer import transfer_check

    result = transfer_check(
        recipe,
        tolerance=args.tolerance,
        extend=args.extend,
        device=args.device,
        out=out,
        command=command_line(args),
        **grid_options(args),
        sampler=args.sampler,
        also=args.also,
        plan_options=None if args.readout_init == "own" else {"options": Options(readout_init=args.readout_init)},
        **given(scheme=args.scheme, storage=args.storage, precision=args.precision, timeout=args.run_timeout),
        **given(tuned=args.tuned, setting=setting),
    )
    if not args.no_coord and not result.tuned and result.axis == "width" and len(result.sizes) >= 3:
        return dataclasses.replace(result, coord=_coordinates(recipe, result, args.device).to_json())
    return result


def _coordinates(recipe: Recipe, result: TransferResult, device: str) -> CoordReport:
    """The coordinate check at the same widths, at the learning rate that was found best at the smallest."""
    from hptransfer.checks.coord.check import coord_check
    from hptransfer.validation.grid import checked_device

    best = result.optimum(result.scheme, min(result.sizes)).log2_lr
    lr = 2.0**best if math.isfinite(best) else None
    return coord_check(recipe, widths=result.sizes, scheme=result.scheme, lr=lr, device=checked_device(device))
