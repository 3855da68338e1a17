"""Train a recipe over schemes, widths or depths, learning rates and seeds, and print the loss of each."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import (
    add_depths,
    add_grid,
    add_json,
    add_lrs,
    add_recipe,
    grid_options,
    output_directory,
    recipe_of,
    refuse_two_axes,
)
from hptransfer.cli.output import show
from hptransfer.cli.results.next_step import after_proxies
from hptransfer.core.files import json_text

if TYPE_CHECKING:
    from hptransfer.core.training.scale import Axis
    from hptransfer.validation.records.runs import Run


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_grid(parser)
    add_depths(parser)
    add_lrs(parser)
    parser.add_argument("--schemes", default="mup,sp", help="comma list; default: mup,sp")
    parser.add_argument("--out", metavar="DIR", help="where runs.jsonl goes; default: hptransfer-out/<recipe>")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    refuse_two_axes(args)
    from hptransfer.validation.records.runs import RUNS_FILE
    from hptransfer.validation.sweep import run_sweep

    recipe = recipe_of(args)
    out = output_directory(args, recipe)
    runs = run_sweep(
        recipe,
        schemes=tuple(args.schemes.split(",")),
        device=args.device,
        out=out,
        **grid_options(args),
    )
    axis = "depth" if args.depths else "width"
    show(
        json_text([run.to_json() for run in runs])
        if args.json
        else f"{table(runs, axis=axis)}\n\n{after_proxies(args)}"
    )
    print(f"Runs: {out / RUNS_FILE}", file=sys.stderr)
    return 0


def table(runs: list[Run], *, axis: Axis = "width") -> str:
    """A line per (scheme, size): the mean validation loss over seeds per learning rate; "div" where one diverged."""
    from hptransfer.validation.records.tally import Tally

    rates = sorted({run.lr for run in runs})
    lines = ["  ".join([f"scheme    {axis}", *(f"{math.log2(lr):>7.4g}" for lr in rates), "  (log2 learning rate)"])]
    for scheme, size in dict.fromkeys((run.scheme, getattr(run, axis)) for run in runs):
        cells = []
        for lr in rates:
            at = [run for run in runs if (run.scheme, getattr(run, axis), run.lr) == (scheme, size, lr)]
            cells.append(f"{_cell(at):>7}")
        lines.append("  ".join([f"{scheme:<9} {size or '-':>5}", *cells]))
    return "\n".join([*lines, *([f"{tally}."] if (tally := str(Tally.of(runs))) else [])])


def _cell(runs: list[Run]) -> str:
    losses = [run.val_loss for run in runs]
    if any(run.state == "failed" for run in runs):
        return "failed"
    if any(run.state == "pruned" for run in runs):
        return "pruned"
    if any(not math.isfinite(loss) for loss in losses):
        return "div"
    return f"{sum(losses) / len(losses):.4f}" if losses else "-"
