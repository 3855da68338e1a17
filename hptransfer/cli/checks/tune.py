"""Tune the learning rate, then weight decay, initial scale and factors of modules, at the base or at another size."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import (
    add_device,
    add_json,
    add_lrs,
    add_recipe,
    command_line,
    given,
    names,
    output_directory,
    recipe_of,
    seeds,
)
from hptransfer.cli.output import show
from hptransfer.cli.results.next_step import after_tune
from hptransfer.core.files import json_text

if TYPE_CHECKING:
    from hptransfer.validation.settings.tuned import TunedSettings


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--settings",
        type=names,
        default=(),
        metavar="NAME,...",
        help="beside the rate: weight_decay, init, or of some parameters, as lr:embed*,init:head; default: none",
    )
    parser.add_argument("--scheme", default="mup", help="default: mup, which at the base changes nothing")
    parser.add_argument("--width", type=int, metavar="W", help="where to tune; default: the base")
    parser.add_argument("--seeds", type=seeds, metavar="N", help="how many, or a list; default: the recipe's")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps of one run; default: the recipe's")
    add_lrs(parser)
    parser.add_argument(
        "--extend", type=float, default=4.0, metavar="OCTAVES", help="how far a search may leave its range; default: 4"
    )
    parser.add_argument(
        "--run-timeout", type=float, metavar="SECONDS", help="a run that takes longer is killed and counts as failed"
    )
    parser.add_argument("--storage", metavar="URL", help="Optuna storage, as sqlite:///study.db; default: in DIR")
    parser.add_argument("--out", metavar="DIR", help="where tuned.json goes; default: hptransfer-out/<recipe>")
    add_device(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    recipe = recipe_of(args)
    out = output_directory(args, recipe)
    from hptransfer.reporting.tuned_words import tuned_table
    from hptransfer.validation.settings.search import tune
    from hptransfer.validation.settings.tuned import TUNED_FILE

    tuned: TunedSettings = tune(
        recipe,
        args.settings,
        scheme=args.scheme,
        device=args.device,
        extend=args.extend,
        out=out,
        command=command_line(args),
        **given(
            **{name: getattr(args, name) for name in ("width", "lrs", "seeds", "steps", "workers", "storage")},
            timeout=args.run_timeout,
        ),
    )
    path = out / TUNED_FILE
    show(json_text(tuned.to_json()) if args.json else f"{tuned_table(tuned)}\n\n{after_tune(tuned, args, path)}")
    print(f"Wrote {path}", file=sys.stderr)
    return 0
