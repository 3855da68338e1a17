"""Transfer results with a known answer: loss = floor + (log2 lr - best)^2 / 20, so that every figure can be checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hptransfer.validation.records.results import Drift, LossGap, Optimum, Regret, SizePair, TransferResult, Verdict
from hptransfer.validation.records.runs import Run

WIDTHS = (64, 128, 256, 512)
LRS = tuple(2.0**k for k in range(-11, -3))
SEEDS = (0, 1, 2)
BEST = {("sp", w): -6.8 - 0.7 * i for i, w in enumerate(WIDTHS)} | {("mup", w): -6.8 for w in WIDTHS}
FLOOR = {w: 0.12 - 0.01 * i for i, w in enumerate(WIDTHS)}


def run_at(scheme: str, width: int, lr: float, seed: int) -> Run:
    """A run of the known landscape; seeds shift the loss by 0.002. SP diverges at the two largest rates when wide."""
    distance = math.log2(lr) - BEST[scheme, width]
    diverged = scheme == "sp" and width >= 256 and lr >= 2**-5
    loss = (
        math.inf
        if diverged
        else (FLOOR[width] + 0.002 * (seed - 1)) * math.exp(distance**2 / (8 if distance > 0 else 6))
    )
    curve = ((50, 1.0), (100, 0.2))
    return Run(
        scheme, width, None, lr, seed, 100, loss, loss, curve, diverged, 0.2, "diverged" if diverged else "complete"
    )


def optimum_at(scheme: str, width: int) -> Optimum:
    best, floor = BEST[scheme, width], FLOOR[width]
    return Optimum(scheme, width, best, best - 0.2, best + 0.15, floor, floor - 0.002, floor + 0.002, False, 3)


def plan_json() -> dict[str, Any]:
    """A two-row plan as the report reads it."""
    row = {
        "name": "0.weight",
        "shape": [512, 64],
        "role": "input",
        "fan_in": 64,
        "fan_out": 512,
        "init_std": 0.07,
        "init_mult": 1.0,
        "lr_mult": 1.0,
        "wd_mult": 1.0,
        "eps_mult": 0.125,
        "fwd_mult": 1.0,
        "why": ["input: init 1, lr 1 (sign); 2203.03466 Table 8"],
    }
    head = row | {"name": "4.weight", "shape": [10, 512], "role": "readout", "fan_in": 512, "fan_out": 10}
    head |= {"init_mult": 0.125, "lr_mult": 0.125, "why": ["readout: init 1/m, lr 1/m (sign); <Table 8> & eq. 3"]}
    about = {"format": 1, "scheme": "mup", "hooks": [], "notes": ["one note"], "optimizers": [{"name": "AdamW"}]}
    return about | {"rows": [row, head]}


def result(verdict: Verdict = "PASS", **changes: Any) -> TransferResult:
    """A result over the known landscape."""
    found = TransferResult(
        recipe="mlp",
        scheme="mup",
        verdict=verdict,
        rule="PASS when drift <= 0.5 octaves, and regret and loss gaps lie within seed noise.",
        reasons=("mup: the optimum moved +0.03 octaves", "sp: the optimum moved -2.10 octaves"),
        axis="width",
        sizes=WIDTHS,
        lrs=LRS,
        seeds=SEEDS,
        steps=100,
        base_size=64,
        optima=tuple(optimum_at(s, w) for s in ("mup", "sp") for w in WIDTHS),
        drifts=(Drift("mup", 0.03, -0.12, 0.17), Drift("sp", -2.1, -2.31, -1.94)),
        regrets=(Regret("mup", 0.0004, -0.001, 0.0021, 2**-6.8), Regret("sp", 0.219, 0.188, 0.251, 2**-6.8)),
        loss_gaps=tuple(
            LossGap(w, 0.001 * i, 0.001 * i - 0.003, 0.001 * i + 0.003, 0.0041, True) for i, w in enumerate(WIDTHS)
        ),
        larger_is_better=(
            SizePair("mup", 2**-7, 64, 128, -0.011, -0.013, -0.009, True),
            SizePair("mup", 2**-7, 128, 256, 0.004, 0.002, 0.006, False),
        ),
        runs=tuple(run_at(s, w, lr, seed) for s in ("mup", "sp") for w in WIDTHS for lr in LRS for seed in SEEDS),
        plan=plan_json(),
        environment={"python": "3.11.7", "torch": "2.13.0", "machine": "x86_64, 2 cores", "device": "cpu"},
        command="hptransfer check recipes/mlp.py --widths 64,128,256,512",
        notes=("ran as <lanes>",),
    )
    return dataclasses.replace(found, **changes)
