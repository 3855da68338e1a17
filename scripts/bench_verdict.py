"""How often is the verdict right? Simulated checks of known curves and drifts, through the real search and judge.

    python scripts/bench_verdict.py --repeats 60 --seed 1 --out benchmarks/verdict.json

Each simulated check has three sizes, three seeds and both schemes. The loss is a known function of log2 of the learning
rate, whose optimum moves by the given number of octaves from the smallest size to the largest under the checked scheme,
and by one octave a doubling under the control, at the same tuned loss: every FAIL at no drift is a false one. A seed
moves a size's whole curve (2 units of noise), tilts it (half a unit an octave) and every run has noise of its own (one
unit); a unit is `noise` times the least rise one octave from the optimum. The grid's ends bound the coarse search.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import Grid, job_at
from hptransfer.validation.records.runs import Job, Key, Run
from hptransfer.validation.search.planner import GridPlanner, Planner
from hptransfer.validation.search.zoom import ZoomPlanner
from hptransfer.validation.verdict.comparisons import transferred_lr
from hptransfer.validation.verdict.judged import judged
from hptransfer.validation.verdict.optimum import Fit, curve_of
from tests.cases.curves import broad, cliff, convex, digits, language, wall

Array = np.ndarray
WIDTHS, SEEDS, TOLERANCE = (64, 128, 256), (0, 1, 2), 0.5
NOISES, DRIFTS = (0.1, 0.4, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)


def steep(u: Array) -> Array:
    return 2.0 + np.where(u < 0, 0.25 * np.abs(u) ** 1.5, 0.012 * u**2)


def flat(u: Array) -> Array:
    return 2.0 + 0.0 * u


SHAPES: dict[str, Callable[[Array], Array]] = {
    shape.__name__: shape for shape in (digits, language, convex, broad, wall, cliff, steep, flat)
}
"""Losses of u = log2(rate / best rate): a net on digits, a language model, a convex bound, and five that are hard."""


def rise(shape: Callable[[Array], Array]) -> float:
    """The least finite rise one octave from the optimum; of a flat curve, what a language model's is."""
    left, best, right = shape(np.array([-1.0, 0.0, 1.0]))
    least = float(min(left, right) - best)
    return least if least > 0 else rise(language)


@dataclass(frozen=True)
class World:
    """One simulated recipe. drift: octaves from the smallest size to the largest under the checked scheme."""

    shape: str
    noise: float
    drift: float
    number: int
    phase: float

    def best(self, job: Job) -> float:
        """log2 of the optimal rate."""
        doublings = math.log2((job.width or 1) / WIDTHS[0])
        moved = -doublings if job.scheme == "sp" else self.drift * doublings / math.log2(WIDTHS[-1] / WIDTHS[0])
        return self.phase + moved

    def loss(self, job: Job) -> float:
        """The validation loss of a run; both schemes are one at the smallest size."""
        unit = self.noise * rise(SHAPES[self.shape])
        scheme = "sp" if job.scheme == "sp" and job.width != WIDTHS[0] else "mup"
        u = math.log2(job.lr) - self.best(job)
        level, tilt = _normal(self, f"{scheme} {job.width} {job.seed}", 2)
        (jitter,) = _normal(self, f"{scheme} {job.width} {job.seed} {job.lr!r}", 1)
        floor = 0.02 * math.log2(WIDTHS[-1] / (job.width or 1))
        return float(SHAPES[self.shape](np.array(u))) + floor + unit * (2 * level + 0.5 * tilt * u + jitter)

    def run(self, job: Job) -> Run:
        """The record of a run."""
        loss = self.loss(job)
        gone = not math.isfinite(loss)
        state = "diverged" if gone else "complete"
        return Run(**vars(job), val_loss=loss, train_loss=loss, curve=(), diverged=gone, seconds=0.0, state=state)


def _normal(world: World, key: str, count: int) -> Array:
    name = f"{world.shape} {world.noise} {world.drift} {world.number} {key}"
    return np.random.default_rng([zlib.crc32(name.encode()), world.number]).standard_normal(count)


def searched(world: World, planner: Planner, grid: Grid) -> dict[Key, Run]:
    """All runs that the planner wants, and those of the transferred rates at the largest size."""
    runs: dict[Key, Run] = {}
    while jobs := planner.wanted(runs):
        runs |= {job.key: world.run(job) for job in jobs}
    for scheme in grid.schemes:
        small = fit_of(runs, scheme, WIDTHS[0])
        lr = transferred_lr(small)
        for seed in SEEDS if lr is not None else ():
            job = job_at(scheme, Scale(width=WIDTHS[-1]), lr=lr, seed=seed, steps=grid.steps, fingerprint="")
            runs.setdefault(job.key, world.run(job))
    return runs


