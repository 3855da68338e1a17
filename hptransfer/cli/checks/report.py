"""Render report.html again from the files of an earlier check; nothing is trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from hptransfer.cli.arguments import no_more
from hptransfer.cli.output import show


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="what `check --out` wrote")
    parser.add_argument("--out", metavar="FILE", help="default: DIR/report.html")
    parser.add_argument("--figure", metavar="FILE.svg", help="write the loss curves as a picture of their own, too")


def run(args: argparse.Namespace) -> int:
    no_more(args)
    from hptransfer.reporting.report.html import write_figure, write_report
    from hptransfer.validation.records.results import TransferResult

    result = TransferResult.load(args.directory)
    show(write_report(result, args.out or Path(args.directory) / "report.html"))
    if args.figure:
        show(write_figure(result, args.figure))
    return 0
