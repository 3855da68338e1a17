"""Help to finish the checks and studies of a recipe that other processes have started in a shared storage."""

from __future__ import annotations

import argparse

from hptransfer.cli.arguments import add_device, add_recipe, given, recipe_of
from hptransfer.cli.output import show


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--storage", metavar="URL", required=True, help="the storage of the check or study, or its DIR")
    parser.add_argument("--name", help="only the study of that name")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="wait so long for more trials; default: 30")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many tasks, as a Slurm task should")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    from hptransfer.validation.worker import work

    done = work(
        recipe_of(args),
        storage=args.storage,
        name=args.name,
        device=args.device,
        **given(patience=args.patience, limit=args.count),
    )
    show(f"{done} trial{'s' if done != 1 else ''}")
    return 0
