"""Score learning-rate laws, and this table's own, by regret against the best constant; once `predict score`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import add_json, no_more, pairs
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import encode, json_text

if TYPE_CHECKING:
    from hptransfer.prediction.laws.own_law import OwnLaw
    from hptransfer.prediction.laws.score import Scoreboard
    from hptransfer.prediction.laws.sweep_table import Diverged, SweepTable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE.csv", help="a run a row: lr, loss, and params, tokens or batch")
    parser.add_argument("--columns", type=pairs, default={}, metavar="OURS=THEIRS,...", help="where names differ")
    parser.add_argument("--where", type=pairs, default={}, metavar="COLUMN=VALUE,...", help="rows that count")
    parser.add_argument("--over", metavar="X,...", help="variables of the own law: params, tokens, batch; default: all")
    parser.add_argument("--fix", type=exponents, default={}, metavar="X=E,...", help="its given exponents: batch=0.3")
    parser.add_argument("--curved", metavar="X,...", default="", help="variables in which the own law may bend")
    parser.add_argument(
        "--drop-diverged",
        action="store_true",
        help="leave runs out whose loss is nan or inf; default: their rates are a wall, which no law may choose",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    from hptransfer.prediction.laws.own_law import OwnLaw
    from hptransfer.prediction.laws.score import Scoreboard, score_lr_laws
    from hptransfer.prediction.laws.sweep_table import read_table

    diverged: Diverged = "drop" if args.drop_diverged else "wall"
    table = read_table(args.table, columns=args.columns, diverged=diverged, where=args.where)
    own = OwnLaw(args.over.split(",") if args.over else None, args.fix, tuple(filter(None, args.curved.split(","))))
    board, joint = score_lr_laws(table, own=own), _joint(table)
    if args.json:
        show(json_text({**encode(board), "joint": encode(joint) if isinstance(joint, Scoreboard) else joint}))
        return 0
    walls = sum(len(cell.walls) for cell in table.cells)
    counts = f"{len(table.cells)} cells, {walls} diverged rates kept as walls, {table.dropped} runs dropped"
    show("\n".join([counts, *(f"Note: {note}" for note in table.notes), "", "Rate, the batch given:", str(board)]))
    show(f"Own fit: {_own_fit(table, own)}")
    show(f"\nRate and batch together:\n{joint}")
    return 0


def _joint(table: SweepTable) -> Scoreboard | str:
    """Scores where the law chooses the batch, too, or why there are none."""
    from hptransfer.prediction.laws.score import score_joint

    try:
        return score_joint(table)
    except UsageError as error:
        return f"not scored: {error}"


def _own_fit(table: SweepTable, own: OwnLaw) -> str:
    """The fit of this table's own optima in words, or why there is none."""
    from hptransfer.prediction.laws.lr_fit import fit_sweep

    try:
        return str(fit_sweep(table, over=own.over, fixed=own.fixed, curved=own.curved))
    except UsageError as error:
        return f"none. {error}"


def exponents(text: str) -> Mapping[str, float]:
    """ "batch=0.3,tokens=0" -> {"batch": 0.3, "tokens": 0.0}."""
    try:
        return {name: float(value) for name, value in pairs(text).items()}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write X=E with numbers E, as batch=0.3") from None
