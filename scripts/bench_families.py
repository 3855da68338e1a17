"""Every transformers family of tests/families, planned at widths 64, 128 and 256 and measured by the role oracle.

    python scripts/bench_families.py [--only llama,gpt2] [--out benchmarks/families.json]    # half an hour
    python scripts/bench_families.py --markdown        # the tables of docs/families.md, from the figures as they stand

The file is written after every family; with --only the others' figures are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from families import FAMILIES, WIDTHS, Heads  # pyright: ignore[reportMissingImports]
from families.trial import attempt  # pyright: ignore[reportMissingImports]

Row = dict[str, Any]
Try = tuple[str, Heads]
OUT = Path(__file__).parents[1] / "benchmarks" / "families.json"
LONGEST = 340
"""Characters of an error that the tables show."""


def machine() -> Row:
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def chosen(only: str, modes: str) -> list[Try]:
    """The families named, or all, in every head mode named. Exits with a message where one is unknown."""
    names = only.split(",") if only else list(FAMILIES)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        sys.exit(f"--only {','.join(unknown)}: unknown; there are {', '.join(FAMILIES)}.")
    return [(name, heads) for name in names for heads in FAMILIES[name].modes if heads in modes.split(",")]


def measured(tries: Sequence[Try], widths: Sequence[int], seeds: int) -> Iterator[Row]:
    """A row per family and head mode, printed as it comes."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name, heads in (bar := tqdm(tries, disable=None)):
        bar.set_description(f"{name} {heads}")
        row = asdict(attempt(FAMILIES[name], heads, widths=widths, seeds=seeds))
        seconds = " ".join(f"{row[key] or 0:6.1f}" for key in ("plan_seconds", "oracle_seconds"))
        shown = "" if row["verdict"] == "PASS" else _shortened(row["reason"])
        bar.write(f"{name:22} {heads:8} {row['verdict']:12} {seconds}  {shown}".rstrip(), file=sys.stdout)
        sys.stdout.flush()
        yield row


def merged(fresh: Sequence[Row], out: Path) -> list[Row]:
    """Fresh rows in place of the file's own, in the order of FAMILIES; families no longer listed are dropped."""
    known = json.loads(out.read_text())["families"] if out.exists() else []
    rows = {(row["family"], row["heads"]): row for row in [*known, *fresh]}
    order = [(name, heads) for name, family in FAMILIES.items() for heads in family.modes]
    return [rows[key] for key in order if key in rows]


def markdown(rows: Sequence[Row]) -> str:
    """Tables of what passes, by kind, then what fails, what is left open and what is refused, with the reasons."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    passed = [row for row in rows if row["verdict"] == "PASS"]
    lines = ["## Passes", "", "Seconds: build, trace and plan; then measure.", ""]
    for kind in kinds:
        own = [row for row in passed if row["kind"] == kind]
        modes = [mode for mode in _COLUMNS if mode != "fixed kv" or any(row["heads"] == mode for row in own)]
        lines += [
            f"### {kind}",
            "",
            f"| family | {' | '.join(_COLUMNS[m] for m in modes)} |",
            "|---" * len(modes) + "|---|",
        ]
        for name in dict.fromkeys(row["family"] for row in own):
            cells = {row["heads"]: _seconds(row) for row in own if row["family"] == name}
            lines.append(f"| {name} | {' | '.join(cells.get(mode, '') for mode in modes)} |")
        lines.append("")
    lines.pop()
    for title, verdicts in _TITLES.items():
        others = [row for row in rows if row["verdict"] in verdicts]
        if not others:
            continue
        lines += ["", f"## {title}", "", "| family | kind | heads | reason |", "|---|---|---|---|"]
        lines += [f"| {r['family']} | {r['kind']} | {r['heads']} | {_shortened(r['reason'])} |" for r in others]
    return "\n".join(lines) + "\n"


_COLUMNS = {"fixed": "fixed heads", "growing": "growing heads", "fixed kv": "growing heads, fixed kv"}
_TITLES = {
    "Fails": ("FAIL",),
    "Left open by noise": ("INCONCLUSIVE",),
    "Refused": ("REFUSED",),
    "Cannot be traced or built": ("UNTRACEABLE", "ERROR"),
}


def _seconds(row: Row) -> str:
    return f"{row['plan_seconds']:.1f}, {row['oracle_seconds']:.1f}"


def _shortened(reason: str) -> str:
    plain = " ".join(reason.split()).replace("|", "\\|").replace("<", "\\<")
    return plain if len(plain) <= LONGEST else plain[:LONGEST] + " ..."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="families, separated by commas")
    parser.add_argument("--heads", default=",".join(_COLUMNS), help="head modes, separated by commas")
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--seeds", type=int, default=2, help="up to four times as many where noise asks for it")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of the file's figures, measure nothing"
    )
    args = parser.parse_args()
    if args.markdown:
        print(markdown(json.loads(args.out.read_text())["families"]), end="")
        return
    widths = [int(width) for width in args.widths.split(",")]
    settings = {"machine": machine(), "widths": widths, "seeds": args.seeds}
    verdicts: Counter[str] = Counter()
    for row in measured(chosen(args.only, args.heads), widths, args.seeds):
        body = {"command": "scripts/bench_families.py", **settings, "families": merged([row], args.out)}
        args.out.write_text(json.dumps(body, indent=1) + "\n")
        verdicts[row["verdict"]] += 1
    print(", ".join(f"{verdict} {count}" for verdict, count in verdicts.items()))


if __name__ == "__main__":
    main()
