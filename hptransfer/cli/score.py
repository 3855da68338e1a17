"""Score the published learning-rate laws on a user's own table of runs, by regret and against the best constant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hptransfer.cli.arguments import Parser
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import encode, json_text
from hptransfer.prediction.laws.lr_fit import fit_sweep
from hptransfer.prediction.laws.score import score_lr_laws
from hptransfer.prediction.laws.sweep_table import SweepTable, read_table


def run(arguments: Sequence[str]) -> int:
    """`hptransfer predict score TABLE.csv [--columns loss=val_loss,...] [--drop-diverged] [--json]`."""
    parser = Parser(prog="hptransfer predict score", description=__doc__, allow_abbrev=False)
    parser.add_argument("table", metavar="TABLE.csv", help="a run a row: lr, loss, and params, tokens or batch")
    parser.add_argument("--columns", type=columns, default={}, metavar="OURS=THEIRS,...", help="where names differ")
    parser.add_argument("--drop-diverged", action="store_true", help="leave out rows whose loss is nan or inf")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(list(arguments))
    table = read_table(args.table, columns=args.columns, diverged="drop" if args.drop_diverged else "error")
    board = score_lr_laws(table)
    show(json_text(encode(board)) if args.json else board)
    if not args.json:
        show(f"Own fit: {_own_fit(table)}")
    return 0


def _own_fit(table: SweepTable) -> str:
    """The fit of this table's own optima in words, or why there is none."""
    try:
        return str(fit_sweep(table))
    except UsageError as error:
        return f"none. {error}"


def columns(text: str) -> dict[str, str]:
    """ "loss=val_loss,params=N" -> {"loss": "val_loss", "params": "N"}."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(middle and ours and theirs for ours, middle, theirs in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: write OURS=THEIRS,..., as loss=val_loss,params=N")
    return {ours: theirs for ours, _, theirs in pairs}
