"""Drift of the optimal learning rate over depth at fixed width, CompleteP against SP, on recipes/gpt.py.

python scripts/bench_depth.py [--depths 2,4,8,16] [--steps 100] [--seeds 2] [--out benchmarks/depth.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from hptransfer import load_recipe
from hptransfer.validation.optimum import Fit, curve_of, optima
from hptransfer.validation.sweep import run_sweep

RECIPE = Path(__file__).parent.parent / "recipes" / "gpt.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--depths", default="2,4,8,16")
    parser.add_argument("--schemes", default="completep,sp")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", default="benchmarks/depth.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(str(RECIPE)).replace(steps=args.steps, lrs=tuple(2.0**k for k in range(-10, -2)))
    depths = [int(d) for d in args.depths.split(",")]
    found = []
    for depth in depths:
        for scheme in args.schemes.split(","):
            scale = recipe.base.with_(depth=depth)
            runs = run_sweep(recipe, scales=[scale], schemes=(scheme,), seeds=args.seeds, workers=args.workers)
            curve = curve_of(runs, scheme=scheme, width=scale.width or 0, seeds=range(args.seeds))
            (optimum,) = optima([Fit.of(curve)])
            found.append({"depth": depth, **asdict(optimum), "curve": curve.means.tolist()})
            print(f"{scheme:10} depth {depth:2}: 2^{optimum.log2_lr:.2f}, loss {optimum.loss:.4f}", flush=True)
    drifts = {
        scheme: max(ends) - min(ends)
        for scheme in args.schemes.split(",")
        if (ends := [f["log2_lr"] for f in found if f["scheme"] == scheme])
    }
    print(f"range of the optimum over depth, octaves: {drifts}")
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    body = {"command": " ".join(sys.argv), **machine, "steps": args.steps, "drift_octaves": drifts, "optima": found}
    Path(args.out).write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
