"""Drift of the optimal learning rate over depth at the base's width, CompleteP beside SP, on recipes/gpt.py.

    python scripts/bench_depth.py [--depths 2,4,8,16] [--seeds 100,101,102,103,104] [--runs hptransfer-out/gpt-depth]
    python scripts/bench_depth.py --steps 400 --seeds 200,201,202,203,204 --name depth-400 --runs hptransfer-out/d400

The same as `hptransfer check recipes/gpt.py --depths ...`: runs are kept in the directory and not made twice. Writes
the figures to benchmarks/NAME.json and the loss curves to docs/figures/NAME.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from hptransfer.core.files import encode
from hptransfer.reporting.report.html import write_figure
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.transfer import transfer_check
from hptransfer.validation.verdict.optimum import curve_of

ROOT = Path(__file__).parents[1]


def figures(result: TransferResult) -> dict[str, Any]:
    """The verdict and what it rests on, without the single runs; losses are means over seeds, in nats per byte."""
    kept = ("verdict", "reasons", "rule", "seeds", "steps", "optima", "drifts", "regrets", "loss_gaps", "environment")
    own = {"seeds": result.seeds, "axis": result.axis}
    curves = [curve_of(result.runs, scheme=o.scheme, size=o.size, **own) for o in result.optima]
    points = [
        {"scheme": c.scheme, "depth": c.size, "log2_lrs": c.log2_lrs.tolist(), "losses": encode(c.means.tolist())}
        for c in curves
    ]
    data = result.to_json()
    seconds = sum(run.seconds for run in result.runs)
    return {**{key: data[key] for key in kept}, "depths": result.sizes, "run_seconds": round(seconds), "curves": points}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--depths", default="2,4,8,16")
    parser.add_argument("--seeds", default="100,101,102,103,104")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=Path, default=Path("hptransfer-out/gpt-depth"))
    parser.add_argument("--name", default="depth")
    args = parser.parse_args()
    depths, seeds = ([int(part) for part in text.split(",")] for text in (args.depths, args.seeds))
    recipe = str(ROOT / "recipes" / "gpt.py")
    result = transfer_check(recipe, depths=depths, seeds=seeds, steps=args.steps, workers=args.workers, out=args.runs)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    body = {"command": " ".join(["scripts/bench_depth.py", *sys.argv[1:]]), **machine, **figures(result)}
    (ROOT / "benchmarks" / f"{args.name}.json").write_text(json.dumps(body, indent=1) + "\n")
    write_figure(result, ROOT / "docs" / "figures" / f"{args.name}.svg")
    print(result.verdict, *result.reasons, *map(str, result.drifts), sep="\n")


if __name__ == "__main__":
    main()
