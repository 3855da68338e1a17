"""Judge whether the learning rate transfers from a table of runs that any trainer made; nothing is trained."""

# pyright: strict
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hptransfer.cli.arguments import add_format, command_line, names, no_more, output_folder, pairs
from hptransfer.cli.exits import OF_VERDICT
from hptransfer.cli.results.formats import show_as
from hptransfer.cli.results.next_step import after_judge
from hptransfer.cli.results.verdict_forms import verdict_forms
from hptransfer.validation.tables.columns import AXES, OURS


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
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    from hptransfer.reporting.report.html import write_report
    from hptransfer.validation.records.results import VERDICT_FILE
    from hptransfer.validation.records.runs import RUNS_FILE
    from hptransfer.validation.tables.judge import judge_table

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
    show_as(args.format, verdict_forms(result), then=after_judge(result, page))
    print(f"Wrote {out / VERDICT_FILE}, {out / RUNS_FILE}, {page}", file=sys.stderr)
    return OF_VERDICT[result.verdict]
