"""Search the learning rate of small proxies with Optuna; a search that was stopped goes on from there."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, get_args

from hptransfer.cli.arguments import add_grid, add_json, add_recipe, add_workers, given, lrs, recipe_of
from hptransfer.cli.exits import DONE, FAILED
from hptransfer.cli.output import show
from hptransfer.cli.results.next_step import after_proxies
from hptransfer.core.files import json_text
from hptransfer.validation.choices import DEFAULT_STORAGE, Pruning

if TYPE_CHECKING:
    from hptransfer.validation.search.study import StudyResult


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_grid(parser)
    parser.add_argument("--lrs", type=lrs, metavar="LOW,HIGH", help="the range to search; default: from the recipe's")
    parser.add_argument("--trials", type=int, metavar="N", help="in all, per scheme and width; default: 20")
    parser.add_argument("--schemes", default="mup", help="comma list; default: mup")
    parser.add_argument("--storage", metavar="URL", default=DEFAULT_STORAGE, help=f"default: {DEFAULT_STORAGE}")
    parser.add_argument("--name", help="prefix of the studies' names; default: recipe and fingerprint")
    parser.add_argument("--pruning", choices=get_args(Pruning), help="what to stop early; default: diverged")
    add_workers(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from hptransfer.validation.search.study import study

    found = study(
        recipe_of(args),
        schemes=tuple(args.schemes.split(",")),
        storage=args.storage,
        name=args.name,
        device=args.device,
        **given(
            widths=args.widths,
            lrs=args.lrs,
            seeds=args.seeds,
            steps=args.steps,
            trials=args.trials,
            pruning=args.pruning,
            workers=args.workers,
        ),
    )
    show(json_text(found.to_json()) if args.json else f"{table(found)}\n\n{after_proxies(args)}")
    return FAILED if found.missing else DONE


def table(found: StudyResult) -> str:
    """The best learning rate per scheme and width, and how many trials it took."""
    from hptransfer.validation.records.tally import Tally

    lines = [f"{'scheme':<9} {'width':>5}  {'best learning rate':<22} loss"]
    for best in found.best:
        rate = f"2^{math.log2(best.lr):.2f} = {best.lr:.4g}"
        lines.append(f"{best.scheme:<9} {best.width or '-':>5}  {rate:<22} {best.loss:.4f}")
    for scheme, width in found.missing:
        lines.append(f"{scheme:<9} {width or '-':>5}  none: no trial was completed")
    counts = f"{found.complete} complete, {found.diverged} diverged, {found.pruned} pruned, {found.failed} failed"
    if found.failed:
        counts += f"; {Tally.of(found.runs).failures}"
    return "\n".join([*lines, "", f"{found.name}: {counts}; stored in {found.storage}"])
