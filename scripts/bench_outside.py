"""The families of tests/outside, planned at three widths and measured by the role oracle, and the depth rule's trial.

    python scripts/bench_outside.py [--only timm-vit,pyg-gcn] [--out benchmarks/outside.json]     # an hour
    python scripts/bench_outside.py --depth [--only llama,timm-vit] [--out benchmarks/depth-families.json]
    python scripts/bench_outside.py --markdown        # the tables of docs/outside.md, from both files as they stand

A file is written after every family; with --only the others' figures are kept. A family whose package is not installed
is listed as such and not tried.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from families.trial import attempt  # pyright: ignore[reportMissingImports]
from outside import OUTSIDE, Outside  # pyright: ignore[reportMissingImports]
from outside.decoders import DECODERS  # pyright: ignore[reportMissingImports]
from outside.depth import DEPTHS, attempt_depth  # pyright: ignore[reportMissingImports]

Row = dict[str, Any]
Attempt = Callable[[Outside], Row]
ROOT = Path(__file__).parents[1] / "benchmarks"
WIDTHS, SEEDS, DEPTH_WIDTH = (32, 64, 128), 2, 64
LONGEST = 240
"""Characters of a reason that the tables show."""


def deepened() -> Mapping[str, Outside]:
    """What the depth rule is tried on: decoders of transformers, then every family here that has residual layers."""
    return {family.name: family for family in (*DECODERS, *OUTSIDE.values()) if family.deepens}


def by_width(family: Outside) -> Row:
    """The outcome of a plan over the width, held against the role oracle."""
    return {**asdict(attempt(family, "fixed", widths=WIDTHS, seeds=SEEDS)), "package": _distribution(family.package)}


def by_depth(family: Outside) -> Row:
    """The outcome of a plan over the depth, parameter by parameter, and the size of a step."""
    trial = attempt_depth(family.name, family.deep_builder(DEPTH_WIDTH), family.inputs())
    return {**asdict(trial), "kind": family.kind, "package": _distribution(family.package)}


def measured(families: Sequence[Outside], tried: Attempt) -> Iterator[Row]:
    """A row per family, printed as it comes; ABSENT where its package is not installed."""
    torch.set_num_threads(1)
    for family in (bar := tqdm(families, disable=None)):
        bar.set_description(family.name)
        absent = {"family": family.name, "kind": family.kind, "verdict": "ABSENT", "reason": family.absent}
        row = {**absent, "package": family.package} if family.absent else tried(family)
        shown = "" if row["verdict"] == "PASS" else _shortened(row["reason"])
        bar.write(f"{family.name:32} {row['verdict']:12} {_seconds(row):>14}  {shown}".rstrip(), file=sys.stdout)
        sys.stdout.flush()
        yield row


def merged(fresh: Row, out: Path, order: Sequence[str]) -> list[Row]:
    """The fresh row in place of the file's own, in this order; families no longer listed are dropped."""
    known = json.loads(out.read_text())["families"] if out.exists() else []
    rows = {row["family"]: row for row in [*known, fresh]}
    return [rows[name] for name in order if name in rows]


def markdown(widths: Sequence[Row], depths: Sequence[Row]) -> str:
    """Two tables: families by kind with their verdict and seconds, and the depth rule by parameter."""
    lines = ["## Over the width", ""]
    for kind in dict.fromkeys(row["kind"] for row in widths):
        rows = [row for row in widths if row["kind"] == kind]
        lines += [f"### {kind}", "", "| family | package | verdict | plan, verify | reason |", "|---|---|---|---|---|"]
        for row in rows:
            reason = "" if row["verdict"] == "PASS" else _shortened(row["reason"])
            lines.append(f"| {row['family']} | {row['package']} | {row['verdict']} | {_seconds(row)} | {reason} |")
        lines.append("")
    head = "| family | verdict | parameters | outlets | inside | without | hooks | step, one rate | step | reason |"
    lines += ["## Over the depth", "", head, "|---|---|---|---|---|---|---|---|---|---|"]
    lines += [_depth_line(row) for row in depths]
    return "\n".join(lines) + "\n"


def _depth_line(row: Row) -> str:
    reason = "" if row["verdict"] == "PASS" else _shortened(row["reason"])
    sizes = [row.get("layered"), row.get("outlet"), row.get("inside"), sum(row.get("without", {}).values())]
    measures = [row.get("hooks"), row.get("slope_without"), row.get("slope")]
    cells = [
        row["family"],
        row["verdict"],
        *("" if cell is None else str(cell) for cell in (*sizes, *measures)),
        reason,
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(row: Row) -> str:
    times = (row.get("plan_seconds"), row.get("oracle_seconds"))
    return ", ".join(f"{time:.1f}" for time in times if time is not None)


def _shortened(reason: str) -> str:
    plain = reason.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
    return textwrap.shorten(plain, LONGEST, placeholder=" ...")


def _distribution(package: str) -> str:
    """The package with its version where pip knows it by a name like its own."""
    for name in (package, package.replace("_", "-")):
        try:
            return f"{name} {version(name).partition('+')[0]}"
        except PackageNotFoundError:
            continue
    return package


def _run(args: argparse.Namespace) -> None:
    pool = deepened() if args.depth else OUTSIDE
    names = args.only.split(",") if args.only else list(pool)
    if unknown := [name for name in names if name not in pool]:
        sys.exit(f"--only {','.join(unknown)}: unknown; there are {', '.join(pool)}.")
    out = args.out or ROOT / ("depth-families.json" if args.depth else "outside.json")
    settings = {"depths": DEPTHS, "width": DEPTH_WIDTH} if args.depth else {"widths": WIDTHS, "seeds": SEEDS}
    machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    verdicts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in measured([pool[name] for name in names], by_depth if args.depth else by_width):
            body = {"command": "scripts/bench_outside.py", "machine": machine, **settings}
            out.write_text(json.dumps({**body, "families": merged(row, out, list(pool))}, indent=1) + "\n")
            verdicts[row["verdict"]] += 1
    print(", ".join(f"{verdict} {count}" for verdict, count in verdicts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="families, separated by commas")
    parser.add_argument("--depth", action="store_true", help="the depth rule's trial, not the width's")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--markdown", action="store_true", help="print the tables of both files, measure nothing")
    args = parser.parse_args()
    if args.markdown:
        files = (ROOT / "outside.json", ROOT / "depth-families.json")
        print(markdown(*(json.loads(file.read_text())["families"] for file in files)), end="")
        return
    _run(args)


if __name__ == "__main__":
    main()
