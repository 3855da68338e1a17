"""Checks of the recipes on seeds that nobody had looked at, each run once and kept: benchmarks/recipes.json.

    python scripts/bench_recipes.py mlp --seeds 300,301,302
    python scripts/bench_recipes.py resnet --seeds 300,301,302 --quick --images /usr/share/datasets/fashion-mnist

A check is `hptransfer check recipes/NAME.py --seeds ... --no-coord`; an entry with the same name, seeds and options is
kept as it is, whatever it says. `--figure` writes the loss curves to docs/figures/NAME.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from hptransfer.core.training.recipe import load_recipe
from hptransfer.reporting.report.html import write_figure
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.transfer import transfer_check

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "benchmarks" / "recipes.json"
KEPT = ("verdict", "reasons", "axis", "sizes", "seeds", "steps", "optima", "drifts", "regrets", "loss_gaps")


def entry(name: str, result: TransferResult, seconds: float, options: dict[str, str]) -> dict[str, Any]:
    """The verdict and what it rests on, without the single runs."""
    data = result.to_json()
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    about = {"recipe": name, "options": options, "runs": len(result.runs), "seconds": round(seconds), **machine}
    return {**about, **{key: data[key] for key in KEPT}}


def check(
    name: str, seeds: list[int], options: dict[str, str], *, quick: bool, out: Path, workers: int
) -> TransferResult:
    """The transfer check of a recipe at its own grid."""
    for key, value in options.items():
        os.environ[f"HPTRANSFER_{key.upper()}"] = value
    recipe = load_recipe(str(ROOT / "recipes" / f"{name}.py"))
    grid: dict[str, Any] = {"widths": recipe.quickened().widths, "steps": recipe.quickened().steps} if quick else {}
    grid |= {"seeds": seeds, "out": out, "workers": workers, "device": "cpu"}
    return transfer_check(str(ROOT / "recipes" / f"{name}.py"), **grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--seeds", default="300,301,302")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", help="for resnet: a directory with MNIST's files")
    parser.add_argument("--runs", type=Path, default=Path("hptransfer-out/bench-recipes"))
    parser.add_argument("--figure", action="store_true", help="only write the figure")
    args = parser.parse_args()
    seeds = [int(part) for part in args.seeds.split(",")]
    options = {"images": args.images} if args.images else {}
    shown = {name: Path(value).name for name, value in options.items()} | ({"quick": "yes"} if args.quick else {})
    known = json.loads(PAGE.read_text()) if PAGE.exists() else []
    if not args.figure and any((e["recipe"], e["seeds"], e["options"]) == (args.recipe, seeds, shown) for e in known):
        raise SystemExit("These seeds are measured; take others.")
    begin = time.monotonic()
    out = args.runs / f"{args.recipe}-{args.seeds}"
    result = check(args.recipe, seeds, options, quick=args.quick, out=out, workers=args.workers)
    if args.figure:
        write_figure(result, ROOT / "docs" / "figures" / f"{args.recipe}.svg")
    else:
        known.append(entry(args.recipe, result, time.monotonic() - begin, shown))
        PAGE.write_text(json.dumps(known, indent=1) + "\n")
    print(result.verdict, *result.reasons, sep="\n")


if __name__ == "__main__":
    main()
