"""Judge whether the learning rate transfers from a table of runs that any trainer made; nothing is trained."""

# pyright: strict
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hptransfer.cli.arguments import add_json, command_line, names, no_more, output_folder, pairs
from hptransfer.cli.exits import OF_VERDICT
from hptransfer.cli.output import show
from hptransfer.core.files import json_text
from hptransfer.reporting.html import write_report
from hptransfer.reporting.words import table
from hptransfer.validation.records.results import VERDICT_FILE
from hptransfer.validation.records.runs import RUNS_FILE
from hptransfer.validation.tables.columns import AXES, OURS
from hptransfer.validation.tables.judge import judge_table

HELP = "the verdict of a check on a table of finished runs (CSV, W&B, Optuna)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="RUNS.csv", help="a run a row: CSV, TSV, JSON; W&B's and Optuna's exports")
    parser.add_argument(
        "--columns",
        type=pairs,
        default={},
        metavar="OURS=THEIRS,...",
        help=f"where the names differ, as size=width,loss=final; ours are {', '.join(OURS)}",
    )
    parser.add_argument("--axis", choices=AXES, help="what the size is; default: by its column's name")
    parser.add_argument("--scheme", help="the value of the scheme column to check; default: the one that is no control")
    parser.add_argument("--against", help="the value that is the control; default: sp")
    parser.add_argument("--where", type=pairs, default={}, metavar="COLUMN=VALUE,...", help="take these rows only")
    parser.add_argument("--ignore", type=names, default=(), metavar="COLUMN,...", help="columns that are no settings")
    parser.add_argument("--base", type=int, metavar="N", help="compare losses from this size on; default: at all sizes")
    parser.add_argument("--tolerance", type=float, default=0.5, help="allowed drift in octaves; default: 0.5")
    parser.add_argument("--out", metavar="DIR", help="where the results go; default: hptransfer-out/<table>")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    result = judge_table(
        args.table,
        columns=args.columns,
        axis=args.axis,
        scheme=args.scheme,
        against=args.against,
        where=args.where,
        ignore=args.ignore,
        base=args.base,
        tolerance=args.tolerance,
        command=command_line(args),
    )
    out = output_folder(args.out, Path(args.table).stem)
    result.save(out)
    page = write_report(result, out / "report.html")
    show(json_text(result.without_runs()) if args.json else table(result))
    print(f"Wrote {out / VERDICT_FILE}, {out / RUNS_FILE}, {page}", file=sys.stderr)
    return OF_VERDICT[result.verdict]
