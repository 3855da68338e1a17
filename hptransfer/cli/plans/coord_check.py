"""Train every width for a few steps and judge whether activations and their changes keep their size."""

from __future__ import annotations

import argparse

from hptransfer.cli.arguments import (
    add_grid,
    add_json,
    add_recipe,
    given,
    output_directory,
    present,
    recipe_of,
    seed_count,
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_grid(parser, steps_help="optimizer steps; default: 3")
    parser.add_argument("--lr", type=float, help="learning rate; default: the middle of the recipe's")
    parser.add_argument("--scheme", default="mup", help="mup (default), sp, ntk, ...")
    parser.add_argument("--out", metavar="DIR", help="where coord.json goes; default: hptransfer-out/<recipe>")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from hptransfer.checks.coord.check import coord_check
    from hptransfer.validation.grid import checked_device

    recipe = recipe_of(args)
    out = output_directory(args, recipe)
    report = coord_check(
        recipe,
        widths=args.widths or recipe.widths,
        scheme=args.scheme,
        device=checked_device(args.device),
        **given(seeds=seed_count(args), steps=args.steps, lr=args.lr),
    )
    return present(report, out / "coord.json", args)
