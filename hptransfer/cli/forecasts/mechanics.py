"""Hold the theories that predictions rest on against simulations of the same small worlds."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import add_json, no_more
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import columns, encode, json_text

if TYPE_CHECKING:
    from hptransfer.mechanics.programme.check import Strand

PAGE_FILE = "mechanics.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="STRAND,...", help="default: all; an unknown one is told which there are")
    parser.add_argument("--seed", type=int, default=0, help="of the simulations; default: 0")
    parser.add_argument("--out", metavar="DIR", help=f"where {PAGE_FILE} goes; default: hptransfer-out/mechanics")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    from hptransfer.mechanics.programme.run import STRANDS, run_strand
    from hptransfer.reporting.mechanics_page import write_mechanics_page

    names = args.only.split(",") if args.only else list(STRANDS)
    unknown = sorted(set(names) - set(STRANDS))
    if unknown:
        raise UsageError(f"Unknown strand {', '.join(unknown)}; there are {', '.join(STRANDS)}.")
    began, strands = time.perf_counter(), []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        strands.append(run_strand(name, seed=args.seed))
    out = Path(args.out or Path("hptransfer-out") / "mechanics")
    out.mkdir(parents=True, exist_ok=True)
    page = write_mechanics_page(strands, out / PAGE_FILE)
    show(json_text(encode(strands)) if args.json else table(strands))
    failed = [check for strand in strands for check in strand.checks if not check.ok]
    seconds = time.perf_counter() - began
    verdict = f"{'FAIL' if failed else 'PASS'} in {seconds:.0f} s. Page: {page}"
    if args.json:
        print(verdict, file=sys.stderr)
    else:
        show(verdict)
    return 1 if failed else 0


def table(strands: list[Strand]) -> str:
    """Every check on a line, each strand under its question."""
    lines: list[str] = []
    for strand in strands:
        lines += ["", f"{strand.question}  ({strand.source})"]
        rows = [("", "predicted", "measured", "error", "allowed", "")] + [
            (c.quantity, f"{c.predicted:.4g}", f"{c.measured:.4g}", f"{c.error:.2%}", f"{c.tolerance:.0%}", _said(c.ok))
            for c in strand.checks
        ]
        lines += [f"  {line}" for line in columns(rows)]
        lines.append(f"  allowed because: {strand.reason}")
    return "\n".join(lines[1:])


def _said(ok: bool) -> str:
    return "ok" if ok else "FAIL"