def fit_of(runs: Mapping[Key, Run], scheme: str, width: int) -> Fit:
    return Fit.of(curve_of(runs.values(), scheme=scheme, size=width, seeds=SEEDS))


def check(world: World, search: str, *, alone: bool = False) -> dict[str, Any]:
    """What one simulated check ends with. alone: without the control, in half the time."""
    lrs = tuple(2.0**k for k in range(-4, 5))
    scales = tuple(Scale(width=width) for width in WIDTHS)
    grid = Grid(("mup",) if alone else ("mup", "sp"), scales, lrs, SEEDS, 100)
    planner = ZoomPlanner(grid, "") if search == "zoom" else GridPlanner(grid, "", extend=4.0)
    runs = searched(world, planner, grid)
    fits = {scheme: [fit_of(runs, scheme, width) for width in WIDTHS] for scheme in grid.schemes}
    found = judged(fits, scheme="mup", control=None if alone else "sp", tolerance=TOLERANCE, base=WIDTHS[0])
    drift = found.drifts[0]
    failing = [text for text in found.reasons] if found.verdict == "FAIL" else []
    return {
        "verdict": found.verdict,
        "covered": bool(drift.low <= world.drift <= drift.high) if math.isfinite(drift.low) else True,
        "half": drift.high - drift.octaves,
        "error": drift.octaves - world.drift,
        "runs": len(runs),
        "gap": any(not gap.ok for gap in found.loss_gaps),
        "why": _cause(failing[0] if failing else found.reasons[0]),
    }


def _cause(reason: str) -> str:
    """Which clause a reason belongs to."""
    marks = {"costs": "regret", "tuned loss less": "gap", "from the smallest": "between", "moves by": "drift"}
    return next((name for mark, name in marks.items() if mark in reason), reason[:40])


def cell(
    shape: str, noise: float, drift: float, *, repeats: int, seed: int, search: str, alone: bool
) -> dict[str, Any]:
    """Rates over the repeats of one (shape, noise, drift)."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{shape} {noise} {drift}".encode())])
    worlds = [World(shape, noise, drift, seed * 100_000 + k, float(rng.uniform(-0.5, 0.5))) for k in range(repeats)]
    ends = [check(world, search, alone=alone) for world in worlds]
    verdicts = [end["verdict"] for end in ends]
    causes: dict[str, int] = {}
    for end in ends:
        if end["verdict"] != "PASS":
            name = f"{end['verdict']} {end['why']}"
            causes[name] = causes.get(name, 0) + 1
    halves = [end["half"] for end in ends if math.isfinite(end["half"])]
    return {
        "shape": shape,
        "noise": noise,
        "drift": drift,
        "repeats": repeats,
        **{name.lower(): verdicts.count(name) / repeats for name in ("PASS", "FAIL", "INCONCLUSIVE")},
        "coverage": sum(end["covered"] for end in ends) / repeats,
        "half_width": round(float(np.median(halves)), 3) if halves else None,
        "rms_error": round(float(np.sqrt(np.nanmean([end["error"] ** 2 for end in ends]))), 3),
        "gap_worse": sum(end["gap"] for end in ends) / repeats,
        "runs": float(np.mean([end["runs"] for end in ends])),
        "causes": causes,
    }


def line(row: Mapping[str, Any]) -> str:
    rates = "  ".join(f"{name} {row[name]:.2f}" for name in ("pass", "fail", "inconclusive", "coverage", "gap_worse"))
    spread = f"half {row['half_width']}  rms {row['rms_error']}  runs {row['runs']:.0f}"
    return f"{row['shape']:9s} noise {row['noise']:<4} drift {row['drift']:<5} {rates}  {spread}  {row['causes']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the simulated worlds; reports use one not tuned on")
    parser.add_argument("--search", choices=("zoom", "grid"), default="zoom")
    parser.add_argument("--alone", action="store_true", help="without the control and its clause")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--noises", default=",".join(map(str, NOISES)))
    parser.add_argument("--drifts", default=",".join(map(str, DRIFTS)))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    noises, drifts = ([float(x) for x in text.split(",")] for text in (args.noises, args.drifts))
    options = {"repeats": args.repeats, "seed": args.seed, "search": args.search, "alone": args.alone}
    rows, began = [], time.monotonic()
    with ProcessPoolExecutor(args.workers) as pool:
        places = [(s, n, d) for s in args.shapes.split(",") for n in noises for d in (drifts if s != "flat" else [0.0])]
        for waiting in [pool.submit(cell, *place, **options) for place in places]:
            rows.append(waiting.result())
            print(line(rows[-1]), flush=True)
    seconds = round(time.monotonic() - began)
    if args.out:
        settings = {**options, "sizes": WIDTHS, "seeds": SEEDS, "tolerance": TOLERANCE, "seconds": seconds}
        args.out.write_text(json.dumps({"settings": settings, "cells": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
