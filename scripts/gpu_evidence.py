"""What an accelerator shows, in one JSON: lanes against loop, overhead and memory per step, the check of gpt in bf16.

    python scripts/gpu_evidence.py [--device cuda] [--out benchmarks/gpu.json]       # about 7 minutes on one H100
    python scripts/gpu_evidence.py --device cpu --small --out /tmp/gpu.json          # a minute: does it run?

The check is recipes/gpt.py at widths 128 to 2048, heads of 64, bfloat16, the text of Python's own standard library,
4,096 bytes a step. Its settings were chosen before the first run. Each part is written as soon as it is known; runs are
kept in hptransfer-out/gpu, so that a second call goes on from there.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_overhead import measure as overhead
from bench_overhead import steppers

import hptransfer as hpt
from hptransfer.validation.engines.engine import measure
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.grid import grid_of

ROOT = Path(__file__).parents[1]
WIDTHS, SMALL_WIDTHS = (128, 256, 512, 1024, 2048), (64, 128)


def recipe_of(*, small: bool) -> hpt.Recipe:
    """recipes/gpt.py as large as one accelerator trains it in seconds."""
    os.environ["HPTRANSFER_HEAD_DIM"] = "32" if small else "64"
    recipe = hpt.load_recipe(str(ROOT / "recipes" / "gpt.py"))
    return recipe.replace(
        name="gpt-gpu",
        base=hpt.Scale(width=64 if small else 128, depth=2, batch=8 if small else 64),
        autocast=torch.bfloat16,
        steps=20 if small else 400,
        widths=SMALL_WIDTHS if small else WIDTHS,
        lrs=tuple(2.0**k for k in range(-12, -4)),
        seeds=2 if small else 3,
    )


def engines(recipe: hpt.Recipe, device: str) -> list[dict[str, Any]]:
    """Seconds per run by the loop and in lanes, at each width, in float32; eight steps, one validation batch."""
    recipe = recipe.replace(autocast=None)
    trainer = Trainer(recipe, device=device)
    rows: list[dict[str, Any]] = []
    for width in recipe.widths:
        jobs = grid_of(recipe, widths=[width], schemes=["mup"]).jobs("")
        probe = measure(trainer, jobs)
        rows.append({"width": width, **vars(probe), "lanes_faster_by": probe.loop_seconds / probe.lanes_seconds})
        print(rows[-1], flush=True)
    return rows


def memory(width: int, device: str) -> dict[str, int]:
    """Peak bytes of one training step, parametrized and plain; none are counted on CPU."""
    if not device.startswith("cuda"):
        return {}
    peaks: dict[str, int] = {}
    for name in ("plain", "plain again", "parametrized"):
        steps, _ = steppers(width, 4, 32, device)
        step = steps.pop(name)
        steps.clear()  # the others' weights go; each model is measured alone
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        peaks[name] = torch.cuda.max_memory_allocated()
        del step
        gc.collect()
    return peaks


def check(recipe: hpt.Recipe, device: str, out: Path, workers: int) -> dict[str, Any]:
    """The whole check of the recipe, and how long this call took."""
    began = time.perf_counter()
    result = hpt.transfer_check(recipe, device=device, out=out, workers=workers)
    print(result, flush=True)
    return {"seconds": time.perf_counter() - began, "workers": workers, "result": result.without_runs()}


def whole_checks(recipe: hpt.Recipe, device: str, workers: int) -> dict[str, Any]:
    """Seconds of the check in float32 at the smaller widths, by the loop alone and by whichever engine is faster."""
    small = recipe.replace(autocast=None, widths=recipe.widths[:3])
    seconds: dict[str, Any] = {"widths": small.widths, "workers": workers}
    for engine in ("loop", "auto"):
        began = time.perf_counter()
        result = hpt.transfer_check(small, device=device, workers=workers, engine=engine)
        seconds[engine] = time.perf_counter() - began
        seconds[f"{engine}_verdict"], seconds[f"{engine}_runs"] = result.verdict, len(result.runs)
        print(engine, seconds[engine], result.verdict, flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "gpu.json")
    parser.add_argument("--runs", type=Path, default=ROOT / "hptransfer-out" / "gpu")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--parts", nargs="*", help="only these; the others are kept as they are in --out")
    parser.add_argument("--small", action="store_true", help="tiny settings, to see whether it runs")
    args = parser.parse_args()
    recipe = recipe_of(small=args.small)
    width, rounds = (64, 5) if args.small else (1024, 100)
    parts: dict[str, Callable[[], Any]] = {
        "overhead": lambda: overhead(width, 4, 32, rounds, args.device),
        "memory": lambda: memory(width, args.device),
        "engines": lambda: engines(recipe, args.device),
        "whole_checks": lambda: whole_checks(recipe, args.device, args.workers),
        "check": lambda: check(recipe, args.device, args.runs, args.workers),
    }
    report: dict[str, Any] = json.loads(args.out.read_text("utf-8")) if args.parts and args.out.exists() else {}
    report |= {"command": " ".join(sys.argv), "device": name_of(args.device), "torch": torch.__version__}
    for part in args.parts or parts:
        made = parts[part]
        began = time.perf_counter()
        report[part] = made()
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def name_of(device: str) -> str:
    """The accelerator's name, or the platform."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.platform()


if __name__ == "__main__":
    main()
