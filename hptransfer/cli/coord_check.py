"""Train every width for a few steps and judge whether activations and their changes keep their size."""

from __future__ import annotations

import argparse
import json
import sys

from hptransfer.cli.arguments import add_grid, add_json, add_recipe, given, output_directory, recipe_of, seed_count
from hptransfer.parametrization.coord import coord_check
from hptransfer.validation.grid import checked_device

HELP = "do activations and updates keep their size over width?"


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_grid(parser, steps_help="optimizer steps; default: 3")
    parser.add_argument("--lr", type=float, help="learning rate; default: the middle of the recipe's")
    parser.add_argument("--scheme", default="mup", help="mup (default), sp, ntk, ...")
    parser.add_argument("--out", metavar="DIR", help="where coord.json goes; default: hptransfer-out/<recipe>")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    recipe = recipe_of(args)
    out = output_directory(args, recipe)
    report = coord_check(
        recipe,
        widths=args.widths or recipe.widths,
        scheme=args.scheme,
        device=checked_device(args.device),
        **given(seeds=seed_count(args), steps=args.steps, lr=args.lr),
    )
    report.save(out / "coord.json")
    print(json.dumps(report.to_json(), indent=1) if args.json else report)
    print(f"Wrote {out / 'coord.json'}", file=sys.stderr)
    return 0 if report.verdict == "PASS" else 1
